"""What network dissection is measured on: grids of activations, and label maps of a few pieces."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
import torch.nn.functional as F

QUANTILE = 0.005
"""A unit's mask is this share of its activations, the largest."""
STEPS = 1 << 10
"""Activations are multiples of 1 / STEPS: with weights of sixteenths no sum rounds, and every way of
interpolating gives the same float32."""


@dataclass(frozen=True)
class Work:
    """Pictures seen by `units` on a grid x grid, with label maps of size x size in some categories."""

    pictures: int
    units: int
    grid: int
    size: int
    concepts: int
    categories: int
    present: int
    seed: int = 0

    @property
    def columns(self) -> int:
        """Concepts, and after them every pixel."""
        return self.concepts + 1

    def __str__(self) -> str:
        return (
            f"{self.pictures:,} pictures, {self.units} units on {self.grid} x {self.grid}, labels "
            f"{self.size} x {self.size}, {self.concepts} concepts in {self.categories} categories, "
            f"{self.present} a picture"
        )

    @cached_property
    def activations(self) -> torch.Tensor:
        """float32 `[pictures, grid * grid, units]`: smooth, as of neighbouring patches, with noise."""
        g = torch.Generator().manual_seed(self.seed)
        found = torch.empty(self.pictures, self.grid**2, self.units)
        side = max(2, self.grid // 3)
        for first in range(0, self.pictures, 16):
            part = found[first : first + 16]
            coarse = torch.randn(len(part), self.units, side, side, generator=g)
            fine = F.interpolate(coarse, size=self.grid, mode="bicubic").flatten(2).transpose(1, 2)
            noisy = fine + 0.3 * torch.randn(part.shape, generator=g)
            part.copy_((noisy * STEPS).round().clamp(-8 * STEPS, 8 * STEPS) / STEPS)
        return found

    @cached_property
    def thresholds(self) -> torch.Tensor:
        """float32 `[units]`: the exact quantile over all cells of all pictures."""
        flat = self.activations.flatten(0, 1)
        k = max(1, int(QUANTILE * len(flat)))
        parts = (part.topk(k, 0).values[-1] for part in flat.split(64, 1))
        return torch.cat(list(parts))

    @cached_property
    def maps(self) -> np.ndarray:
        """int32 `[pictures, categories, size, size]`: of each category the nearest of some random points has
        the pixel, so that pieces are whole; one in ten has no label."""
        rng = np.random.default_rng(self.seed)
        pieces = round(self.present / self.categories)
        each = self.concepts // self.categories
        grid = np.stack(np.meshgrid(*[np.arange(self.size, dtype=np.float32)] * 2, indexing="ij"), -1)
        maps = np.empty((self.pictures, self.categories, self.size, self.size), np.int32)
        for picture in maps:
            for category, plane in enumerate(picture):
                labels = category * each + rng.choice(each, pieces, replace=False).astype(np.int32)
                labels[rng.random(pieces) < 0.1] = -1
                points = (rng.random((pieces, 2)) * self.size).astype(np.float32)
                apart = (grid[:, :, None] - points) ** 2
                plane[:] = labels[apart.sum(-1).argmin(-1)]
        return maps

    @cached_property
    def cells(self) -> np.ndarray:
        """The grid row of each map row (columns alike), int32 `[size]`."""
        return (np.arange(self.size) * self.grid // self.size).astype(np.int32)

    @cached_property
    def positions(self) -> np.ndarray:
        """Where a map row lies between centres, float64 `[size]`."""
        return np.clip((np.arange(self.size) + 0.5) * self.grid / self.size - 0.5, 0, self.grid - 1)

    def batches(self, size: int) -> Iterator[slice]:
        for first in range(0, self.pictures, size):
            yield slice(first, min(first + size, self.pictures))
