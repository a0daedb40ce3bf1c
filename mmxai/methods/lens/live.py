"""`lens`: what every block of a running model would say if it were the last."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch

from mmxai.errors import ArgumentError
from mmxai.methods.lens.collect import Collector
from mmxai.methods.lens.states import Stack, Translator, states_of
from mmxai.methods.lens.targets import Asked, Targets, numbers_of, shifted
from mmxai.models.feeds import samples_of
from mmxai.models.inputs import Inputs
from mmxai.models.metrics import number_samples
from mmxai.models.unembedding import Unembedding, unembedding
from mmxai.types import ROW_COLUMNS, TOKEN_CODES, Rows

if TYPE_CHECKING:
    from mmxai.methods.lens.results import LensResult
    from mmxai.models import Model
    from mmxai.models.inputs import Encoded

_TYPE, _SAMPLE = ROW_COLUMNS.index("token_type"), ROW_COLUMNS.index("sample")


def lens(
    model: Model,
    inputs: Any,
    *,
    sites: str | Sequence[str] | None = None,
    tower: str | None = None,
    texts: Sequence[str] | torch.Tensor | None = None,
    targets: Asked = None,
    k: int = 5,
    unembed: Unembedding | None = None,
    translator: Translator | None = None,
    batch: int = 8,
    keep: int = 65536,
    backend: str = "auto",
    seed: int = 0,
) -> LensResult:
    """The logit lens (nostalgebraist 2020) on a running model: states through final norm and unembedding.

    inputs: what `model.prepare` takes; samples given as they are run `batch` at a time. sites: default the
    residual stream of every block, from what enters the first; `z` stands for every single head. tower:
    whose, by default the text tower of a language model, the vision tower of a CLIP. texts: of a CLIP the
    bank, texts or their embeddings. targets: "next", or tokens (texts of the bank, or numbers) of all
    samples, or sample -> tokens. unembed: another end than the model's own. translator: see `Translator`.
    keep: rows that are kept in the result; averages are over all.

    ArgumentError for sites that are no states of the stream or no such end of the model, UnknownSiteError.
    """
    if unembed is None:
        unembed = unembedding(model, tower, texts)
    if batch < 1 or k < 1 or keep < 1:
        raise ArgumentError(f"lens: got batch={batch}, k={k}, keep={keep}, expected at least 1 of each")
    chosen = model.resolve(sites or default_sites(model.sites(), unembed.tower))
    states = states_of(chosen, model.sites(), unembed, model)
    spaces = sorted({model.space_of(s.site) for s in states})
    if len(spaces) > 1:
        raise ArgumentError(f"lens: got sites of row spaces {spaces}, expected those of one at a time")
    end = final_site(model.sites(), unembed, spaces[0], model.space_of)
    stack = Stack(states, unembed, translator)
    asked = Targets(targets, unembed, numbers_of(model, unembed))
    collector = Collector(
        model.name, unembed, [s.name for s in states], asked, k, keep, end is not None, seed
    )
    reads = [*stack.sites, *(() if end is None else (end,))]
    for given, known in _batches(model, inputs, batch, unembed.tower):
        run = model.run(given, capture=reads, stop=True)
        table = run.rows[spaces[0]]
        kept = table[..., _TYPE] != TOKEN_CODES["pad"]
        rows = Rows(table[kept])
        acts = {site: run.acts[site][kept.to(run.acts[site].device)] for site in reads}
        last = None if end is None else (acts[end], end.rpartition(".")[2])
        collector.add(stack, acts, rows, asked.of(rows, shifted(rows)), last, backend)
        collector.know(known)
    return collector.result()


def default_sites(sites: Any, tower: str) -> list[str]:
    """What enters the first block, and what leaves each."""
    every = [s for s in sites if s.startswith(f"{tower}.") and s.endswith(".resid_post")]
    first = f"{tower}.0.resid_pre"
    return [*([first] if first in sites else []), *every]


def final_site(sites: Any, unembed: Unembedding, space: str, space_of: Callable[[str], str]) -> str | None:
    """Where the last block's output is read for every row of a space; None where it cannot be."""
    blocks = [
        int(s.split(".")[1]) for s in sites if s.startswith(f"{unembed.tower}.") and s.endswith(".resid_post")
    ]
    last = [f"{unembed.tower}.{max(blocks)}.resid_post"] if blocks else []
    # The stream first: its norm is then the same call for all states, to the last bit.
    for site in (*last, f"{unembed.tower}.ln_final", f"{unembed.tower}.embeds"):
        if site in sites and space_of(site) == space:
            return site
    return None


def _batches(
    model: Model, inputs: Any, size: int, tower: str
) -> Iterator[tuple[Inputs, dict[int, dict[str, Any]]]]:
    """Inputs with what is known of their samples, numbered in their order."""
    ready = isinstance(inputs, Inputs | torch.Tensor)
    if ready or (isinstance(inputs, dict) and not {"image", "text"} & set(inputs)):
        given = model.prepare(inputs)
        if not isinstance(inputs, Inputs):
            number_samples(given, 0)
        yield given, {}
        return
    samples = samples_of(inputs)
    if not samples:
        raise ArgumentError("lens: got no samples, expected one at least")
    for start in range(0, len(samples), size):
        encoded = [model.encode(s).at(start + i) for i, s in enumerate(samples[start : start + size])]
        yield model.collate(encoded), {e.index or 0: about(e) for e in encoded}


def about(encoded: Encoded) -> dict[str, Any]:
    """What a page needs to show a sample."""
    return {"text": encoded.text, "size": encoded.size, "tiles": encoded.tiles}
