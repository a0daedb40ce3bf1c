"""`CellLabels` and `BlockLabels`: which labels the pixels of each cell of a grid have.

A label is a **column** of what is counted: a concept, or an area, such as that of the pictures in which a
category is annotated: a label that all their pixels have.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch.nn.functional import pad

from mmxai.errors import ArgumentError


@dataclass(frozen=True, eq=False)
class CellLabels:
    """Compressed sparse rows: cell t owns the entries `offsets[t]` to `offsets[t + 1]`.

    `columns` int32 `[E]`, ascending within a cell; `counts` int32 `[E]`, how many of the cell's pixels have
    that label; `offsets` int64 `[T + 1]`.
    """

    offsets: torch.Tensor
    columns: torch.Tensor
    counts: torch.Tensor

    def __post_init__(self) -> None:
        kinds = (self.offsets.dtype, self.columns.dtype, self.counts.dtype)
        shapes = (self.offsets.ndim, self.columns.ndim, self.counts.ndim)
        if kinds != (torch.int64, torch.int32, torch.int32):
            raise ArgumentError(f"cell labels: got {kinds}, expected int64 offsets, int32 columns and counts")
        if shapes != (1, 1, 1) or len(self.offsets) < 1 or len(self.columns) != len(self.counts):
            raise ArgumentError(
                f"cell labels: got offsets {tuple(self.offsets.shape)}, columns {tuple(self.columns.shape)}, "
                f"counts {tuple(self.counts.shape)}, expected (T + 1,), (E,), (E,)"
            )

    @property
    def rows(self) -> int:
        """How many cells."""
        return len(self.offsets) - 1

    @cached_property
    def width(self) -> int:
        """One more than the largest column."""
        return int(self.columns.max()) + 1 if len(self.columns) else 0

    @classmethod
    def cat(cls, pieces: Sequence[CellLabels]) -> CellLabels:
        """The cells of `pieces` after one another: of several pictures, to stand beside their rows."""
        if not pieces:
            raise ArgumentError("cell labels: got no pieces, expected at least one")
        offsets, start = [pieces[0].offsets[:1]], 0
        for piece in pieces:
            offsets.append(piece.offsets[1:] + start)
            start += len(piece.columns)
        columns, counts = (torch.cat([getattr(p, name) for p in pieces]) for name in ("columns", "counts"))
        return cls(torch.cat(offsets), columns, counts)

    def take(self, index: torch.Tensor) -> CellLabels:
        """The cells `index` int64 `[N]`, in that order; -1 is a cell without labels."""
        if index.dtype != torch.int64 or index.ndim != 1:
            raise ArgumentError(
                f"cell labels: index is {index.dtype} of shape {tuple(index.shape)}, expected (N,) of int64"
            )
        if len(index) and (int(index.min()) < -1 or int(index.max()) >= self.rows):
            raise ArgumentError(
                f"cell labels: got cells {int(index.min())} to {int(index.max())}, expected -1 to "
                f"{self.rows - 1}"
            )
        sizes = pad(self.offsets.diff(), (0, 1))[index]
        offsets = pad(sizes.cumsum(0), (1, 0))
        shift = self.offsets[index.clamp(min=0)] - offsets[:-1]
        entries = torch.arange(int(offsets[-1]), device=index.device) + shift.repeat_interleave(sizes)
        return CellLabels(offsets, self.columns[entries], self.counts[entries])

    def to(self, device: torch.device | str) -> CellLabels:
        return CellLabels(self.offsets.to(device), self.columns.to(device), self.counts.to(device))

    def cells(self) -> torch.Tensor:
        """The cell of every entry, int64 `[E]`."""
        return torch.arange(self.rows, device=self.offsets.device).repeat_interleave(self.offsets.diff())

    def present(self) -> torch.Tensor:
        """The columns that have pixels here, ascending, int64 `[P]`."""
        return self.columns.unique().long()

    def dense(self, present: torch.Tensor) -> torch.Tensor:
        """A, int32 `[T, P]`: pixels of each cell that have each of the labels `present` int64 `[P]`."""
        width = max(self.width, int(present.max()) + 1 if len(present) else 0)
        place = torch.full((width,), -1, device=present.device)
        place[present] = torch.arange(len(present), device=present.device)
        at = place[self.columns.long()]
        found = torch.zeros((self.rows, len(present)), dtype=torch.int32, device=present.device)
        found[self.cells()[at >= 0], at[at >= 0]] = self.counts[at >= 0]
        return found

    def totals(self, columns: int) -> torch.Tensor:
        """Pixels of each of `columns` labels over all cells, int64 `[columns]`."""
        found = torch.zeros(columns, dtype=torch.int64, device=self.columns.device)
        return found.index_add_(0, self.columns.long(), self.counts.long())


@dataclass(frozen=True, eq=False)
class BlockLabels:
    """The labels of a map's pixels by **block**: the pixels that lie between the same four cell centres.

    A grid of (gh, gw) cells has (gh + 1) x (gw + 1) blocks: block row i lies between the centres of cell rows
    i - 1 and i, the first above all centres and the last below. It holds map rows `row_starts[i]` to
    `row_starts[i + 1]`; `row_weights` float32 `[h]` is how far a map row is from the upper centre to the
    lower; columns alike. `entries` has the counts, a block a row. The pixels of entry j of block b are the n
    bytes at `bits[starts[b] + j n]`: bit c % 8 of byte r * ceil(width / 8) + c // 8 is the block's pixel
    (r, c), and n is rounded up to whole 8 bytes.
    """

    grid: tuple[int, int]
    row_starts: torch.Tensor
    col_starts: torch.Tensor
    row_weights: torch.Tensor
    col_weights: torch.Tensor
    entries: CellLabels
    starts: torch.Tensor
    bits: torch.Tensor

    def to(self, device: torch.device | str) -> BlockLabels:
        names = ("row_starts", "col_starts", "row_weights", "col_weights", "entries", "starts", "bits")
        return BlockLabels(self.grid, *(getattr(self, name).to(device) for name in names))

    def totals(self, columns: int) -> torch.Tensor:
        """Pixels of each of `columns` labels, int64 `[columns]`."""
        return self.entries.totals(columns)
