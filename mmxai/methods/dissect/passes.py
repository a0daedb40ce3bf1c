"""Going through a store's pictures: which rows are whose cells, beside the labels of their pixels.

A picture that was cut into tiles is seen once in each, as a view; a pixel that several tiles cover counts in
each. Rows that are no cell (class tokens, registers, padding of a text) are passed over, and so are cells
that lie outside the picture.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from mmxai.concepts import Concepts, ImageLabels
from mmxai.errors import ArgumentError, DataError, SelectionError
from mmxai.kernels.cell_labels import block_labels, cell_labels
from mmxai.kernels.cells import BlockLabels, CellLabels
from mmxai.methods.dissect.config import Mode
from mmxai.models.geometry import apply, pixel_cells, pixel_positions
from mmxai.store.prefetch import Prefetcher
from mmxai.store.select import split_of
from mmxai.store.units import RowBlocks

if TYPE_CHECKING:
    from mmxai.store.reader import Store
    from mmxai.types import Rows

WORKERS = 4  # threads that read labels ahead of the counting


@dataclass(frozen=True)
class Labelled:
    """Labels of one view. `cells`: pixels of every cell of the grid, by column (see `Counts`); `blocks`: the
    same for pixels between cell centres, in bilinear mode."""

    labels: ImageLabels
    cells: CellLabels
    blocks: BlockLabels | None


@dataclass(frozen=True)
class View:
    """One picture in one tile. `rows` int64 `[T]`: the logical rows of its cells; `place` int64 `[T]`: their
    numbers `y * grid width + x`; `inside` bool `[T]`: whether they share area with the picture (padding does
    not). `own`: its labels; `other`: those of another picture, for the control. None: nothing is known of
    that picture."""

    sample: int
    image: int
    rows: np.ndarray
    place: np.ndarray
    inside: np.ndarray
    tile: dict[str, Any]
    own: Labelled | None = None
    other: Labelled | None = None


@dataclass(frozen=True)
class Span:
    """Views side by side. `done`: the logical row from which a pass goes on after them."""

    views: list[View]
    done: int

    @property
    def rows(self) -> np.ndarray:
        """All rows, int64 `[N]`."""
        return joined([v.rows for v in self.views], np.int64)

    @property
    def inside(self) -> np.ndarray:
        return joined([v.inside for v in self.views], np.bool_)


@dataclass(frozen=True)
class Cells:
    """The rows of a space that are cells of pictures, in the samples on one side of a split.

    held_out: share of the samples, by a hash of their number, that is set apart; `side`: "chosen" without
    them, "scored" they alone, None all. only: of those samples alone, int64, ascending. drawn: rows that
    were drawn of them, by how: to find out which are cells of a picture takes a look at each picture.
    """

    store: Store
    space: str
    held_out: float = 0.0
    side: str | None = None
    only: np.ndarray | None = None
    drawn: dict[Any, tuple[np.ndarray, bool]] = field(default_factory=dict, compare=False, repr=False)

    def of_side(self, samples: np.ndarray) -> np.ndarray:
        """bool `[N]`: which samples are on this side."""
        if self.side is None or not self.held_out:
            return np.ones(len(samples), bool)
        apart = split_of(samples, (1 - self.held_out, self.held_out, 0)) == 1
        return np.asarray(apart == (self.side == "scored"))

    def keep(self, who: Rows) -> np.ndarray:
        """bool `[N]`: which rows are such cells, pictures' borders aside."""
        samples = who.sample.numpy()
        keep = ((who.y >= 0) & (who.x >= 0)).numpy() & self.of_side(samples)
        return keep if self.only is None else keep & np.isin(samples, self.only)

    def views(self, step: int, start: int = 0) -> Iterator[Span]:
        """Views without labels, in stored order; about `step` rows a span, whole samples always."""
        blocks = RowBlocks(self.store, self.space)
        grids: dict[Any, np.ndarray] = {}
        for rows, who in blocks(step, start):
            keep = self.keep(who)
            views = [
                self._view(*piece, grids) for piece in _pictures(rows[keep], who[torch.from_numpy(keep)])
            ]
            yield Span(views, int(rows[-1]) + 1)

    def _view(
        self, sample: int, image: int, rows: np.ndarray, y: np.ndarray, x: np.ndarray, grids: dict
    ) -> View:
        tile, size = place_of(self.store, self.space, sample, image)
        key = (*tile["affine"], *tile["grid"], *size)
        if key not in grids:
            if len(grids) > 1024:
                grids.clear()  # pictures of as many sizes: there is nothing to gain
            grids[key] = within(tile, size)
        height, width = tile["grid"]
        if y.max(initial=0) >= height or x.max(initial=0) >= width:
            raise DataError(
                f"sample {sample}: got a row of cell ({y.max()}, {x.max()}), expected cells of its grid "
                f"{height}x{width}"
            )
        return View(sample, image, rows, y * width + x, grids[key][y, x], tile)


@dataclass(frozen=True)
class Labelling:
    """Adds labels to views. `other`: sample -> the sample whose labels stand in for its own, in the
    control."""

    concepts: Concepts
    mode: Mode = "nearest"
    other: Pairs | None = None

    def spans(self, cells: Cells, step: int, start: int = 0) -> Generator[Span, None, None]:
        """`cells.views` with labels, read ahead in threads; views of which nothing is known stay, without."""
        with ThreadPoolExecutor(WORKERS, "mmxai-labels") as pool:
            ahead = Prefetcher(self._submitted(pool, cells, step, start), 2)
            try:
                for span, waiting in ahead:
                    yield Span([w.result() for w in waiting], span.done)
            finally:
                ahead.close()

    def _submitted(self, pool: ThreadPoolExecutor, cells: Cells, step: int, start: int) -> Iterator[tuple]:
        for span in cells.views(step, start):
            yield span, [pool.submit(self.labelled, cells.store, cells.space, view) for view in span.views]

    def labelled(self, store: Store, space: str, view: View) -> View:
        """The view with its labels, and those of the control."""
        _, size = place_of(store, space, view.sample, view.image)
        own = self._of(view, size, view.sample)
        other = None if self.other is None else self._of(view, size, self.other(view.sample))
        return replace(view, own=own, other=other)

    def _of(self, view: View, size: Sequence[int], sample: int) -> Labelled | None:
        labels = self.concepts.labels(sample)
        if labels is None:
            return None
        grid = tuple(view.tile["grid"])
        areas = np.flatnonzero(labels.annotated)
        columns = [*labels.whole.tolist(), *(len(self.concepts) + areas).tolist()]
        columns.append(len(self.concepts) + len(self.concepts.categories))
        rows, cols = pixel_cells(view.tile, size, labels.shape)
        cells = cell_labels(labels.maps, rows, cols, grid, whole=columns)
        blocks = None
        if self.mode == "bilinear":
            if not np.array_equal(np.sort(view.place), np.arange(grid[0] * grid[1])):
                raise SelectionError(
                    f"sample {view.sample}: got {len(view.place)} of its {grid[0]}x{grid[1]} cells, expected "
                    "each once to interpolate between; use mode='nearest'"
                )
            ys, xs = pixel_positions(view.tile, size, labels.shape)
            blocks = block_labels(labels.maps, ys, xs, grid, whole=columns)
        return Labelled(labels, cells, blocks)


class Pairs:
    """Sample -> the next one in an order that is drawn at random; every sample is once another's."""

    def __init__(self, samples: np.ndarray, seed: int):
        if len(samples) < 2:
            raise ArgumentError(
                f"shuffled labels: got {len(samples)} pictures, expected two or more; leave 'shuffled' out "
                "of the controls"
            )
        order = np.random.default_rng(seed).permutation(samples)
        by_number = np.argsort(order, kind="stable")
        self._samples, self._next = order[by_number], np.roll(order, -1)[by_number]

    def __call__(self, sample: int) -> int:
        return int(self._next[np.searchsorted(self._samples, sample)])


def place_of(store: Store, space: str, sample: int, image: int) -> tuple[dict[str, Any], tuple[int, int]]:
    """A view's tile in cells of a row space, and the size (W, H) of the whole picture."""
    stored = store.samples[sample]
    if stored.size is None or image >= len(stored.tiles):
        raise DataError(
            f"sample {sample} ({stored.key!r}): got size {stored.size} and {len(stored.tiles)} tiles, "
            f"expected those of a picture for the cells of {space!r}; harvest with a version that stores them"
        )
    return stored.tile_in(space, image), stored.size


def within(tile: dict[str, Any], size: Sequence[int]) -> np.ndarray:
    """bool `[h, w]`: which cells share area with a picture of `size` (W, H)."""
    corners = apply(tile["affine"], np.array([[0.0, 0.0], [float(size[0]), float(size[1])]]))
    low, high = corners.min(0) + 1e-6, corners.max(0) - 1e-6
    height, width = tile["grid"]
    x, y = (((np.arange(n) < high[i]) & (np.arange(n) + 1 > low[i])) for i, n in ((0, width), (1, height)))
    return y[:, None] & x


def samples_of(store: Store) -> np.ndarray:
    """Data set indices of all samples committed, int64, in stored order."""
    snapshot = store.view.snapshot
    held = [
        store.plan.samples_of(int(part))[: int(count)]
        for part, count in zip(snapshot.parts, snapshot.samples, strict=True)
    ]
    return np.concatenate(held) if held else np.zeros(0, np.int64)


def joined(pieces: Sequence[np.ndarray], dtype: Any) -> np.ndarray:
    return np.concatenate(pieces) if pieces else np.zeros(0, dtype)


def _pictures(rows: np.ndarray, who: Rows) -> Iterator[tuple[int, int, np.ndarray, np.ndarray, np.ndarray]]:
    """(sample, image, rows, y, x) of each picture; its rows need not stand together."""
    if not len(rows):
        return
    sample, image, y, x = (getattr(who, c).numpy().astype(np.int64) for c in ("sample", "image", "y", "x"))
    image = np.maximum(image, 0)
    first = np.flatnonzero(np.diff(sample, prepend=sample[0] - 1))
    order = np.lexsort((image, np.searchsorted(first, np.arange(len(rows)), side="right")))
    turns = np.flatnonzero(np.diff(sample[order], prepend=-1) | np.diff(image[order], prepend=-1))
    for own in np.split(order, turns[1:]):
        yield int(sample[own[0]]), int(image[own[0]]), rows[own], y[own], x[own]
