"""Figures of a reconstruction that need nothing but activations: FVU, L0, dead latents, density, cosine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from mmxai.errors import ArgumentError, NonFiniteError
from mmxai.kernels.codes import Codes
from mmxai.methods.sae.spec import SAESpec
from mmxai.results import Result, axes, lines_of, number

if TYPE_CHECKING:
    import pandas
    from matplotlib.axes import Axes

EDGES = np.arange(-7, 0.01, 0.25)
"""Edges of the density histogram: log10 of how often a latent is active."""


@dataclass(repr=False)
class Metrics(Result):
    """Over `rows` held-out rows, in the sites' own units.

    fvu: fraction of variance unexplained, sum |y - target|^2 / sum |target - its mean|^2, over all sites out
    (fvu_by_site: each). mse: mean squared error of a value. cosine: mean over rows of cos(y, target), and
    norm_ratio of |y| / |target|, both over the rows whose target is not 0 (NaN where there is none). l0: mean
    number of active latents (activation > 0) a row; l0_std its standard deviation. dead: fraction of latents
    never active on these rows.

    Per latent, `[M]`: density float64 (fraction of rows on which it is active), mean_active float64 (its mean
    activation there, 0 where dead), max_active float32.
    """

    rows: int
    fvu: float
    fvu_by_site: dict[str, float]
    mse: float
    cosine: float
    norm_ratio: float
    l0: float
    l0_std: float
    dead: float
    density: np.ndarray
    mean_active: np.ndarray
    max_active: np.ndarray

    @property
    def explained_variance(self) -> float:
        """1 - fvu."""
        return 1 - self.fvu

    def histogram(self) -> tuple[np.ndarray, np.ndarray]:
        """Latents by log10(density): counts int64 `[28]` and edges `[29]`; dead ones are in none."""
        alive = self.density[self.density > 0]
        return np.histogram(np.log10(alive).clip(EDGES[0], EDGES[-1]), EDGES)

    def summary(self) -> str:
        names = ("fvu", "l0", "dead", "cosine", "norm ratio")
        values = (self.fvu, self.l0, self.dead, self.cosine, self.norm_ratio)
        return lines_of(("rows", *names), [(f"{self.rows:,}", *map(number, values))])

    def to_pandas(self) -> pandas.DataFrame:
        """A row a latent."""
        import pandas

        columns = {name: getattr(self, name) for name in ("density", "mean_active", "max_active")}
        return pandas.DataFrame(columns).rename_axis("latent")

    def plot(self, ax: Axes | None = None) -> Axes:
        """The density histogram."""
        ax = axes(ax)
        counts, edges = self.histogram()
        ax.stairs(counts, edges, fill=True)
        ax.set(xlabel="log10 of the fraction of rows on which a latent is active", ylabel="latents")
        ax.set_title(f"{self.dead:.1%} of {len(self.density):,} dead over {self.rows:,} rows")
        return ax


class Measures:
    """Takes in batches, gives `Metrics`. Sums run in float64; one batch's memory is all it needs."""

    def __init__(self, spec: SAESpec):
        self.spec, m, e = spec, spec.latents, spec.width_out
        self.rows = 0
        self.fired = np.zeros(m, np.int64)
        self.total = np.zeros(m)
        self.most = np.zeros(m, np.float32)
        self.directed = 0
        """Rows whose target is not 0: only those have a direction."""
        self.l0 = self.l0_squares = self.cosine = self.ratio = 0.0
        self.error = torch.zeros(e, dtype=torch.float64)
        self.mean = torch.zeros(e, dtype=torch.float64)
        self.spread = torch.zeros(e, dtype=torch.float64)

    def update(self, codes: Codes, y: torch.Tensor, target: torch.Tensor) -> None:
        """Rows: their codes, reconstructions and targets `[N, E]`. NonFiniteError where one is not finite."""
        n = len(target)
        if y.shape != target.shape or codes.rows != n or target.shape[1] != self.spec.width_out:
            raise ArgumentError(
                f"measures: got codes of {codes.rows} rows, outputs {tuple(y.shape)} and targets "
                f"{tuple(target.shape)}, expected (N, {self.spec.width_out}) of both"
            )
        if not n:
            return
        y, target = y.double().cpu(), target.double().cpu()
        wrong = (y - target).square().sum(0)
        if not wrong.isfinite().all():
            row = int((~(y.isfinite() & target.isfinite()).all(1)).nonzero()[0])
            raise NonFiniteError(
                f"evaluation: got NaN or inf in row {row} of a batch of {n} "
                f"({'target' if not target[row].isfinite().all() else 'reconstruction'}), expected finite "
                "rows; leave such rows out of the store, or check the SAE"
            )
        self._variance(target)
        self.error += wrong
        made, wanted = y.norm(dim=1), target.norm(dim=1)
        some = wanted > 0
        self.directed += int(some.sum())
        cosines = (y * target).sum(1) / (made * wanted).clamp(min=1e-300)
        self.cosine += float(cosines[some].sum())
        self.ratio += float((made[some] / wanted[some]).sum())
        self._activity(codes)
        self.rows += n

    def _variance(self, target: torch.Tensor) -> None:
        n, total = len(target), self.rows + len(target)
        mean = target.mean(0)
        apart = mean - self.mean
        self.spread += (target - mean).square().sum(0) + apart.square() * (self.rows * n / total)
        self.mean += apart * (n / total)

    def _activity(self, codes: Codes) -> None:
        active = codes.values > 0  # codes may hold entries of value 0
        values = codes.values[active].cpu().numpy()
        latents = codes.indices[active].cpu().numpy()
        self.fired += np.bincount(latents, minlength=len(self.fired))
        self.total += np.bincount(latents, weights=values, minlength=len(self.fired))
        np.maximum.at(self.most, latents, values)
        each = np.bincount(codes.row_of()[active].cpu().numpy(), minlength=codes.rows).astype(float)
        self.l0 += each.sum()
        self.l0_squares += (each**2).sum()

    def result(self) -> Metrics:
        """The figures so far; ArgumentError where no row was seen."""
        if not self.rows:
            raise ArgumentError("measures: got no rows, expected at least one")
        n = self.rows
        l0 = self.l0 / n
        return Metrics(
            rows=n,
            fvu=_ratio(self.error, self.spread),
            fvu_by_site=self._by_site(),
            mse=float(self.error.mean()) / n,
            cosine=self.cosine / self.directed if self.directed else float("nan"),
            norm_ratio=self.ratio / self.directed if self.directed else float("nan"),
            l0=l0,
            l0_std=max(0.0, self.l0_squares / n - l0**2) ** 0.5,
            dead=float((self.fired == 0).mean()),
            density=self.fired / n,
            mean_active=self.total / np.maximum(self.fired, 1),
            max_active=self.most,
        )

    def _by_site(self) -> dict[str, float]:
        widths = list(self.spec.widths_out)
        parts = zip(self.spec.sites_out, self.error.split(widths), self.spread.split(widths), strict=True)
        return {site: _ratio(error, spread) for site, error, spread in parts}


def _ratio(error: torch.Tensor, spread: torch.Tensor) -> float:
    whole = float(spread.sum())
    return float(error.sum()) / whole if whole else float("nan")
