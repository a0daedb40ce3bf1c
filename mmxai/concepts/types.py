"""What is known of pictures, pixel by pixel: concepts, the labels of one picture, where they come from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mmxai.errors import ArgumentError, DataError


@dataclass(frozen=True)
class Concept:
    """`number`: 0..C-1 over all categories of its source."""

    name: str
    category: str
    number: int

    def __str__(self) -> str:
        return f"{self.name} ({self.category})"


@dataclass(frozen=True)
class ImageLabels:
    """Labels of one picture. A map covers the whole picture, in its own pixels `h x w` or in others.

    maps: int32 `[M, h, w]`, at each pixel of each layer a concept's number or -1. Layers let a pixel be in
    many concepts; a concept is at most once at a pixel. M may be 0: `h, w` then says in how many pixels
    `whole` is counted.
    whole: int64 `[k]`, ascending, concepts of the whole picture: of every pixel of it. None is in `maps`.
    annotated: bool `[categories]`, which categories were looked for here.
    """

    maps: np.ndarray
    whole: np.ndarray
    annotated: np.ndarray

    @property
    def shape(self) -> tuple[int, int]:
        """(h, w) of the maps."""
        return self.maps.shape[1], self.maps.shape[2]

    def present(self) -> np.ndarray:
        """Numbers of the concepts that are here, ascending: int64 `[p]`."""
        # Counting takes a tenth of the time of sorting so many pixels.
        found = np.flatnonzero(np.bincount(self.maps.ravel() + 1)[1:])
        return np.union1d(found, self.whole).astype(np.int64)

    def mask(self, number: int) -> np.ndarray:
        """Where a concept is: bool `[h, w]`."""
        if number in self.whole:
            return np.ones(self.shape, bool)
        out: np.ndarray = (self.maps == number).any(0)
        return out


@dataclass(frozen=True)
class Instance:
    """One object: its concept's number and where it is, bool `[h, w]`. crowd: it stands for several."""

    concept: int
    mask: np.ndarray
    crowd: bool = False


class Concepts(ABC):
    """Concepts and where they are in the pictures of one store. Safe to call from several threads."""

    concepts: tuple[Concept, ...]
    """By number."""
    categories: tuple[str, ...]
    about: str
    """What they are and where from, for reports."""
    licence: str | None = None
    """Of the annotations, as their source states it."""

    @property
    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """JSON: equal where the labels are. A run that is taken up again compares it."""

    @abstractmethod
    def labels(self, sample: int) -> ImageLabels | None:
        """Of a data set index; None where nothing is known of the picture. DataError where its annotation
        cannot be read, or is of another size than the picture."""

    def instances(self, sample: int) -> Iterator[Instance]:
        """Objects one by one, where the source tells them apart. ArgumentError where it does not."""
        raise ArgumentError(f"{self.about}: tells no instances apart, expected COCO, LVIS or a shapes world")

    def picture_licence(self, sample: int) -> str | None:
        """The licence of the picture itself, as the source states it."""
        return None

    def number(self, name: str, category: str | None = None) -> int:
        """Of a concept by name, and by category where several have concepts of that name."""
        found = [c for c in self.concepts if c.name == name and category in (None, c.category)]
        if len(found) != 1:
            from difflib import get_close_matches

            near = get_close_matches(name, [c.name for c in self.concepts], 3, 0.4)
            raise ArgumentError(
                f"concepts: got {name!r}{f' in {category!r}' if category else ''}, which is "
                f"{[str(c) for c in found] or 'none'}, expected the name of one; nearest: {near}"
            )
        return found[0].number

    def category_of(self) -> np.ndarray:
        """Index into `categories` of every concept: int64 `[C]`."""
        place = {name: k for k, name in enumerate(self.categories)}
        return np.array([place[c.category] for c in self.concepts], np.int64)

    def __len__(self) -> int:
        return len(self.concepts)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self):,} concepts in {list(self.categories)}; {self.about})"


def numbered(names: Sequence[tuple[str, str]], where: str) -> tuple[tuple[Concept, ...], tuple[str, ...]]:
    """Concepts of (name, category) pairs in that order, and the categories as they first come.

    DataError where there are none, or two alike.
    """
    if not names:
        raise DataError(f"{where}: got no concepts, expected some")
    seen: set[tuple[str, str]] = set()
    for pair in names:
        if pair in seen:
            raise DataError(f"{where}: got the concept {pair[0]!r} of {pair[1]!r} twice, expected it once")
        seen.add(pair)
    made = tuple(Concept(name, category, k) for k, (name, category) in enumerate(names))
    return made, tuple(dict.fromkeys(c.category for c in made))
