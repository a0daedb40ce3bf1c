"""What one pass adds up of one source of units: counts of masks and labels, and what comes of the same
values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch

from mmxai.errors import NonFiniteError
from mmxai.kernels.bilinear_counts import bilinear_counts
from mmxai.kernels.cells import CellLabels
from mmxai.kernels.mask_counts import mask_counts
from mmxai.methods.dissect.bootstrap import Bootstrap
from mmxai.methods.dissect.ceiling import Ceiling
from mmxai.methods.dissect.counts import Counts
from mmxai.methods.dissect.curves import Curves
from mmxai.methods.dissect.passes import Labelled, Span, View
from mmxai.methods.dissect.sources import Source
from mmxai.methods.dissect.thresholds import Keep
from mmxai.methods.dissect.top import TopPictures
from mmxai.methods.dissect.values import Values, dense, fired, rows_of, sums


@dataclass(frozen=True)
class Seen:
    """Values of one source in views side by side. `x` `[N, U]`, dense or by its entries; `rows`, `place` and
    `inside` `[N]`: see `View`; `starts` int64 `[V + 1]`: the rows of each view."""

    views: Sequence[View]
    x: Values
    rows: np.ndarray
    place: np.ndarray
    inside: np.ndarray
    starts: np.ndarray

    @classmethod
    def of(cls, source: Source, views: Sequence[View], sparse: bool, keep: Keep | None = None) -> Seen:
        """`keep`: of logical rows, which count at all."""
        rows = np.concatenate([v.rows for v in views])
        place, inside = (np.concatenate([getattr(v, n) for v in views]) for n in ("place", "inside"))
        which = np.repeat(np.arange(len(views)), [len(v.rows) for v in views])
        if keep is not None:
            kept = keep(rows)
            rows, place, inside, which = (a[kept] for a in (rows, place, inside, which))
        starts = np.searchsorted(which, np.arange(len(views) + 1))
        x = source.entries(rows) if sparse else source.values(rows)
        return cls(views, x, rows, place, inside, starts)

    def __iter__(self) -> Iterator[tuple[View, slice]]:
        for view, start, stop in zip(self.views, self.starts, self.starts[1:], strict=False):
            yield view, slice(int(start), int(stop))

    def finite(self, site: str) -> None:
        """NonFiniteError where a value is not: NaN is above no threshold, and would count as a low one."""
        every = self.x if isinstance(self.x, torch.Tensor) else self.x.values
        if torch.isfinite(every.sum(dtype=torch.float64)):
            return
        for view, own in self:
            if not torch.isfinite(dense(self.part(own))).all():
                raise _not_finite(site, view.sample)

    def part(self, own: slice) -> Values:
        """x of some rows."""
        return rows_of(self.x, own)

    def pieces(self, labelled: Sequence[Labelled | None]) -> list[CellLabels]:
        """The labels of each view's rows; `labelled`: of each view, None where nothing is known."""
        found = []
        for labels, (_, own) in zip(labelled, self, strict=True):
            place = torch.from_numpy(self.place[own])
            if labels is None:
                found.append(_NO_CELLS.take(torch.full_like(place, -1)))
            else:
                found.append(labels.cells.take(place))
        return found


_PARTS = ("ceiling", "top", "bootstrap", "curves")


class Adds(Protocol):
    """What a pass goes through the pictures for, and keeps as it goes on. `least`: the lowest value that a
    mask of it is above: from 0 on the entries of sparse units tell all."""

    @property
    def least(self) -> float: ...
    def add(self, seen: Seen) -> None: ...
    def arrays(self) -> dict[str, np.ndarray]: ...
    def restore(self, arrays: Mapping[str, np.ndarray]) -> None: ...


class Tally:
    """Counts of a source's units against the labels of their pictures, or (`other`) of other pictures.

    correlation: sums of activations as well. ceiling: what the grid can attain. top: so many pictures of each
    unit. bootstrap: resamples of chosen pairs, for which masks are counted once more, picture by picture.
    curves: of chosen pairs, over all thresholds.
    """

    def __init__(
        self,
        source: Source,
        threshold: torch.Tensor,
        category: np.ndarray,
        categories: int,
        *,
        other: bool = False,
        correlation: bool = False,
        ceiling: bool = False,
        top: int = 0,
        bootstrap: Bootstrap | None = None,
        curves: Curves | None = None,
    ):
        self.source, self.threshold, self.other = source, threshold, other
        self.counts = Counts.zeros(source.count, category, categories, correlation)
        self._columns = len(self.counts.label)
        self.ceiling = Ceiling(len(category)) if ceiling else None
        self.top = TopPictures(source.count, top) if top else None
        self.bootstrap, self.curves = bootstrap, curves

    @property
    def least(self) -> float:
        return float(self.threshold.min())

    def add(self, seen: Seen) -> None:
        labelled = [(v, self._of(v)) for v in seen.views]
        pieces = seen.pieces([labels for _, labels in labelled])
        counts = self.counts
        last, before = -1, np.zeros(self._columns, bool)
        for (view, labels), piece in zip(labelled, pieces, strict=True):
            if view.sample != last:
                last, before = view.sample, np.zeros(self._columns, bool)
            if labels is not None:
                total = piece.totals(self._columns).numpy()
                counts.label += total
                counts.images += (total > 0) & ~before  # a picture in several tiles is one
                before |= total > 0
        known = np.repeat([labels is not None for _, labels in labelled], np.diff(seen.starts)) & seen.inside
        counts.cells += int(known.sum())
        counts.fired += fired(seen.x, self.threshold, known)
        self._at_once(seen, labelled, pieces)
        if self.bootstrap is not None:
            self._resample(self.bootstrap, seen, labelled, pieces)
        if self.curves is not None:
            for (_, own), piece in zip(seen, pieces, strict=True):
                self.curves.add(seen.part(own), piece)
        if counts.along.shape[1]:
            self._sums(seen, pieces)
        if self.ceiling is not None:
            self.ceiling.add(CellLabels.cat(pieces))
        if self.top is not None:
            self.top.add(seen, [labels is not None for _, labels in labelled])

    def _of(self, view: View) -> Labelled | None:
        return view.other if self.other else view.own

    def _at_once(self, seen: Seen, labelled: Sequence, pieces: Sequence[CellLabels]) -> None:
        table = torch.from_numpy(self.counts.table)
        if all(labels is None or labels.blocks is None for _, labels in labelled):
            mask_counts(seen.x, self.threshold, CellLabels.cat(pieces), table)
            return
        grids, blocks = [], []
        for (_, labels), (view, own) in zip(labelled, seen, strict=True):
            if labels is not None:
                grids.append(in_order(seen.part(own), view))
                blocks.append(labels.blocks)
        bilinear_counts(grids, self.threshold, blocks, table)

    def _resample(
        self, bootstrap: Bootstrap, seen: Seen, labelled: Sequence, pieces: Sequence[CellLabels]
    ) -> None:
        for (view, labels), (_, own), piece in zip(labelled, seen, pieces, strict=True):
            if labels is not None:
                bootstrap.add(view.sample, *_alone(seen.part(own), self.threshold, view, labels, piece))
        bootstrap.flush()

    def _sums(self, seen: Seen, pieces: Sequence[CellLabels]) -> None:
        """Products of one picture are float32, sums over pictures float64."""
        counts = self.counts
        areas = self._columns - counts.squares.shape[1]
        for (view, own), piece in zip(seen, pieces, strict=True):
            present = piece.present()
            if not len(present):
                continue
            area = piece.dense(present).float()
            columns, at = present.numpy(), int((present < areas).sum())
            units, along, squares = sums(seen.part(own), area, at)
            if not np.isfinite(squares).all():
                raise _not_finite(self.source.name, view.sample)
            place = np.ix_(units, columns) if units is not None else (slice(None), columns)
            counts.along[place] += along
            place = (
                np.ix_(units, columns[at:] - areas)
                if units is not None
                else (slice(None), columns[at:] - areas)
            )
            counts.squares[place] += squares

    def arrays(self) -> dict[str, np.ndarray]:
        """All that was added up, by name."""
        out = dict(self.counts.arrays())
        for name in _PARTS:
            if (part := getattr(self, name)) is not None:
                out |= {f"{name}.{k}": v for k, v in part.arrays().items()}
        return out

    def restore(self, arrays: Mapping[str, np.ndarray]) -> None:
        self.counts = Counts.of_arrays(arrays)
        for name in _PARTS:
            if (part := getattr(self, name)) is not None:
                own = {k.removeprefix(f"{name}."): v for k, v in arrays.items() if k.startswith(f"{name}.")}
                part.restore(own)


def _not_finite(site: str, sample: int) -> NonFiniteError:
    return NonFiniteError(f"{site}: got NaN or inf in sample {sample}, expected finite activations")


_NO_CELLS = CellLabels(
    torch.zeros(1, dtype=torch.int64), torch.zeros(0, dtype=torch.int32), torch.zeros(0, dtype=torch.int32)
)


def span_of(span: Span) -> list[View]:
    """The views of which anything is known."""
    return [v for v in span.views if v.own is not None or v.other is not None]


def in_order(x: Values, view: View) -> torch.Tensor:
    """A view's values by the number of their cell."""
    values = dense(x)
    order = np.argsort(view.place, kind="stable")
    return values if (np.diff(order) == 1).all() else values[torch.from_numpy(order)]


def _alone(
    x: Values, threshold: torch.Tensor, view: View, labels: Labelled, piece: CellLabels
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Columns present in one view, int64 `[P]`, masks' pixels of them `[U, P]`, and all their pixels
    `[P]`."""
    held = piece if labels.blocks is None else labels.blocks.entries
    present = held.present()
    local = CellLabels(
        held.offsets, torch.searchsorted(present, held.columns.long()).to(torch.int32), held.counts
    )
    counts = torch.zeros(len(threshold), len(present), dtype=torch.int64)
    if labels.blocks is None:
        mask_counts(x, threshold, local, counts)
    else:
        bilinear_counts(in_order(x, view), threshold, replace(labels.blocks, entries=local), counts)
    return present.numpy(), counts.numpy(), local.totals(len(present)).numpy()
