"""`lens`, on a running model, and `lens_store`, on what was harvested: the same figures of states."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from mmxai.errors import ArgumentError
from mmxai.methods.lens.archive import Archive
from mmxai.methods.lens.collect import Collector
from mmxai.methods.lens.passes import look
from mmxai.methods.lens.sources import Live, Source, Stored
from mmxai.methods.lens.states import Stack, State, Translator, states_of
from mmxai.methods.lens.targets import Asked, Targets, numbers_of
from mmxai.models.unembedding import Unembedding, unembedding

if TYPE_CHECKING:
    from mmxai.methods.lens.results import LensResult
    from mmxai.models import Model
    from mmxai.store import Store

KEEP = 65536
"""Rows of which a result keeps everything."""


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
    generate: int = 0,
    keep: int = KEEP,
    archive: str | Path | None = None,
    backend: str = "auto",
    seed: int = 0,
) -> LensResult:
    """The logit lens (nostalgebraist 2020) on a running model: states through final norm and unembedding.

    inputs: what `model.prepare` takes; samples given as they are run `batch` at a time. sites: default the
    residual stream of every block, from what enters the first (of a CLIP's pictures also the values `v`);
    `z` stands for every single head. tower:
    whose, by default the text tower of a language model, the vision tower of a CLIP. texts: of a CLIP the
    bank, texts or their embeddings. targets: "next", or tokens (texts of the bank, or numbers) of all
    samples, or sample -> tokens. unembed: another end than the model's own. translator: see `Translator`.
    generate: tokens that the model says behind each text are looked at, too.
    keep: rows that are kept in the result; averages are over all. archive: a folder for everything of all
    rows (see `Archive`).

    ArgumentError for sites that are no states of the stream or no such end of the model, UnknownSiteError.
    """
    unembed = unembed or unembedding(model, tower, texts)
    source = Live(model, inputs, batch, generate)
    return run(source, unembed, sites, targets, k, translator, keep, archive, backend, seed)


def lens_store(
    store: Store,
    end: Model | Unembedding,
    *,
    sites: str | Sequence[str] | None = None,
    tower: str | None = None,
    texts: Sequence[str] | torch.Tensor | None = None,
    targets: Asked = None,
    k: int = 5,
    unembed: Unembedding | None = None,
    translator: Translator | None = None,
    tokens: str | None = None,
    samples: int | None = None,
    batch: int = 512,
    keep: int = KEEP,
    archive: str | Path | None = None,
    backend: str = "auto",
    seed: int = 0,
) -> LensResult:
    """The lens on a store, `batch` rows at a time: as `lens`, but for what is named here.

    end: the model that was harvested, or its unembedding alone (`mmxai.models.unembedding.load_unembedding`),
    which tells no heads apart. sites: default the residual stream as far as it is stored. tokens: types of
    rows to look at, or "last". samples: the first so many alone. KL needs the last block's `resid_post` or
    `ln_final` in the store; the next token of a row the row behind it.
    """
    model, unembed = end_of(end, tower, texts, unembed)
    source = Stored(store, model, tokens=tokens, samples=samples, batch=batch)
    return run(source, unembed, sites, targets, k, translator, keep, archive, backend, seed)


def end_of(
    end: Model | Unembedding,
    tower: str | None,
    texts: Sequence[str] | torch.Tensor | None,
    unembed: Unembedding | None,
) -> tuple[Model | None, Unembedding]:
    """The model, where there is one, and its unembedding (where none is given)."""
    if isinstance(end, Unembedding):
        return None, end
    return end, unembed or unembedding(end, tower, texts)


def run(
    source: Source,
    unembed: Unembedding,
    sites: str | Sequence[str] | None,
    targets: Asked,
    k: int,
    translator: Translator | None,
    keep: int,
    archive: str | Path | None,
    backend: str,
    seed: int,
) -> LensResult:
    """The lens on any source."""
    if k < 1 or keep < 1:
        raise ArgumentError(f"lens: got k={k}, keep={keep}, expected at least 1 of each")
    states, space = chosen_states(source, unembed, sites)
    end = final_site(source.widths, unembed, space, source.space_of)
    stack = Stack(states, unembed, translator)
    asked = Targets(targets, unembed, numbers_of(source.model, unembed))
    names = [s.name for s in states]
    collector = Collector(source.name, unembed, names, asked, keep, end is not None, seed)
    kept = None if archive is None else Archive(archive, names, unembed, asked.names)
    reads = list(dict.fromkeys([*stack.sites, *(() if end is None else (end,))]))
    for seen in source.read(reads, space):
        if not len(seen.rows):
            continue
        last = None if end is None else (seen.acts[end], end.rpartition(".")[2])
        wanted = asked.of(seen.rows, seen.following)
        found = look(stack, seen.acts, wanted, last, k=k, backend=backend)
        collector.add(found, seen.rows, wanted, seen.samples)
        if kept is not None:
            kept.add(found, seen.rows, wanted)
    return collector.result()


def chosen_states(
    source: Source, unembed: Unembedding, sites: str | Sequence[str] | None
) -> tuple[list[State], str]:
    """The states of `sites` (default: of the stream), and their row space, which must be one."""
    found = source.resolve(sites or default_sites(source.widths, unembed))
    states = states_of(found, source.widths, unembed, source.model)
    spaces = sorted({source.space_of(s.site) for s in states})
    if len(spaces) > 1:
        raise ArgumentError(f"lens: got sites of row spaces {spaces}, expected those of one at a time")
    return states, spaces[0]


def default_sites(sites: Mapping[str, int], unembed: Unembedding) -> list[str]:
    """What enters the first block, and what leaves each; of a CLIP's pictures also the values, by which its
    patches reach the class token: their own states are made for no text."""
    tower = unembed.tower
    every = [s for s in sites if s.startswith(f"{tower}.") and s.endswith(".resid_post")]
    first = f"{tower}.0.resid_pre"
    found = [*([first] if first in sites else []), *every]
    if not found:
        raise ArgumentError(
            f"lens: got no {tower}.*.resid_post among {len(sites)} sites ({', '.join(list(sites)[:4])} ...), "
            "expected some, or sites= that say what to look at"
        )
    if unembed.bank is not None and tower == "vision":
        found += [s for s in sites if s.startswith(f"{tower}.") and s.endswith(".v")]
    return found


def final_site(
    sites: Mapping[str, int], unembed: Unembedding, space: str, space_of: Callable[[str], str]
) -> str | None:
    """Where the last block's output is read for every row of a space; None where it cannot be."""
    last = [] if unembed.blocks is None else [f"{unembed.tower}.{unembed.blocks - 1}.resid_post"]
    # The stream first: all states then go through one call of the same norm.
    for site in (*last, f"{unembed.tower}.ln_final", f"{unembed.tower}.embeds"):
        if site in sites and space_of(site) == space:
            return site
    return None
