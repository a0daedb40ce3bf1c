"""Units that say the same: each one's nearest others by correlation, and near-duplicates in groups."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from mmxai.linalg.correlation import CrossMoments
from mmxai.store.permute import Permutation
from mmxai.store.units import BLOCK_VALUES, Units


@dataclass
class Redundancy:
    """nearest int64 `[U, n]` and correlation float32 `[U, n]`, the largest |r| first; over `rows` rows.

    groups: units linked by |r| >= `level`, the largest group first.
    """

    rows: int
    level: float
    nearest: np.ndarray
    correlation: np.ndarray
    groups: list[list[int]]


def redundancy(
    units: Units, numbers: np.ndarray, *, rows: int, level: float, near: int, seed: int = 0
) -> Redundancy:
    """Of logical rows `numbers`: all, or `rows` drawn without replacement, for U^2 products a row are much.

    The standard error of a correlation over n independent rows is about (1 - r^2) / sqrt(n).
    """
    if len(numbers) > rows:
        numbers = np.sort(numbers[Permutation(len(numbers), seed)(np.arange(rows))])
    found = CrossMoments(units.count, units.count)
    step = max(1, BLOCK_VALUES // units.site.width)
    for start in range(0, len(numbers), step):
        x = units.values(numbers[start : start + step])
        found.update(x, x)
    r = found.correlation()
    r.fill_diagonal_(0)
    _, index = r.abs().topk(min(near, max(1, units.count - 1)), dim=1)
    return Redundancy(
        len(numbers),
        level,
        index.numpy(),
        r.gather(1, index).numpy(),
        linked((r.abs() >= level).nonzero(), units.count),
    )


def linked(pairs: torch.Tensor, count: int) -> list[list[int]]:
    """Connected components of at least two, of pairs int64 `[P, 2]`."""
    parent = list(range(count))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    for a, b in pairs.tolist():
        parent[root(a)] = root(b)
    members: dict[int, list[int]] = {}
    for i in sorted(set(pairs.flatten().tolist())):
        members.setdefault(root(i), []).append(i)
    return sorted(members.values(), key=lambda g: (-len(g), g))
