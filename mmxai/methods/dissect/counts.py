"""Pixels of masks, of labels and of both, over all pictures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields

import numpy as np

from mmxai.methods.dissect import measures
from mmxai.methods.dissect.config import Area

_BY_UNIT = ("table", "fired", "along", "squares")


@dataclass
class Counts:
    """Of U units and C concepts in K categories. A **column** is what pixels are counted of: first the C
    concepts, then K areas (every pixel of the pictures that are annotated for a category), then all pixels.

    table int64 `[U, C + K + 1]`: pixels of each unit's mask that are of a column. label `[C + K + 1]`: all
    pixels of a column. images int64 `[C + K + 1]`: pictures with such pixels. fired int64 `[U]`: cells above
    the threshold, of `cells` `[1]`. along float64 `[U, C + K + 1]`: sums of activations over a column's
    pixels, squares `[U, K + 1]` of their squares over the areas'; empty (`[U, 0]`) where they were not asked
    for. category int64 `[C]`: of each concept, the index of its category.
    """

    table: np.ndarray
    label: np.ndarray
    images: np.ndarray
    fired: np.ndarray
    cells: np.ndarray
    along: np.ndarray
    squares: np.ndarray
    category: np.ndarray

    @classmethod
    def zeros(cls, units: int, category: np.ndarray, categories: int, correlation: bool) -> Counts:
        columns = len(category) + categories + 1
        wide = (columns, categories + 1) if correlation else (0, 0)
        whole = [np.zeros(shape, np.int64) for shape in ((units, columns), columns, columns, units, 1)]
        table, label, images, fired, cells = whole
        along, squares = (np.zeros((units, n)) for n in wide)
        return cls(table, label, images, fired, cells, along, squares, np.asarray(category, np.int64))

    @property
    def units(self) -> int:
        return len(self.table)

    @property
    def concepts(self) -> int:
        return len(self.category)

    @property
    def inter(self) -> np.ndarray:
        """int64 `[U, C]`: pixels in the mask and of the concept."""
        return self.table[:, : self.concepts]

    @property
    def unit(self) -> np.ndarray:
        """int64 `[U]`: pixels of the mask."""
        return self.table[:, -1]

    @property
    def unit_in(self) -> np.ndarray:
        """int64 `[U, K]`: pixels of the mask in the pictures annotated for a category."""
        return self.table[:, self.concepts : -1]

    @property
    def truth(self) -> np.ndarray:
        """int64 `[C]`: pixels of the concept."""
        return self.label[: self.concepts]

    @property
    def pixels(self) -> int:
        return int(self.label[-1])

    @property
    def pixels_in(self) -> np.ndarray:
        """int64 `[K]`: pixels of the pictures annotated for a category."""
        return self.label[self.concepts : -1]

    @property
    def pictures(self) -> int:
        return int(self.images[-1])

    def arrays(self) -> dict[str, np.ndarray]:
        return {f.name: getattr(self, f.name) for f in fields(self)}

    @classmethod
    def of_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Counts:
        return cls(**{f.name: arrays[f.name] for f in fields(cls)})

    @classmethod
    def joined(cls, parts: Iterable[Counts]) -> Counts:
        """Counts of the same pictures, of one range of units after another."""
        held = list(parts)
        if len(held) == 1:
            return held[0]
        shared = {name: v for name, v in held[0].arrays().items() if name not in _BY_UNIT}
        return cls(**shared, **{name: np.concatenate([getattr(p, name) for p in held]) for name in _BY_UNIT})

    def range(self, start: int, stop: int) -> Counts:
        """Those of some units."""
        own = {name: getattr(self, name)[start:stop] for name in _BY_UNIT}
        return Counts(**{**self.arrays(), **own})

    def __add__(self, other: Counts) -> Counts:
        """Counts of the same units over two sets of pictures."""
        theirs = other.arrays()
        summed = {name: value + theirs[name] for name, value in self.arrays().items()}
        return Counts(**{**summed, "category": self.category})

    def area(self, area: Area) -> np.ndarray:
        """Pixels of the mask that an IoU counts: int64 `[U, 1]`, or `[U, C]` of annotated pictures alone."""
        return self.unit[:, None] if area == "everywhere" else self.unit_in[:, self.category]

    def seen(self, area: Area) -> np.ndarray:
        """Pixels over which masks are counted: int64 `[1]` or `[C]`."""
        return self.label[-1:] if area == "everywhere" else self.pixels_in[self.category]

    def iou(self, area: Area = "everywhere") -> np.ndarray:
        """float64 `[U, C]`, 0 where there is neither mask nor label; as are those below."""
        return measures.iou(self.inter, self.area(area), self.truth)

    def precision(self, area: Area = "everywhere") -> np.ndarray:
        return measures.precision(self.inter, self.area(area))

    def recall(self) -> np.ndarray:
        return measures.recall(self.inter, self.truth)

    def f1(self, area: Area = "everywhere") -> np.ndarray:
        return measures.f1(self.inter, self.area(area), self.truth)

    def phi(self, area: Area = "everywhere") -> np.ndarray:
        """Correlation of masks with concepts."""
        return measures.phi(self.inter, self.area(area), self.truth, self.seen(area))

    def correlation(self) -> np.ndarray:
        """Correlation of activations with concepts over the pictures annotated for their category: float64
        `[U, C]`, NaN where it was not asked for. It needs no threshold; a pixel has the value of its cell."""
        if not self.along.shape[1]:
            return np.full(self.inter.shape, np.nan)
        total, squares = self.along[:, self.concepts : -1], self.squares[:, :-1]
        return measures.correlation(
            self.along[:, : self.concepts], total[:, self.category], squares[:, self.category], self.truth,
            self.pixels_in[self.category],
        )  # fmt: skip


def bytes_of(concepts: int, categories: int, correlation: bool) -> int:
    """Bytes of `Counts` a unit."""
    columns = concepts + categories + 1
    return 8 * (columns + 1 + (columns + categories + 1 if correlation else 0))
