"""One prompt or picture, what is asked of it, and the maps to make: counted before anything runs."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from mmxai.errors import ArgumentError
from mmxai.methods.trace import answers, notes
from mmxai.methods.trace.findings import Findings, Map, Shows, Side
from mmxai.methods.trace.metrics import TokenMetric
from mmxai.methods.trace.prefilter import Prefiltered
from mmxai.methods.trace.studies import study
from mmxai.methods.trace.types import ATTENTION, Cell, Mode, Span

if TYPE_CHECKING:
    from PIL import Image

    from mmxai.methods.trace.results import TraceResult
    from mmxai.methods.trace.studies import Study
    from mmxai.methods.trace.types import Corruption
    from mmxai.models.inputs import Inputs
    from mmxai.models.metrics import Metric
    from mmxai.models.model import Model

KINDS = ("resid_post", "attn_out", "mlp_out")
NAMES = {
    "resid_post": "the residual stream", "attn_out": "attention outputs", "mlp_out": "MLP outputs",
    ATTENTION: "attention",
}  # fmt: skip
BUDGET = 2**30


@dataclass(frozen=True)
class Wanted:
    """A map to make: a kind of site in windows of blocks, at spans. See `findings.Map` for the rest."""

    title: str
    about: str
    shows: Shows
    kind: str
    spans: Sequence[Span]
    labels: Sequence[str]
    blocks: int
    window: int = 1
    places: Sequence[tuple[int, int, int]] = ()
    side: int = 1
    random: Sequence[int] = ()
    control_of: str = ""

    @property
    def mode(self) -> Mode:
        return "patch" if self.kind == ATTENTION else "restore"

    @property
    def starts(self) -> range:
        """First blocks of its windows."""
        return range(self.blocks - self.window + 1)

    def cells(self, first: int) -> list[Cell]:
        """Its cells, block by block; `first`: the number of its first span."""
        return [
            Cell(self.kind, block, first + s, self.window)
            for block in self.starts
            for s in range(len(self.spans))
        ]

    @property
    def tower(self) -> str:
        return self.spans[0].space


@dataclass
class Part:
    """A clean and a corrupted run, what is measured, and the maps made of them."""

    clean: Inputs
    corruption: Corruption
    metric: TokenMetric | Metric
    wanted: list[Wanted]


@dataclass(frozen=True)
class Planned:
    """Maps of one part that one study of the engine makes, in the order of its cells."""

    part: Part
    wanted: list[Wanted]
    study: Study | Prefiltered

    @property
    def cells(self) -> int:
        """How many of them are run."""
        return self.study.runs_cells if isinstance(self.study, Prefiltered) else len(self.study.cells)


@dataclass
class Question:
    """A study, ready to run. picture, corrupted: what the page shows of pictures."""

    model: Model
    asked: str
    score: str
    parts: list[Part]
    picture: Image.Image | None = None
    corrupted: Image.Image | None = None
    where: np.ndarray | None = None
    tiles: list[dict[str, Any]] = field(default_factory=list)
    facts: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    budget: int = BUDGET

    @property
    def cells(self) -> int:
        return sum(len(w.cells(0)) for part in self.parts for w in part.wanted)

    def studies(self, keep: int | None = None) -> list[Planned]:
        """What the engine runs: of each part the maps of one tower and mode together.

        keep: how many cells are run, those of the largest effect by attribution patching, which alone
        estimates the others; None: all are run. Blocked attention is always run.
        """
        found: list[Planned] = []
        for part in self.parts:
            groups: dict[tuple[str, str], list[Wanted]] = {}
            for w in part.wanted:
                groups.setdefault((w.tower, w.mode), []).append(w)
            for group in groups.values():
                one = self._study(part, group)
                if keep is None or group[0].mode == "patch":
                    found.append(Planned(part, group, one))
                    continue
                own = max(1, keep * len(one.cells) // self.cells)
                found.append(Planned(part, group, Prefiltered(one, own)))
        return found

    def _study(self, part: Part, group: Sequence[Wanted]) -> Study:
        spans: list[Span] = []
        cells: list[Cell] = []
        for w in group:
            cells += w.cells(len(spans))
            spans += w.spans
        mode = group[0].mode
        return study(
            self.model, part.clean, part.corruption if mode == "restore" else None, metric=part.metric,
            spans=spans, cells=cells, mode=mode, budget=self.budget,
        )  # fmt: skip

    def run(
        self,
        studies: Sequence[Planned] | None = None,
        *,
        progress: Callable[[int, int], None] | None = None,
        keep: Path | None = None,
    ) -> Findings:
        """Make the maps. studies: those of `studies()`, whose first runs are made already. progress: called
        with the cells done, and all that are run. keep: a folder for states and values, from which a stopped
        run goes on."""
        began, forwards, maps = time.perf_counter(), 0, []
        studies = self.studies() if studies is None else studies
        whole, before, found = sum(p.cells for p in studies), 0, []
        for number, p in enumerate(studies):
            told = None if progress is None else _further(progress, before, whole)
            found.append((p.part, p.wanted, p.study.run(progress=told, keep=_of(keep, number))))
            before += p.cells
        totals = {id(p): float(r.total.mean()) for p, g, r in found if g[0].mode == "restore"}
        for part, group, result in found:
            forwards += result.forwards
            at = 0
            for w in group:
                count = len(w.starts) * len(w.spans)
                maps.append(_map(w, result, range(at, at + count), totals.get(id(part))))
                at += count
        maps.sort(key=lambda m: [w.title for p in self.parts for w in p.wanted].index(m.title))
        first = next(r for p, g, r in found if p is self.parts[0] and g[0].mode == "restore")
        clean, corrupted = self._sides(self.parts[0], first)
        size = None if self.picture is None else self.picture.size
        said = notes.other_answer(self.model, self.parts[0].metric, clean)
        return Findings(
            self.model.name, self.asked, self.score, self.parts[0].corruption.what, clean, corrupted,
            len(first.base), maps, self.tiles, size, self.facts,
            [*self.notes, *said, *notes.weak(first)], forwards,
            time.perf_counter() - began,
        )  # fmt: skip

    def _sides(self, part: Part, result: TraceResult) -> tuple[Side, Side]:
        sides = []
        made = part.corruption(self.model, part.clean, range(part.clean.batch_size))
        runs: list[tuple[Inputs, Any]] = [(part.clean, {}), (made.inputs, made.edits)]
        for values, (inputs, edit) in zip((result.other, result.base), runs, strict=True):
            tokens: list[tuple[str, float]] = []
            if isinstance(part.metric, TokenMetric):
                tokens = answers.likeliest(self.model, inputs, self.model.run(inputs, edit=edit).out.logits)
            drawn = np.array([values[i].mean() for i in result.resamples(1000)])
            low, high = np.quantile(drawn, (0.025, 0.975)) if len(values) > 1 else (np.nan, np.nan)
            sides.append(Side(float(values.mean()), float(low), float(high), tokens))
        return sides[0], sides[1]


def _of(keep: Path | None, number: int) -> Path | None:
    """The folder of one study among several."""
    return None if keep is None else keep / str(number)


def _further(progress: Callable[[int, int], None], before: int, whole: int) -> Callable[[int, int], None]:
    """Progress of one study among several."""
    return lambda done, of: progress(before + done, whole)


def map_of(
    w: Wanted, values: np.ndarray, bounds: tuple[np.ndarray, np.ndarray], estimated: np.ndarray
) -> Map:
    """A map of `[cells]` values in the order of `Wanted.cells`."""
    shape = (len(w.starts), len(w.spans))
    low, high = (b.reshape(shape) for b in bounds)
    return Map(
        w.title, w.about, w.shows, w.kind, w.window, w.tower, list(w.labels), values.reshape(shape), low,
        high, estimated.reshape(shape), list(w.places), w.side, list(w.random), w.control_of,
    )  # fmt: skip


def _map(w: Wanted, result: TraceResult, cells: range, total: float | None) -> Map:
    index = list(cells)
    blank = np.full(len(index), np.nan)
    if w.kind == ATTENTION:
        if total is None:
            raise ArgumentError(
                f"map {w.title!r}: a knockout is a share of what a corruption takes, got none"
            )
        # What is lost, as a share of what the corruption takes.
        lost = (result.base.mean() - result.value[index].mean(1)) / total
        return map_of(w, lost, (blank, blank), np.zeros(len(index), bool))
    estimated = np.zeros(len(result.cells), bool) if result.estimated is None else result.estimated
    values, bounds = result.recovered()[index], (blank, blank)
    if len(result.base) > 1:
        found = result.interval(index)
        bounds = (np.array([i.low for i in found]), np.array([i.high for i in found]))
    return map_of(w, values, bounds, estimated[index])


def spans_of(groups: Sequence[torch.Tensor], names: Sequence[str], space: str) -> list[Span]:
    """Groups bool `[T]` of the one sample of a study, as spans."""
    return [Span(name, group[None], space) for name, group in zip(names, groups, strict=True)]


def window_of(asked: int | None, blocks: int, kind: str) -> int:
    """Blocks restored together: the stream carries what it was given, other kinds only add to it, so that of
    these several are restored (a fifth of the blocks, as in ROME's figures, unless asked otherwise)."""
    if asked is not None and not 1 <= asked <= blocks:
        raise ArgumentError(f"--window: got {asked}, expected 1 to {blocks}, the tower's blocks")
    return 1 if kind == "resid_post" else asked or max(1, blocks // 5)
