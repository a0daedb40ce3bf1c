"""Several sources of concepts as one: parts of a data set in files of their own, objects beside scenes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from mmxai.concepts.layers import once, without
from mmxai.concepts.types import Concepts, ImageLabels, Instance, numbered
from mmxai.errors import DataError


class JoinedConcepts(Concepts):
    """Concepts of one name and category are one concept. A picture has what any source says of it; sources
    that both have maps of it have them in one size."""

    def __init__(self, sources: Sequence[Concepts]):
        self._sources = tuple(sources)
        pairs = list(dict.fromkeys((c.name, c.category) for s in sources for c in s.concepts))
        categories = list(dict.fromkeys(category for _, category in pairs))
        pairs.sort(key=lambda pair: categories.index(pair[1]))
        self.concepts, self.categories = numbered(pairs, "joined concepts")
        place = {pair: k for k, pair in enumerate(pairs)}
        # One more at the end: -1, no concept, stays -1.
        self._concept = [
            np.array([*(place[c.name, c.category] for c in s.concepts), -1], np.int32) for s in sources
        ]
        self._category = [np.array([categories.index(name) for name in s.categories]) for s in sources]
        self.about = "; ".join(s.about for s in sources)
        self.licence = "; ".join(dict.fromkeys(s.licence for s in sources if s.licence)) or None

    @property
    def identity(self) -> dict[str, Any]:
        return {"source": "joined", "of": [s.identity for s in self._sources]}

    def labels(self, sample: int) -> ImageLabels | None:
        annotated = np.zeros(len(self.categories), bool)
        maps: list[np.ndarray] = []
        empty: list[np.ndarray] = []
        whole: list[np.ndarray] = []
        for source, concept, category in zip(self._sources, self._concept, self._category, strict=True):
            found = source.labels(sample)
            if found is None:
                continue
            annotated[category[found.annotated]] = True
            whole.append(concept[found.whole].astype(np.int64))
            same = np.array_equal(concept[:-1], np.arange(len(concept) - 1))
            (maps if len(found.maps) else empty).append(found.maps if same else concept[found.maps])
        if not whole:
            return None
        if len(shapes := {m.shape[1:] for m in maps}) > 1:
            raise DataError(
                f"sample {sample}: got label maps of {sorted(shapes)} pixels (h, w) from {self.about}, "
                "expected one size"
            )
        # Where none has a map, the finest of the sizes in which whole pictures are counted.
        layers = np.concatenate(maps) if maps else max(empty, key=lambda m: m.shape[1] * m.shape[2])
        everywhere = np.unique(np.concatenate(whole))
        if len(whole) == 1:  # one source alone says nothing twice
            return ImageLabels(layers, everywhere, annotated)
        return ImageLabels(once(without(layers, everywhere)), everywhere, annotated)

    def instances(self, sample: int) -> Iterator[Instance]:
        for source, concept in zip(self._sources, self._concept, strict=True):
            for one in source.instances(sample):
                yield Instance(int(concept[one.concept]), one.mask, one.crowd)

    def picture_licence(self, sample: int) -> str | None:
        return next((x for s in self._sources if (x := s.picture_licence(sample))), None)
