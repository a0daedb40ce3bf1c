"""Sites for case `probe`: planted classes in rows whose spectrum decays as that of activations does."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

import mmxai

STORE = "acts.zarr"
APART = 5.0
"""Distance between the means of two classes over the root of a direction's variance, summed over all."""


@dataclass(frozen=True)
class Work:
    sites: int
    rows: int
    width: int
    classes: int
    folds: int
    penalties: tuple[float, ...]

    def __str__(self) -> str:
        return (
            f"{self.sites} sites of {self.rows:,} x {self.width}, {self.classes} classes, "
            f"{len(self.penalties)} penalties, {self.folds} folds, a task and a control"
        )

    @property
    def fits(self) -> int:
        """Of one site."""
        return len(self.penalties) * self.folds * 2


def write(folder: Path, work: Work) -> None:
    """Into `folder`: the store, float32; labels.npy `[rows, 2]` (a task, and drawn classes as its control),
    fold.npy `[rows]`, and rows.f32, the first site's rows as they are, for rivals."""
    draw = torch.Generator().manual_seed(0)
    labels = torch.randint(work.classes, (work.rows, 2), generator=draw)
    fold = torch.randperm(work.rows, generator=draw) % work.folds
    np.save(folder / "labels.npy", labels.numpy())
    np.save(folder / "fold.npy", fold.numpy())
    acts = {f"vision.{i}.resid_post": _rows(work, labels[:, 0], draw) for i in range(work.sites)}
    next(iter(acts.values())).numpy().tofile(folder / "rows.f32")
    widths = dict.fromkeys(acts, work.width)
    with mmxai.create_store(
        folder / STORE, widths, dtype="float32", space="vision", samples_per_part=4096, statistics=False
    ) as store:
        store.write(range(work.rows), acts)


def _rows(work: Work, label: torch.Tensor, draw: torch.Generator) -> torch.Tensor:
    """Variance of the k-th direction 1 / k, directions at random, an offset in every column."""
    width = work.width
    scale = torch.arange(1, width + 1).rsqrt()
    turn = torch.linalg.qr(torch.randn(width, width, generator=draw))[0]
    means = torch.randn(work.classes, width, generator=draw) * scale * (APART / (2 * width) ** 0.5)
    noise = torch.randn(work.rows, width, generator=draw) * scale
    return (noise + means[label]) @ turn + torch.randn(width, generator=draw)
