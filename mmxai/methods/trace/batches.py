"""Which cells run together, from where on, and how: batches within a budget, or a forward a cell."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from mmxai.methods.trace.cellwise import one
from mmxai.methods.trace.edits import edits_of, handlers_of
from mmxai.methods.trace.judge import TokenJudge
from mmxai.methods.trace.types import ATTENTION, Cell

if TYPE_CHECKING:
    from mmxai.methods.trace.runs import Runs


@dataclass(frozen=True)
class Batch:
    """Cells (their numbers, by entry block) that run rows from `start` on."""

    start: int
    cells: tuple[int, ...]


class Batches:
    """The cells of a study on some runs.

    unchanged: cells whose rows are the same in both runs, so that nothing need run. batches: of the others,
    those that resume in the middle. whole: those that take a whole forward each, and in `how` why.
    row_blocks: rows x blocks that the batches compute.
    """

    def __init__(self, runs: Runs, quick: bool = True):
        self.runs = runs
        self.how: dict[str, str] = {}
        self.unchanged: list[int] = []
        self.whole: list[int] = []
        resumed: list[tuple[int, int, int]] = []
        cells = runs.study.cells
        firsts = self._firsts()
        for i, cell in enumerate(cells):
            reason = "asked for" if not quick else self._reason(cell)
            if firsts[cell.span] is None and quick:
                self.unchanged.append(i)
            elif reason is not None:
                self.whole.append(i)
                self.how[f"a forward a cell ({cell.kind})"] = reason
            else:
                row = firsts[cell.span] or 0
                resumed.append((runs.recording.start(row), cell.block or 0, i))
        self.batches = list(self._packed(sorted(resumed)))
        self.row_blocks = sum(
            runs.width * (runs.length - b.start) * (len(runs.recording.blocks) - (cells[i].block or 0))
            for b in self.batches
            for i in b.cells
        )
        self.finishing = sum(runs.width * len(b.cells) for b in self.batches)
        if resumed:
            alone = " and the first row that can differ" if runs.recording.keys else ""
            self.how["batched"] = f"{len(resumed)} cells resume at their block{alone}"
            if not runs.recording.keys:
                self.how["no prefix reused"] = f"attention of {runs.study.tower} does not show its keys"
        if self.unchanged:
            self.how["not run"] = (
                f"{len(self.unchanged)} cells put in what is there already: both runs are the same there"
            )

    @property
    def forwards(self) -> int:
        return len(self.batches) + len(self.whole)

    @property
    def most(self) -> int:
        """The most cells in a batch."""
        return max((len(b.cells) for b in self.batches), default=1)

    def run(self, done: frozenset[int] = frozenset()) -> Iterator[tuple[list[int], np.ndarray]]:
        """(numbers of cells, float64 `[cells, S]`) as they are found, of those that are not done."""
        for batch in self.batches:
            if left := tuple(i for i in batch.cells if i not in done):
                yield list(left), self._run(Batch(batch.start, left))
        for i in self.whole:
            if i not in done:
                yield [i], one(self.runs, self.runs.study.cells[i])[None]

    def _run(self, batch: Batch) -> np.ndarray:
        runs = self.runs
        cells = [runs.study.cells[i] for i in batch.cells]
        states = runs.recording.replay(
            runs.study.model,
            [c.block or 0 for c in cells],
            batch.start,
            edits_of(runs, cells, batch.start),
            handlers_of(runs, cells, batch.start),
            every=runs.judge.every(runs.study.tower),
        )
        values = runs.judge.finished(runs.study.model, states, batch.start, runs.recording, runs.inputs)
        return values.double().cpu().numpy().reshape(len(cells), runs.count)

    def _firsts(self) -> list[int | None]:
        """Of each span the first row that a cell can change, over the samples; None where it changes none."""
        runs, found = self.runs, []
        for span in runs.study.spans:
            mask = runs.mask(span.mask)
            # Blocked attention puts no values in: it tells wherever there are queries.
            rows = (mask if span.keys is not None else mask & runs.differs).any(0)
            found.append(int(rows.int().argmax()) if bool(rows.any()) else None)
        return found

    def _reason(self, cell: Cell) -> str | None:
        """Why a cell cannot resume in the middle; None: it can."""
        recording = self.runs.recording
        if cell.block is None:
            return "not a site of a block"
        if recording.reason is not None:
            return recording.reason
        if later := [site for site in self.runs.edits if not self._recorded(site, cell.block)]:
            return f"the corruption changes {later[0]}, which is computed anew behind block {cell.block}"
        sites = self.runs.study.model.sites()
        within = [s for s in self.runs.judge.needs if s in sites and s.split(".")[1].isdigit()]
        if within:
            return f"the metric reads {within[0]}, a site of a block"
        if cell.kind == "pattern":
            return "a pattern has all keys of a forward"
        if cell.kind == ATTENTION and not recording.keys:
            return f"attention of {self.runs.study.tower} does not show its keys"
        return None

    def _recorded(self, site: str, block: int) -> bool:
        """Is an edit of a site in the states from which a cell resumes at a block?"""
        if site.startswith("module:"):
            return False
        tower, _, rest = site.partition(".")
        if tower != self.runs.study.tower:
            # Of what a language tower reads, nothing runs again where logits are all that is asked for.
            return self.runs.study.tower == "text" and isinstance(self.runs.judge, TokenJudge)
        number, _, kind = rest.partition(".")
        if not number.isdecimal():
            return rest == "embed"
        return int(number) < block or (int(number) == block and kind == "resid_pre")

    def _packed(self, resumed: Sequence[tuple[int, int, int]]) -> Iterator[Batch]:
        """Cells in order of (row, block), as many in a batch as the budget lets: of one row."""
        at = 0
        while at < len(resumed):
            start = resumed[at][0]
            most = max(1, int(self._left() // self._bytes_of_a_cell(start)))
            group = [r for r in resumed[at : at + most] if r[0] == start]
            yield Batch(start, tuple(i for _, _, i in group))
            at += len(group)

    def _left(self) -> int:
        runs = self.runs
        held = runs.recording.nbytes + sum(x.numel() * x.element_size() for x in runs.held())
        return max(0, runs.study.budget - held)

    def _bytes_of_a_cell(self, start: int) -> int:
        """What a cell adds to a batch at its widest: a block's activations, attention, or logits."""
        runs = self.runs
        dims = runs.recording.tower.dims
        rows, length = runs.length - start, runs.length
        size = torch.tensor([], dtype=runs.study.model.dtype).element_size()
        inside = rows * (8 * dims.model + 3 * dims.mlp + 3 * dims.q) + 4 * length * dims.kv
        inside += 3 * dims.heads * rows * length
        logits = rows * dims.model * size
        if runs.judge.every(runs.study.tower):
            logits += 2 * length * dims.model * dims.blocks * size
        vocabulary = getattr(runs.recording.tower.config, "vocab_size", 0)
        if isinstance(runs.judge, TokenJudge):
            logits += 3 * 4 * runs.judge.metric.rows.shape[1] * vocabulary
        elif (readout := runs.recording.tower.spec.readout) is not None and readout.logits:
            logits += 3 * 4 * length * vocabulary
        return runs.width * max(size * inside, logits)
