"""Least-squares concept erasure (LEACE): the least affine change that hides a concept from linear probes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from mmxai.errors import ArgumentError
from mmxai.linalg.states import State


@dataclass(frozen=True, eq=False)
class Leace:
    """x -> x - left right' (x - mean): float64 left, right `[D, r]`, mean `[D]`; r is the concept's rank.

    A call takes floats `[..., D]` on any device and gives the same type, so that it is an edit of a model's
    site: `model.run(inputs, edit={site: eraser})`, `model.intervene({site: eraser})`.
    """

    left: torch.Tensor
    right: torch.Tensor
    mean: torch.Tensor

    @property
    def rank(self) -> int:
        return self.left.shape[1]

    @property
    def projection(self) -> torch.Tensor:
        """P of x -> P (x - mean) + mean, float64 `[D, D]`: a projection, oblique in general."""
        return torch.eye(len(self.mean), dtype=torch.float64) - self.left @ self.right.T

    def __call__(self, x: torch.Tensor, *_: Any) -> torch.Tensor:
        # Half precision cannot hold the difference of a large value and its mean.
        wide = torch.float64 if x.dtype == torch.float64 else torch.float32
        left, right, mean = (t.to(x.device, wide) for t in (self.left, self.right, self.mean))
        flat = x.to(wide)
        return (flat - ((flat - mean) @ right) @ left.T).to(x.dtype)

    def tensors(self) -> dict[str, torch.Tensor]:
        """For a safetensors file; `Leace(**tensors)` is it again."""
        return {"left": self.left, "right": self.right, "mean": self.mean}


def leace(state: State, columns: Sequence[int] | slice = slice(None), *, tolerance: float = 1e-10) -> Leace:
    """The eraser of the concept that target `columns` of `state` code (one-hot classes, labels, numbers).

    Belrose et al. 2023 (arXiv:2306.03819), theorem 4.3: with W the pseudo-inverse of the square root of x's
    covariance, P = I - W^+ Q W, Q projecting on the columns of W cov(x, y). Of all affine maps after which no
    linear function of x tells anything of y on these rows (their covariance is 0), it changes x least in mean
    square. Directions whose variance is below `tolerance` of the largest count as none; concept directions
    likewise.
    """
    shared = state.xy[:, columns] / state.count
    if shared.ndim != 2 or not shared.shape[1]:
        raise ArgumentError(
            f"leace: got columns {columns}, expected one or more of {state.xy.shape[1]} targets"
        )
    variances, basis = torch.linalg.eigh(state.xx / state.count)
    kept = variances > tolerance * variances[-1].clamp(min=0)
    root, basis = variances[kept].sqrt(), basis[:, kept]
    whitened = (basis.T @ shared) / root[:, None]
    # Targets of different units weigh alike in what counts as a direction.
    spread = (state.yy[columns] / state.count).sqrt()
    scaled = whitened / torch.where(spread > 0, spread, 1.0)
    directions, strengths, _ = torch.linalg.svd(scaled, full_matrices=False)
    # Singular values are of correlations: up to the square root of the targets' number.
    directions = directions[:, strengths > tolerance**0.5]
    return Leace(basis @ (root[:, None] * directions), basis @ (directions / root[:, None]), state.mean_x)
