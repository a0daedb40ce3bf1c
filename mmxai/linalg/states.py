"""Centred moments of a set of rows: what one factorisation turns into every penalty and task."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True, eq=False)
class GramState:
    """Of `count` rows x `[D]` and targets y `[T]`: means, and sums of products of deviations from them.

    All float64: mean_x `[D]`, mean_y `[T]`, yy `[T]` (squares of each target's deviations), xx `[D, D]`
    (symmetric), xy `[D, T]`. Of a column that codes a class as 0 and 1, `class_counts` is its rows and
    `class_means` their mean.
    """

    count: int
    mean_x: torch.Tensor
    mean_y: torch.Tensor
    yy: torch.Tensor
    xx: torch.Tensor
    xy: torch.Tensor

    @property
    def class_counts(self) -> torch.Tensor:
        """Sums of the targets, float64 `[T]`."""
        return _class_counts(self)

    @property
    def class_means(self) -> torch.Tensor:
        """float64 `[T, D]`; of a class without rows, the mean of all."""
        return _class_means(self)


@dataclass(frozen=True, eq=False)
class DualState:
    """The same of fewer rows than columns: x `[n, D]` and y `[n, T]` less their means stand for products."""

    count: int
    mean_x: torch.Tensor
    mean_y: torch.Tensor
    yy: torch.Tensor
    x: torch.Tensor
    y: torch.Tensor

    @property
    def xx(self) -> torch.Tensor:
        """float64 `[D, D]`, made anew each time."""
        return self.x.T @ self.x

    @property
    def xy(self) -> torch.Tensor:
        return self.x.T @ self.y

    @property
    def class_counts(self) -> torch.Tensor:
        return _class_counts(self)

    @property
    def class_means(self) -> torch.Tensor:
        return _class_means(self)


State = GramState | DualState


def _class_counts(state: State) -> torch.Tensor:
    return state.mean_y * state.count


def _class_means(state: State) -> torch.Tensor:
    counts = state.class_counts[:, None]
    # A count comes from a mean: half a row is none.
    return state.mean_x + torch.where(counts > 0.5, state.xy.T / counts.clamp(min=0.5), 0.0)
