"""How alike two sets of directions are: two seeds of one training, or what was found and what was planted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from mmxai.errors import ArgumentError
from mmxai.results import Result, axes, number

if TYPE_CHECKING:
    import pandas
    from matplotlib.axes import Axes

SHARED = 0.7
"""Two directions count as one from this cosine on (Paulo and Belrose 2025, arXiv:2501.16615)."""

_BLOCK = 1024
_RANDOM = 1024  # directions of the chance


@dataclass(repr=False)
class Overlap(Result):
    """Of n directions against m others, by cosine.

    best float64 `[n]`, other int64 `[n]`: the largest cosine of each and with which. mutual bool `[n]`: each
    is the other's best. mean_max: mean of `best`. shared: share of the n in a mutual pair of at least 0.7.
    chance: mean_max of 1,024 random directions against the m, what nothing in common would give.
    """

    mean_max: float
    shared: float
    chance: float
    best: np.ndarray
    other: np.ndarray
    mutual: np.ndarray

    def summary(self) -> str:
        return (
            f"mean max cosine {number(self.mean_max)} (random directions {number(self.chance)}), "
            f"{self.shared:.1%} of {len(self.best):,} shared"
        )

    def to_pandas(self) -> pandas.DataFrame:
        """A row a direction."""
        import pandas

        return pandas.DataFrame({"best": self.best, "other": self.other, "mutual": self.mutual})

    def plot(self, ax: Axes | None = None) -> Axes:
        """Histogram of the best cosines."""
        ax = axes(ax)
        ax.hist(self.best, np.linspace(min(0.0, float(self.best.min())), 1, 51).tolist())
        ax.axvline(self.chance, color="black", linestyle=":", label="random directions")
        ax.set(xlabel="largest cosine with any direction of the other", ylabel="directions")
        ax.legend()
        return ax


def overlap(one: torch.Tensor, two: torch.Tensor, *, signed: bool = True, seed: int = 0) -> Overlap:
    """Cosines of the directions `one` `[n, D]` with `two` `[m, D]`; `signed=False`: their absolute values,
    for directions whose sign means nothing (principal and independent components).

    Of two seeds of the same training it says how much of a dictionary is found again. Held against the
    directions planted in synthetic data, `overlap(planted, found).mean_max` is the mean max cosine similarity
    of Sharkey et al. (2022). Directions of length 0 have cosine 0 with all.
    """
    a, b = _units(one, two)
    best, other = _nearest(a, b, signed)
    _, back = _nearest(b, a, signed)
    mutual = back[other] == torch.arange(len(a))
    generator = torch.Generator().manual_seed(seed)
    random = torch.randn(_RANDOM, a.shape[1], dtype=torch.float64, generator=generator)
    chance, _ = _nearest(_unit(random), b, signed)
    return Overlap(
        mean_max=float(best.mean()),
        shared=float((mutual & (best >= SHARED)).double().mean()),
        chance=float(chance.mean()),
        best=best.numpy(),
        other=other.numpy(),
        mutual=mutual.numpy(),
    )


def matched_cosine(one: torch.Tensor, two: torch.Tensor, *, signed: bool = True) -> float:
    """Mean cosine of the pairs of the best one-to-one matching of `one` `[n, D]` with `two` `[m, D]`
    (Hungarian method). Time grows with the cube of the smaller number: seconds at 2,000."""
    from scipy.optimize import linear_sum_assignment  # heavy, and only this needs it

    a, b = _units(one, two)
    cosines = (a @ b.T).numpy()
    cosines = cosines if signed else np.abs(cosines)
    rows, columns = linear_sum_assignment(cosines, maximize=True)
    return float(cosines[rows, columns].mean())


def _units(one: torch.Tensor, two: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    shapes = tuple(one.shape), tuple(two.shape)
    fit = one.ndim == two.ndim == 2 and one.shape[1] == two.shape[1] and one.numel() and two.numel()
    if not fit or not (one.isfinite().all() and two.isfinite().all()):
        raise ArgumentError(
            f"overlap: got directions {shapes[0]} and {shapes[1]}, expected finite ones of one width, [n, D] "
            "and [m, D], some of each"
        )
    return _unit(one), _unit(two)


def _unit(rows: torch.Tensor) -> torch.Tensor:
    rows = rows.detach().double().cpu()
    return rows / rows.norm(dim=1, keepdim=True).clamp(min=1e-300)


def _nearest(a: torch.Tensor, b: torch.Tensor, signed: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Largest cosine of each row of `a` with a row of `b`, and which; a block of `a` at a time."""
    blocks = (block @ b.T for block in a.split(_BLOCK))
    values, which = zip(*((c if signed else c.abs()).max(1) for c in blocks), strict=True)
    return torch.cat(values), torch.cat(which)
