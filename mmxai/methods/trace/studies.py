"""A study: what is run clean and corrupted, where it is intervened, and what is measured."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from mmxai.errors import ArgumentError
from mmxai.methods.trace import spans as find_spans
from mmxai.methods.trace.batches import Batches
from mmxai.methods.trace.corruptions import corruption_of
from mmxai.methods.trace.keeping import Kept, Part
from mmxai.methods.trace.metrics import TokenMetric
from mmxai.methods.trace.results import TraceResult
from mmxai.methods.trace.runs import Runs
from mmxai.methods.trace.types import ATTENTION, Cell, Corruption, Mode, Replace, Span
from mmxai.methods.trace.values import Values
from mmxai.models.metrics import Metric
from mmxai.models.model import Model

Method = Literal["quick", "cellwise"]
BUDGET = 2**30
HEADED = ("q", "k", "v", "z", ATTENTION)


@dataclass(frozen=True)
class Predicted:
    """What a study will cost. forwards: batches. share: of the work of one forward a cell. seconds: by the
    rate at which the clean and the corrupted run went. batch: the most cells in one. bytes: the budget."""

    cells: int
    samples: int
    forwards: int
    share: float
    seconds: float
    batch: int
    bytes: int

    def __str__(self) -> str:
        return (
            f"{self.cells:,} cells x {self.samples} samples in {self.forwards:,} forwards of up to "
            f"{self.batch} cells, {self.share:.0%} of the work of a forward a cell; about "
            f"{self.seconds:.3g} s"
        )


class Study:
    """Made by `study`. `run` it; `predict` says beforehand what that costs."""

    def __init__(
        self,
        model: Model,
        clean: Any,
        corruption: Corruption | None,
        metric: TokenMetric | Metric,
        spans: Sequence[Span],
        cells: Sequence[Cell],
        mode: Mode,
        values: Values,
        budget: int,
    ):
        self.model, self.clean, self.corruption, self.metric = model, clean, corruption, metric
        self.spans, self.cells, self.mode, self.values = list(spans), list(cells), mode, values
        self.budget = budget
        self.tower = _tower(model, self.spans, self.cells)
        _check(self)

    @property
    def draws(self) -> int:
        return 1 if self.corruption is None else self.corruption.draws

    @cached_property
    def chunks(self) -> list[list[int]]:
        """The samples, as many at a time as the budget lets their states be held: half of it."""
        each = Runs.bytes_of_a_sample(self)
        most = int(self.budget / 2 // each)
        if most < 1:
            raise ArgumentError(
                f"budget: got {self.budget / 2**20:,.0f} MiB, expected {2 * each / 2**20:,.0f} at least: the "
                "states of one sample are kept at every site of the cells; raise it, or trace fewer kinds or "
                "draws"
            )
        count = self.clean.batch_size
        parts = -(-count // most)
        return [list(map(int, part)) for part in np.array_split(np.arange(count), parts)]

    @cached_property
    def _first(self) -> Runs:
        """The first chunk's clean and corrupted runs."""
        return Runs(self, self.chunks[0])

    def predict(self) -> Predicted:
        """Runs the first samples clean and corrupted, whose states `run` then uses."""
        runs = self._first
        batches = Batches(runs)
        scale = self.clean.batch_size / len(runs.samples)
        whole = runs.row_blocks * max(1, len(self.cells))
        work = batches.row_blocks + len(batches.whole) * runs.row_blocks
        seconds = work * runs.seconds_per_row_block + batches.finishing * runs.seconds_to_finish
        return Predicted(
            cells=len(self.cells),
            samples=self.clean.batch_size * self.draws,
            forwards=round(batches.forwards * scale),
            share=work / whole,
            seconds=seconds * scale,
            batch=batches.most,
            bytes=self.budget,
        )

    def run(
        self,
        method: Method = "quick",
        progress: Callable[[int, int], None] | None = None,
        keep: str | Path | None = None,
    ) -> TraceResult:
        """Every cell's effect. method: "quick", or "cellwise": one forward a cell, the specification.

        progress: called with cells done and cells in all (of all samples). keep: a folder for the clean and
        corrupted states and the cells' values; a study that was interrupted goes on from there.
        """
        began = time.perf_counter()
        kept = None if keep is None else Kept(keep, self)
        parts: list[Part] = []
        forwards = done = 0
        how: dict[str, str] = {}
        for number, samples in enumerate(self.chunks):
            known = None if kept is None else kept.load(number)
            if known is not None and known.complete:
                parts.append(known)
                how["kept"] = f"values that {keep} had already"
            else:
                runs = self._first if number == 0 else Runs(self, samples)
                part, count = self._cells(runs, number, method, kept, known, how, progress, done)
                parts.append(part)
                forwards += count + runs.forwards
                if number == 0:
                    self.__dict__.pop("_first", None)
            done += len(self.cells)
            if progress is not None:
                progress(done, len(self.cells) * len(self.chunks))
        order = np.argsort(np.concatenate([p.order for p in parts]), kind="stable")

        def whole(pieces: Iterable[np.ndarray], axis: int = 0) -> np.ndarray:
            return np.concatenate(list(pieces), axis=axis).take(order, axis=axis)

        return TraceResult(
            metric=getattr(self.metric, "name", type(self.metric).__name__),
            mode=self.mode,
            replace=self.values.replace,
            tower=self.tower,
            corruption="no corruption" if self.corruption is None else self.corruption.what,
            cells=self.cells,
            spans=[s.name for s in self.spans],
            value=whole((p.value for p in parts), 1),
            base=whole(p.base for p in parts),
            other=whole(p.other for p in parts),
            prompt=whole(p.prompt for p in parts),
            draw=whole(p.draw for p in parts),
            how=how,
            forwards=forwards,
            seconds=time.perf_counter() - began,
        )

    def _cells(
        self, runs: Runs, number: int, method: Method, kept: Kept | None, known: Part | None,
        how: dict[str, str], progress: Callable[[int, int], None] | None, before: int,
    ) -> tuple[Part, int]:  # fmt: skip
        """The cells of some samples that are not known yet; and how many forwards that took."""
        batches = Batches(runs, quick=method == "quick")
        how |= batches.how
        part = runs.part(np.full((len(self.cells), runs.count), np.nan))
        if kept is not None:
            if known is not None:
                kept.check(known, runs)
                part.value[:] = known.value
            kept.states(runs)
        part.value[batches.unchanged] = runs.base
        done = frozenset(np.flatnonzero(~np.isnan(part.value).any(1)).tolist())
        finished, forwards = len(done), 0
        try:
            for cells, found in batches.run(done):
                part.value[cells] = found
                finished, forwards = finished + len(cells), forwards + 1
                if kept is not None:
                    kept.save(number, part, now=False)
                if progress is not None and finished < len(self.cells):
                    progress(before + finished, len(self.cells) * len(self.chunks))
        finally:
            if kept is not None:
                kept.save(number, part)
        return part, forwards


def study(
    model: Model,
    clean: Any,
    corrupted: Any = None,
    *,
    metric: TokenMetric | Metric,
    kinds: Sequence[str] = ("resid_pre",),
    blocks: Sequence[int] | None = None,
    spans: Sequence[Span] | None = None,
    cells: Sequence[Cell] | None = None,
    window: int = 1,
    heads: bool = False,
    mode: Mode = "restore",
    replace: Replace = "other",
    means: Mapping[str, torch.Tensor] | None = None,
    sigma: float = 3.0,
    budget: int = BUDGET,
    seed: int = 0,
) -> Study:
    """Plan a trace: interventions at every kind x window of blocks x span.

    clean: prompts as `model.prepare` takes them. corrupted: the counterfactual likewise, or a `Corruption`
    (`Noise`, `Replaced`); None where nothing of another run is needed (zero, mean, ...). metric: of answers
    (`probability`, `logit_difference`, ...), or any `mmxai.models.metrics.Metric`.

    kinds: of sites with blocks, "attention" (spans then say what may not be read), or sites without a block
    ("embed"). blocks: first blocks (default: all). spans: default every position of the text. cells: in place
    of kinds, blocks and window. window: that many blocks from the first on, at once. heads: cells of
    single heads (of `q k v z`, "attention").

    mode: "restore" runs corrupted inputs and puts clean values in, "patch" runs clean ones and puts others
    in. replace: "other" (the other run's values), or in "patch" also "zero", "mean" (of `means`, site ->
    `[D]`; default: over all rows of the clean samples), "resample" (another sample's values at the same
    rows), "noise" (Gaussian, `sigma` standard deviations of the site's clean values).
    budget: bytes that recorded states and batches may take; how many cells go into a batch follows.

    Raises UnknownSiteError, naming the nearest site, and ArgumentError.
    """
    prepared = model.prepare(clean)
    corruption = None if corrupted is None else corruption_of(model, prepared, corrupted)
    chosen = find_spans.positions(prepared) if spans is None else list(spans)
    if cells is None:
        cells = grid(model, chosen, kinds, blocks, window, heads)
    values = Values(replace, means, sigma, seed)
    return Study(model, prepared, corruption, metric, chosen, cells, mode, values, budget)


def trace(
    model: Model, clean: Any, corrupted: Any = None, *, metric: TokenMetric | Metric,
    method: Method = "quick", **options: Any,
) -> TraceResult:  # fmt: skip
    """`study(...)`, run. Arguments as of `study`; method as of `Study.run`."""
    return study(model, clean, corrupted, metric=metric, **options).run(method)


def grid(
    model: Model,
    spans: Sequence[Span],
    kinds: Sequence[str],
    blocks: Sequence[int] | None = None,
    window: int = 1,
    heads: bool = False,
) -> list[Cell]:
    """Every kind x first block x span (x head). Windows are whole: the last ends with the last block."""
    if not spans:
        raise ArgumentError("trace: got no spans, expected one at least")
    tower = model.towers.get(spans[0].space)
    count = tower.dims.blocks if tower is not None else 0
    if tower is not None and not 1 <= window <= count:
        raise ArgumentError(f"window: got {window}, expected 1 to {count}, the blocks of {tower.name}")
    firsts = list(range(count - window + 1)) if blocks is None else [int(b) for b in blocks]
    made = []
    for kind in kinds:
        alone = tower is None or f"{tower.name}.{kind}" in tower.sites or kind.startswith("module:")
        several: list[tuple[int, ...] | None] = [None]
        if heads and tower is not None and kind in HEADED:
            number = tower.dims.kv_heads if kind in ("k", "v") else tower.dims.heads
            several = [(h,) for h in range(number)]
        for first in [None] if alone else firsts:
            made += [
                Cell(kind, first, s, 1 if alone else window, h) for s in range(len(spans)) for h in several
            ]
    return made


def _tower(model: Model, spans: Sequence[Span], cells: Sequence[Cell]) -> str:
    spaces = {spans[c.span].space for c in cells if 0 <= c.span < len(spans)}
    if len(spaces) != 1 or any(not 0 <= c.span < len(spans) for c in cells):
        raise ArgumentError(
            f"trace: got cells in row spaces {sorted(spaces)} and {len(spans)} spans, expected cells of "
            "spans of one row space; trace towers one after the other"
        )
    return spaces.pop()


def _check(study: Study) -> None:
    model, tower, clean = study.model, study.tower, study.clean
    rows = find_spans.table(clean, tower)
    for span in study.spans:
        for mask in (span.mask, span.keys):
            if mask is not None and mask.shape != rows.shape[:2]:
                raise ArgumentError(
                    f"span {span.name!r}: got a mask {tuple(mask.shape)}, expected "
                    f"{tuple(rows.shape[:2])}, the rows of {tower}"
                )
    if study.mode not in ("restore", "patch"):
        raise ArgumentError(f'mode: got {study.mode!r}, expected "restore" or "patch"')
    if study.mode == "restore" and (study.corruption is None or study.values.replace != "other"):
        raise ArgumentError(
            f"restore: got corrupted={study.corruption} and replace={study.values.replace!r}, expected a "
            'corrupted run whose values are replaced by the clean ones; mode="patch" puts other values '
            "into the clean run"
        )
    blocking = [c.kind == ATTENTION for c in study.cells]
    if study.values.replace == "other" and study.corruption is None and not all(blocking):
        raise ArgumentError('replace: got "other" and no corrupted inputs, expected some to take values from')
    if any(blocking) and study.mode == "restore":
        raise ArgumentError('attention: got mode="restore", expected "patch": the clean run loses attention')
    model.resolve({s for c in study.cells for s in c.sites(tower)} or {next(iter(model.sites()))})
    bound = model.towers.get(tower)
    for cell in study.cells:
        _check_cell(study, cell, None if bound is None else bound.dims.blocks)


def _check_cell(study: Study, cell: Cell, blocks: int | None) -> None:
    if (
        cell.block is not None
        and blocks is not None
        and not 0 <= cell.block <= cell.block + cell.window - 1 < blocks
    ):
        raise ArgumentError(
            f"{cell.kind}: got blocks {cell.block} to {cell.block + cell.window - 1}, expected 0 to "
            f"{blocks - 1}"
        )
    if (cell.kind == ATTENTION) != (study.spans[cell.span].keys is not None):
        raise ArgumentError(
            f"{cell.kind}: got span {study.spans[cell.span].name!r}, expected spans.attention(queries, keys) "
            "for attention that is blocked, and spans without keys for everything else"
        )
    if cell.kind == ATTENTION and cell.block is None:
        raise ArgumentError("attention: got no block, expected the first of a window")
    if cell.heads is None:
        return
    bound = study.model.towers.get(study.tower)
    number = None if bound is None else bound.dims.heads
    if cell.kind != ATTENTION:
        number = study.model.heads_of(cell.sites(study.tower)[0])
        if cell.kind == "pattern":
            number = None
    if number is None or not cell.heads or any(not 0 <= h < number for h in cell.heads):
        raise ArgumentError(
            f"{cell.kind}: got heads {cell.heads}, expected some of 0 to {(number or 1) - 1} of q, k, v, z "
            "or attention, which have heads"
        )
