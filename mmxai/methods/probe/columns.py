"""Targets side by side: which columns of X'Y are which task's."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from mmxai.methods.probe.design import Known


class Columns:
    """Of a cohort's tasks and controls. Classes and labels have a column each, +1 where there, else -1;
    numbers one as they are (scikit-learn's RidgeClassifier codes so; its single column of two classes is our
    second)."""

    def __init__(self, known: Sequence[Known]):
        self.known = tuple(known)
        edges = np.cumsum([0, *(k.task.width for k in known)])
        self.slices = [slice(int(a), int(b)) for a, b in pairwise(edges)]
        self.total = int(edges[-1])

    def encode(self, which: np.ndarray) -> np.ndarray:
        """float32 `[n, T]` of items, by their place in the cohort."""
        out = np.empty((len(which), self.total), np.float32)
        for known, columns in zip(self.known, self.slices, strict=True):
            values = known.values[which]
            match known.task.kind:
                case "classes":
                    out[:, columns] = values[:, None] == np.arange(known.task.width)
                case "multilabel":
                    out[:, columns] = values == 1
                case "regression":
                    out[:, columns] = values[:, None]
        return out
