"""Many cells: all estimated by attribution patching, the most promising run exactly.

The estimate of a cell adds up what putting in its values does to first order, over the rows of its span, the
columns of its heads and the blocks of its window. Cells that block attention have none and are always run.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from mmxai.errors import ArgumentError
from mmxai.methods.trace.attribution import effects_of
from mmxai.methods.trace.results import TraceResult
from mmxai.methods.trace.runs import Runs
from mmxai.methods.trace.studies import Predicted, Study
from mmxai.methods.trace.types import ATTENTION, Cell

DEFAULT_ABOVE = 1000
"""Studies of more cells are prefiltered unless said otherwise."""


class Prefiltered:
    """A study of which the `keep` cells of the largest estimated effect are run, the others estimated alone.

    Takes the place of a `Study`: `predict`, `run`.
    """

    def __init__(self, study: Study, keep: int = DEFAULT_ABOVE // 2):
        if keep < 1:
            raise ArgumentError(f"prefilter: got keep={keep}, expected how many cells to run, at least 1")
        self.study, self.keep = study, keep

    @cached_property
    def _estimated(self) -> tuple[np.ndarray, np.ndarray, float]:
        """Effects `[cells, samples]` (NaN: no estimate), the cells to run, and the seconds that took."""
        began = time.perf_counter()
        effects = estimate(self.study)
        size = np.abs(effects.mean(1))
        best = np.argsort(-np.where(np.isnan(size), np.inf, size), kind="stable")
        chosen = max(self.keep, int(np.isnan(size).sum()))
        return effects, np.sort(best[:chosen]), time.perf_counter() - began

    @cached_property
    def _exact(self) -> Study:
        own, (_, chosen, _) = self.study, self._estimated
        cells = [own.cells[i] for i in chosen]
        return Study(
            own.model,
            own.clean,
            own.corruption,
            own.metric,
            own.spans,
            cells,
            own.mode,
            own.values,
            own.budget,
        )

    @property
    def runs_cells(self) -> int:
        """How many cells are run."""
        return len(self._estimated[1])

    def predict(self) -> Predicted:
        """Makes the estimates, which `run` then uses, and says what the rest will cost beside them."""
        exact = self._exact.predict()
        share = exact.share * len(self._exact.cells) / len(self.study.cells)
        seconds = exact.seconds + self._estimated[2]
        return replace(exact, cells=len(self.study.cells), share=share, seconds=seconds)

    def run(
        self, progress: Callable[[int, int], None] | None = None, keep: str | Path | None = None
    ) -> TraceResult:
        """Every cell's effect; `estimated` says which were not run. Arguments as of `Study.run`."""
        effects, chosen, seconds = self._estimated
        exact = self._exact.run(progress=progress, keep=keep)
        value = exact.base + effects
        value[chosen] = exact.value
        estimated = np.ones(len(self.study.cells), dtype=bool)
        estimated[chosen] = False
        left = int(estimated.sum())
        how = {
            **exact.how,
            "prefilter": f"{left:,} of {len(estimated):,} cells estimated by attribution patching",
        }
        return replace(
            exact, cells=self.study.cells, value=value, estimated=estimated, how=how,
            seconds=exact.seconds + seconds,
        )  # fmt: skip


def estimate(study: Study) -> np.ndarray:
    """First-order effects of a study's cells, float64 `[cells, samples]`; NaN of cells that block attention.

    Costs two forwards and a forward with backward of all samples, whose sites are held.
    """
    pieces, order = [], []
    for samples in study.chunks:
        runs = Runs(study, samples)
        pieces.append(_of(study, runs))
        order.append(runs.order)
    return np.concatenate(pieces, axis=1)[:, np.argsort(np.concatenate(order), kind="stable")]


def _of(study: Study, runs: Runs) -> np.ndarray:
    shapes = {site: study.model.width_of(site) for site in runs.sites}
    full = (runs.width, runs.length)
    states = {site: runs.source(site).expand(*full, width) for site, width in shapes.items()}
    found = np.full((len(study.cells), runs.count), np.nan)
    if not states:
        return found
    _, effects, _ = effects_of(study.model, runs.inputs, runs.judge.metric, states, edit=runs.edits)
    masks: dict[int, torch.Tensor] = {}
    for number, cell in enumerate(study.cells):
        if cell.kind == ATTENTION:
            continue
        if cell.span not in masks:
            masks[cell.span] = runs.mask(study.spans[cell.span].mask)
        found[number] = (
            _sum(study, effects, cell, masks[cell.span]).unflatten(0, (runs.copies, -1)).sum(0).numpy()
        )
    return found


def _sum(study: Study, effects: dict[str, torch.Tensor], cell: Cell, mask: torch.Tensor) -> torch.Tensor:
    """float64 `[sequences]`."""
    total = torch.zeros(len(mask), dtype=torch.float64)
    for site in cell.sites(study.tower):
        effect = effects[site].cpu().double()
        units = effect if cell.heads is None else effect[..., list(cell.heads)]
        total += (units.sum(-1) * mask).sum(1)
    return total
