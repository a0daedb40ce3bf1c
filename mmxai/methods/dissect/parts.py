"""A range of a site's units, which a pass counts at once, and what comes of all ranges of a site."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from mmxai.concepts import Concepts
from mmxai.methods.dissect.config import DissectConfig
from mmxai.methods.dissect.controls import control, of_pairs
from mmxai.methods.dissect.counts import Counts
from mmxai.methods.dissect.forms import Forms
from mmxai.methods.dissect.results import Dissection
from mmxai.methods.dissect.sources import Source
from mmxai.methods.dissect.tally import Tally
from mmxai.methods.dissect.thresholds import Keep, Threshold


@dataclass
class Part:
    """A range of a site's units, its controls, and what was found of it."""

    site: str
    own: Source
    rotated: Source | None
    keep: Keep | None
    norm: float | None
    excluded: float
    chosen: dict[str, Tally] = field(default_factory=dict)
    scored: dict[str, Tally] = field(default_factory=dict)
    thresholds: dict[str, Threshold] = field(default_factory=dict)
    candidates: np.ndarray | None = None
    levels: torch.Tensor | None = None
    forms: Forms | None = None

    @property
    def name(self) -> str:
        return f"{self.site}@{self.own.start}"

    def source(self, kind: str) -> Source:
        if kind != "rotated":
            return self.own
        assert self.rotated is not None
        return self.rotated


def dissection(
    site: str, parts: Sequence[Part], concepts: Concepts, config: DissectConfig, unannotated: int
) -> Dissection:
    """What the parts of a site come to."""
    chosen = Counts.joined([p.chosen["own"].counts for p in parts])
    apart = config.held_out > 0
    last = [p.scored if apart else p.chosen for p in parts]
    scored = Counts.joined([t["own"].counts for t in last]) if apart else chosen
    candidates = np.concatenate([p.candidates for p in parts if p.candidates is not None])
    low = high = np.full(candidates.shape, np.nan)
    if config.bootstrap:
        resampled = [t["own"].bootstrap for t in last]
        pairs = [b.interval(config.confidence) for b in resampled if b is not None]
        low, high = (np.concatenate(side) for side in zip(*pairs, strict=True))
    value, bound = _auprc(last)
    top = _top([p.chosen["own"] for p in parts], [t["own"] for t in last] if apart else None, config.top)
    ceiling = last[0]["own"].ceiling
    assert ceiling is not None
    own = parts[0]
    made = Dissection(
        site, own.own.units.kind, concepts.concepts, concepts.categories, config.mode, config.area,
        np.concatenate([p.thresholds["own"].values.numpy() for p in parts]), own.thresholds["own"].how,
        candidates, of_pairs(scored, config.area, candidates), low, high, config.confidence,
        ceiling.values(), *top, chosen, scored, config.held_out, {}, config.detector, config.min_fired,
        unannotated, own.excluded, own.norm, auprc=value, auprc_bound=bound,
        forms=Forms.joined([p.forms for p in parts if p.forms is not None]),
    )  # fmt: skip
    for kind, told in _CONTROLS.items():
        if kind in parts[0].chosen:
            mine = Counts.joined([p.chosen[kind].counts for p in parts])
            theirs = Counts.joined([t[kind].counts for t in last]) if apart else mine
            made.controls[kind] = control(kind, told, mine, theirs, config.area, config.min_fired)
    return made


def _auprc(last: Sequence[Mapping[str, Tally]]) -> tuple[np.ndarray, np.ndarray] | tuple[None, None]:
    """Areas under curves and their bounds, `[U, R]`; None where they were not asked for."""
    held = [t["own"].curves.auprc() for t in last if t["own"].curves is not None]
    if not held:
        return None, None
    value, bound = (np.concatenate(side) for side in zip(*held, strict=True))
    return value, bound


_CONTROLS = {"shuffled": "labels of other pictures", "rotated": "random directions of the same space"}


def _top(first: Sequence[Tally], second: Sequence[Tally] | None, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows and values of the highest pictures of either side, `[U, k]`."""
    if not k:
        units = sum(t.source.count for t in first)
        return np.zeros((units, 0), np.int64), np.zeros((units, 0), np.float32)
    held = [t.top for t in first if t.top is not None]
    rows, values = (torch.cat([getattr(t, n) for t in held]) for n in ("rows", "values"))
    if second is not None:
        other = [t.top for t in second if t.top is not None]
        values = torch.cat([values, torch.cat([t.values for t in other])], 1)
        rows = torch.cat([rows, torch.cat([t.rows for t in other])], 1)
        values, order = values.sort(dim=1, descending=True, stable=True)
        values, rows = values[:, :k], rows.gather(1, order)[:, :k]
    return rows.numpy(), values.numpy()
