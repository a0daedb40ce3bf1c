"""How alike two sets of directions are: two SAEs of one site, or an SAE and a dictionary that is known."""

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

    from mmxai.methods.sae.model import SAE

SHARED = 0.7
"""Two latents count as one from this cosine on (Paulo and Belrose 2025, arXiv:2501.16615)."""

_BLOCK = 1024


@dataclass(repr=False)
class Overlap(Result):
    """Of n directions against m others, by cosine.

    best float64 `[n]`, other int64 `[n]`: the largest cosine of each and with which. mutual bool `[n]`: each
    is the other's best. mean_max: mean of `best`. shared: share of the n in a mutual pair of at least 0.7.
    chance: mean_max of as many random directions against the m, what nothing in common would give.
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


def directions(sae: SAE) -> torch.Tensor:
    """What one unit of each latent adds to the sites out, in their own units: float64 `[M, E]`."""
    spec = sae.spec
    scale = torch.tensor(spec.scale_out, dtype=torch.float64)
    return sae.W_dec.double().cpu() / scale.repeat_interleave(torch.tensor(spec.widths_out))


def overlap(one: SAE | torch.Tensor, two: SAE | torch.Tensor, *, seed: int = 0) -> Overlap:
    """Cosines of the decoder directions of `one` with those of `two`; either may be a tensor `[n, E]`.

    Of two seeds of the same training it says how much of a dictionary is found again. Held against the
    directions planted in synthetic data, `overlap(planted, sae).mean_max` is the mean max cosine similarity
    of Sharkey et al. (2022). Directions of length 0 have cosine 0 with all.
    """
    a, b = _unit(one), _unit(two)
    if a.shape[1] != b.shape[1] or not len(a) or not len(b):
        raise ArgumentError(
            f"overlap: got directions {tuple(a.shape)} and {tuple(b.shape)}, expected one width"
        )
    best, other = _nearest(a, b)
    _, back = _nearest(b, a)
    mutual = back[other] == torch.arange(len(a))
    generator = torch.Generator().manual_seed(seed)
    random = torch.randn(min(len(a), _BLOCK), a.shape[1], dtype=torch.float64, generator=generator)
    chance, _ = _nearest(_unit(random), b)
    return Overlap(
        mean_max=float(best.mean()),
        shared=float((mutual & (best >= SHARED)).double().mean()),
        chance=float(chance.mean()),
        best=best.numpy(),
        other=other.numpy(),
        mutual=mutual.numpy(),
    )


def _unit(given: SAE | torch.Tensor) -> torch.Tensor:
    rows = given.detach().double().cpu() if isinstance(given, torch.Tensor) else directions(given)
    return rows / rows.norm(dim=1, keepdim=True).clamp(min=1e-300)


def _nearest(a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Largest cosine of each row of `a` with a row of `b`, and which; a block of `a` at a time."""
    values, which = zip(*((block @ b.T).max(1) for block in a.split(_BLOCK)), strict=True)
    return torch.cat(values), torch.cat(which)
