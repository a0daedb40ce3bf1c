"""Control tasks: labels at random, the same wherever the same thing is seen (Hewitt & Liang 2019).

A probe that does as well on them as on the task has learned the things by heart: selectivity is the accuracy
on the task less that on its control.
"""

from __future__ import annotations

import numpy as np

from mmxai.kernels.permute.reference import mix
from mmxai.labels.labels import Task

_KEY = np.uint64(0x636F6E74726F6C)  # "control"


def hashed(values: np.ndarray, *keys: int) -> np.ndarray:
    """uint64 `[n]` drawn by integers `[n]` and keys: the same everywhere."""
    with np.errstate(over="ignore"):  # of uint64, where it is meant
        out = mix(values.astype(np.uint64) + _KEY)
        for key in keys:
            out = mix(out + mix(np.array([key], np.uint64) + _KEY))
    return out


def uniform(values: np.ndarray, *keys: int) -> np.ndarray:
    """float64 `[n]` in [0, 1), by `hashed`."""
    return (hashed(values, *keys) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def control_values(
    task: Task, values: np.ndarray, known: np.ndarray, train: np.ndarray, types: np.ndarray, seed: int
) -> np.ndarray:
    """Values of a control of `task`: each type gets those of a training item drawn at random.

    values: of the items, as `Labels` has them; known, train: bool `[n]`, which have one, and which may be
    drawn from; types: int64 `[n]`, what an item is. Items that are unknown stay so. Every kind of task keeps
    the frequency of its labels, multilabel ones also which labels go together.
    """
    pool = np.flatnonzero(known & train)
    out = values.copy()
    drawn = (uniform(types[known], seed) * len(pool)).astype(np.int64)
    out[known] = values[pool[drawn]]
    return out


def types_of(
    task: Task, values: np.ndarray, samples: np.ndarray, tokens: np.ndarray, by_token: bool
) -> np.ndarray:
    """What an item is to a control: its token id (-1 all alike), or else its sample and, of labels of
    patches, its own label there, so that patches that go together keep doing so."""
    if by_token:
        return tokens.astype(np.int64)
    if task.level == "sample":
        return samples
    own = values
    if task.kind == "multilabel":
        own = (values.astype(np.float64) @ uniform(np.arange(task.width)) * 2.0**40).astype(np.int64)
    return hashed(samples, 1).view(np.int64) ^ hashed(own.astype(np.int64), 2).view(np.int64)
