"""Synthetic activations with a known dictionary: more features than dimensions, sparse, correlated as stated.

The setting of toy models of superposition (Elhage et al. 2022): a row is a sparse, positive code times
unit directions. A method that finds dictionaries can be held against the true one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from mmxai.errors import ArgumentError
from mmxai.shapes.rng import Draws, key_of

_DIRECTIONS, _CODES, _GROUPS, _NOISE = 31, 32, 33, 34
_WORD = 1 << 32


@dataclass(frozen=True, slots=True)
class Coded:
    """Rows and the truth about them: activations float32 `[N, width]`, codes float32 `[N, features]`."""

    x: torch.Tensor
    codes: torch.Tensor


class Dictionary:
    """An endless matrix of activations; row i is a function of (settings, i) alone, up to float rounding.

    `features` directions in `width` dimensions, `directions` float32 `[features, width]` of norm 1. Each is
    active with `probability`, and its code is then uniform on [0.5, 1.5]. Features come in groups of `group`
    neighbours; within one the activity of any two has Pearson correlation `correlation`, and is independent
    otherwise. `noise`: standard deviation of what is added to each dimension. `importance` float32
    `[features]` is `decay ** i`: what a loss may weigh features by; the activations do not depend on it.
    """

    def __init__(
        self,
        features: int = 512,
        width: int = 64,
        *,
        probability: float = 0.01,
        correlation: float = 0.0,
        group: int = 8,
        noise: float = 0.0,
        decay: float = 1.0,
        seed: int = 0,
    ):
        if features < 1 or width < 1 or group < 1 or noise < 0 or not 0 < decay <= 1:
            raise ArgumentError(
                f"dictionary: got features={features}, width={width}, group={group}, noise={noise}, "
                f"decay={decay}; expected positive sizes, noise >= 0, 0 < decay <= 1"
            )
        if not 0 < probability < 1 or not 0 <= correlation <= 1:
            raise ArgumentError(
                f"dictionary: got probability={probability}, correlation={correlation}; expected a "
                f"probability between 0 and 1 and a correlation of 0 to 1"
            )
        self.features, self.width, self.group = features, width, group
        self.probability, self.correlation, self.noise = probability, correlation, noise
        self.seed = seed
        normal = _normal(key_of(seed, _DIRECTIONS), np.arange(features * width)).reshape(features, width)
        normal /= np.linalg.norm(normal, axis=1, keepdims=True)
        self.directions = torch.from_numpy(normal.astype(np.float32))
        self.importance = torch.from_numpy((decay ** np.arange(features)).astype(np.float32))

    def codes(self, rows: Sequence[int] | np.ndarray) -> torch.Tensor:
        """float32 `[N, features]`: the true codes of some rows."""
        rows = np.asarray(rows, np.int64)
        groups = -(-self.features // self.group)
        # A feature is active if its group is and it is, given that: then any two of a group correlate by
        # (p / q - p) / (1 - p), q the probability of the group.
        given = self.correlation * (1 - self.probability) + self.probability if self.correlation else None
        own = Draws(key_of(self.seed, _CODES), _cells(rows, self.features))
        uniform, size = own.word() >> np.uint64(32), own.below(1 << 20)
        if given is None:
            active = uniform < np.uint64(self.probability * _WORD)
        else:
            word = Draws(key_of(self.seed, _GROUPS), _cells(rows, groups)).word() >> np.uint64(32)
            awake = word < np.uint64(self.probability / given * _WORD)
            of_group = np.arange(self.features) // self.group
            active = uniform < np.uint64(min(given * _WORD, _WORD))
            active &= awake.reshape(len(rows), groups)[:, of_group].ravel()
        codes = np.where(active, 0.5 + size / (1 << 20), 0).astype(np.float32)
        return torch.from_numpy(codes.reshape(len(rows), self.features))

    def rows(self, rows: Sequence[int] | np.ndarray) -> Coded:
        """Some rows, with their codes."""
        rows = np.asarray(rows, np.int64)
        codes = self.codes(rows)
        x = codes @ self.directions
        if self.noise:
            noise = _normal(key_of(self.seed, _NOISE), _cells(rows, self.width)).reshape(
                len(rows), self.width
            )
            x = x + torch.from_numpy((self.noise * noise).astype(np.float32))
        return Coded(x, codes)

    def __getitem__(self, rows: slice | Sequence[int] | np.ndarray) -> torch.Tensor:
        """Activations float32 `[N, width]` of a slice with both ends, or of row numbers."""
        if isinstance(rows, slice):
            if rows.stop is None:
                raise ArgumentError(f"dictionary: got rows {rows} without an end, expected [start:stop]")
            rows = np.arange(rows.start or 0, rows.stop, rows.step or 1)
        rows = np.asarray(rows)
        if rows.ndim != 1 or (rows < 0).any():
            raise ArgumentError(f"dictionary: got rows {rows}, expected a list of numbers from 0")
        return self.rows(rows).x

    @property
    def identity(self) -> dict[str, Any]:
        """All that decides the activations, as JSON."""
        names = ("features", "width", "probability", "correlation", "group", "noise", "seed")
        return {"source": "dictionary", **{name: getattr(self, name) for name in names}}

    def __repr__(self) -> str:
        return (
            f"Dictionary({self.features} features in {self.width} dimensions, "
            f"probability {self.probability:g}, correlation {self.correlation:g} "
            f"in groups of {self.group}, seed {self.seed})"
        )


def _cells(rows: np.ndarray, columns: int) -> np.ndarray:
    return (rows[:, None] * columns + np.arange(columns)).ravel()


def _normal(key: int, cells: np.ndarray) -> np.ndarray:
    """Standard normal float64 `[N]` by Box and Muller."""
    draws = Draws(key, cells)
    one, two = ((draws.below(1 << 31) + 0.5) / (1 << 31) for _ in range(2))
    return np.sqrt(-2 * np.log(one)) * np.cos(2 * np.pi * two)
