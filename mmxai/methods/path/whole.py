"""Mean-ablation in the live model: what decisions lose where later blocks, too, see the mean."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch

from mmxai.capture.hooks import Edit
from mmxai.errors import ArgumentError
from mmxai.methods.path.ablation import Ablation, ablation, classes_of, controls, indices
from mmxai.methods.path.path import Path
from mmxai.models import edits
from mmxai.types import ROW_COLUMNS, TOKEN_CODES

_TYPE = ROW_COLUMNS.index("token_type")


def ablate_whole(
    path: Path,
    batches: Callable[[], Iterable[Any]],
    texts: torch.Tensor,
    labels: Mapping[int, int] | torch.Tensor,
    sets: Mapping[str, Sequence[str]],
    *,
    draws: int = 3,
    seed: int = 0,
) -> Ablation:
    """As `ablate`, by runs of the model with heads and MLPs set to their means at every token.

    batches: of what `model.prepare` takes, samples numbered; gone through once for means, once with nothing
    replaced, and once a set and draw. texts: float `[K, out]`. sets: of heads and MLPs (and biases, which
    are the same in every row).
    """
    chosen = {name: indices(path, terms) for name, terms in sets.items()}
    drawn = controls(path, chosen, draws, seed)
    trials = [t for name in chosen for t in (chosen[name], *drawn[name])]
    named = [[path.terms[i].name for i in t] for t in trials]
    sites = {site for terms in named for site in _columns(path, terms)}
    means = token_means(path, batches(), [s for s in path.sites if s in sites]) if sites else {}
    right, rows = np.zeros(1 + len(named), np.int64), 0
    for trial, terms in enumerate([[], *named]):
        rows = 0
        held = mean_edits(path, terms, means)
        with path.model.intervene(held) if held else nullcontext():
            for inputs in batches():
                batch = path.read(inputs)
                known = classes_of(batch, labels)
                decided = (batch["output"] @ texts.to(batch["output"]).T).argmax(1).cpu()
                right[trial] += int((decided == known)[known >= 0].sum())
                rows += int((known >= 0).sum())
    if not rows:
        raise ArgumentError("ablate: got no row with a label, expected some")
    return ablation("whole model", rows, len(texts), right / rows, chosen)


def token_means(path: Path, batches: Iterable[Any], sites: Sequence[str]) -> dict[str, torch.Tensor]:
    """The mean row float32 `[width]` of each site over all tokens but padding."""
    total: dict[str, Any] = dict.fromkeys(sites, 0)
    count = 0
    for inputs in batches:
        run = path.model.run(inputs, capture=sites, stop=True)
        keep = run.rows[path.tower][..., _TYPE] != TOKEN_CODES["pad"]
        for site in sites:
            total[site] = total[site] + run.acts[site][keep.to(run.acts[site].device)].double().sum(0)
        count += int(keep.sum())
    if not count:
        raise ArgumentError("token_means: got no token, expected one at least")
    return {site: (t / count).float().cpu() for site, t in total.items()}


def mean_edits(path: Path, terms: Sequence[str], means: Mapping[str, torch.Tensor]) -> dict[str, Edit]:
    """Edits for `model.intervene` that set heads and MLPs to their means at every token.

    terms: names of heads (`vision.3.z.2`) and MLPs (`vision.3.mlp_post`); biases need no edit. means: site ->
    mean row `[width]`, from `token_means`, or `store.stats[site].mean` of a harvest of all tokens.
    """
    columns = _columns(path, terms)
    if missing := [site for site in columns if site not in means]:
        raise ArgumentError(f"mean_edits: got no means of {', '.join(missing)}, expected a mean row of each")
    return {s: edits.mean(own, torch.as_tensor(means[s]).float()[own]) for s, own in columns.items()}


def _columns(path: Path, terms: Sequence[str]) -> dict[str, list[int]]:
    """Site -> the columns that these heads and MLPs are."""
    found: dict[str, list[int]] = {}
    for term in (path.terms[i] for i in indices(path, terms)):
        if term.kind in ("bias", "norm"):  # the same in every row: it is its mean
            continue
        if term.kind not in ("head", "mlp"):
            raise ArgumentError(f"mean_edits: got {term.name}, a {term.kind}, expected heads and MLPs")
        site = term.name.rpartition(".")[0] if term.head is not None else term.name
        width, heads = path.model.width_of(site), path.model.heads_of(site)
        own = range(width) if term.head is None else edits.head_columns([term.head], heads or 1, width)
        found.setdefault(site, []).extend(own)
    return found
