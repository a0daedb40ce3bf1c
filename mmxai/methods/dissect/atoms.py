"""Atoms: pixels of one cell that have the same labels. A logical form of labels, and a mask of whole cells,
has all pixels of an atom or none, so that areas of both are sums over atoms: exact, and few."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from mmxai.concepts import ImageLabels
from mmxai.methods.dissect.forms import Form

_KEPT = 64 << 20
"""Bytes of areas that are kept, of forms that several units come to."""


@dataclass(frozen=True)
class Pieces:
    """Atoms of one picture: `cell` int64 `[A]`, `pixels` int64 `[A]`; atom a has the concepts `concept[
    starts[a] : starts[a + 1]]`, ascending, int32."""

    cell: np.ndarray
    pixels: np.ndarray
    starts: np.ndarray
    concept: np.ndarray


def pieces_of(labels: ImageLabels, rows: np.ndarray, cols: np.ndarray, cells: np.ndarray) -> Pieces:
    """`rows` int32 `[h]`, `cols` int32 `[w]`: in which row and column of a grid the map's pixels lie, -1
    outside. `cells` int64 `[gh, gw]`: the grid's cells by number, -1 where a pixel counts nowhere."""
    cell = np.where((rows[:, None] < 0) | (cols < 0), -1, cells[rows[:, None], cols]).ravel()
    seen = np.flatnonzero(cell >= 0)
    layers = labels.maps.reshape(len(labels.maps), -1)[:, seen].astype(np.int64)
    # One number for cell and labels, made dense again after every layer, so that it cannot grow too large.
    key = cell[seen]
    for layer in layers:
        low = layer.min(initial=0)
        _, key = np.unique(key * (layer.max(initial=0) - low + 1) + (layer - low), return_inverse=True)
    _, first, pixels = np.unique(key, return_index=True, return_counts=True)
    count = len(first)
    whole = np.broadcast_to(np.asarray(labels.whole, np.int64)[:, None], (len(labels.whole), count))
    has = np.sort(np.concatenate([layers[:, first], whole]), axis=0).T  # [A, layers]
    fresh = has >= 0
    fresh[:, 1:] &= has[:, 1:] != has[:, :-1]
    starts = np.concatenate([[0], fresh.sum(1).cumsum()])
    return Pieces(cell[seen][first], pixels, starts, has[fresh].astype(np.int32))


@dataclass(eq=False)
class Atoms:
    """The atoms of many pictures, by `cells` cells, and C concepts. `bits` uint8 `[C, A / 8]`: which atoms
    are of each, eight a byte."""

    cell: np.ndarray
    pixels: np.ndarray
    starts: np.ndarray
    concept: np.ndarray
    concepts: int
    cells: int
    bits: np.ndarray = field(init=False)
    total: int = field(init=False)
    truth: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        count = len(self.cell)
        self.total = int(self.pixels.sum())
        own = np.repeat(np.arange(count), np.diff(self.starts))
        self.truth = self._summed(self.concept, self.pixels[own])
        self.bits = np.zeros((self.concepts, -(-count // 8)), np.uint8)
        # Entries of one concept after another: a byte is set up bit by bit.
        np.bitwise_or.at(self.bits, (self.concept, own >> 3), (1 << (7 - (own & 7))).astype(np.uint8))
        self._areas: OrderedDict[Form, np.ndarray] = OrderedDict()

    @classmethod
    def joined(cls, pieces: Sequence[Pieces], concepts: int, cells: int) -> Atoms:
        def all_of(name: str, dtype: type) -> np.ndarray:
            return np.concatenate([np.zeros(0, dtype), *(getattr(p, name) for p in pieces)])

        sizes = np.concatenate([np.zeros(0, np.int64), *(np.diff(p.starts) for p in pieces)])
        starts = np.concatenate([[0], sizes.cumsum()])
        cell, pixels = all_of("cell", np.int64), all_of("pixels", np.int64)
        return cls(cell, pixels, starts, all_of("concept", np.int32), concepts, cells)

    def within(self, kept: np.ndarray) -> Atoms:
        """Those of the cells `kept`, bool `[cells]`."""
        index = np.flatnonzero(kept[self.cell])
        entries, sizes = self.entries(index)
        starts = np.concatenate([[0], sizes.cumsum()])
        concept = self.concept[entries]
        return Atoms(self.cell[index], self.pixels[index], starts, concept, self.concepts, self.cells)

    def entries(self, index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where the concepts of atoms `index` stand in `concept`, and how many each has."""
        sizes = self.starts[index + 1] - self.starts[index]
        ends = sizes.cumsum()
        shift = self.starts[index] - ends + sizes
        return np.arange(ends[-1] if len(ends) else 0) + np.repeat(shift, sizes), sizes

    def _summed(self, concept: np.ndarray, pixels: np.ndarray) -> np.ndarray:
        """int64 `[C]`; of whole numbers below 2^53 sums of float64 are exact."""
        return np.bincount(concept, pixels, minlength=self.concepts).astype(np.int64)

    def of(self, form: Form) -> np.ndarray:
        """bool `[A]`: which atoms a form has."""
        held = None
        for term in form:
            own = ~self.bits[term.concept] if term.negated else self.bits[term.concept]
            held = own if held is None else held | own if term.either else held & own
        assert held is not None
        return np.unpackbits(held, count=len(self.cell)).view(bool)

    def area(self, form: Form) -> int:
        """Pixels of a form."""
        return int(self.pixels[self.of(form)].sum())

    def beside(self, form: Form) -> np.ndarray:
        """Pixels that a form has of each concept, int64 `[C]`."""
        if form in self._areas:
            self._areas.move_to_end(form)
            return self._areas[form]
        there = self.of(form)
        most = 2 * np.count_nonzero(there) > len(there)
        found = self.with_each(np.flatnonzero(~there if most else there))
        if most:
            found = self.truth - found
        self._areas[form] = found
        if len(self._areas) * found.nbytes > _KEPT:
            self._areas.popitem(last=False)
        return found

    def with_each(self, index: np.ndarray) -> np.ndarray:
        """Pixels that the atoms `index` have of each concept, int64 `[C]`."""
        entries, sizes = self.entries(index)
        return self._summed(self.concept[entries], np.repeat(self.pixels[index], sizes))
