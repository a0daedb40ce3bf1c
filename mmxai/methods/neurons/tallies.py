"""What one pass tells of every unit: moments, how often, means by token type, sums by label."""

from __future__ import annotations

import numpy as np
import torch

from mmxai.errors import NonFiniteError
from mmxai.store.units import Block
from mmxai.types import TOKEN_TYPES


class Moments4:
    """Count, mean, variance, excess kurtosis, extremes, share above 0: float64 `[U]` each.

    Powers are of deviations from the mean of the first block, in float64, so that an offset costs no digits.
    """

    def __init__(self, units: int):
        self.count = 0
        self._shift: torch.Tensor | None = None
        self._powers = torch.zeros(4, units, dtype=torch.float64)
        self._positive = torch.zeros(units, dtype=torch.int64)
        self.low, self.high = torch.full((units,), torch.inf), torch.full((units,), -torch.inf)

    def add(self, block: Block) -> None:
        x = block.values
        if not x.isfinite().all():
            row = int(block.rows[int((~x.isfinite().all(1)).nonzero()[0])])
            raise NonFiniteError(
                f"row {row}: got NaN or inf, expected finite activations; leave such rows out of the harvest"
            )
        if self._shift is None:
            self._shift = x.double().mean(0)
        d = x.double() - self._shift
        square = d.square()
        self._powers += torch.stack([d.sum(0), square.sum(0), (square * d).sum(0), square.square().sum(0)])
        self._positive += (x > 0).sum(0)
        self.low, self.high = torch.minimum(self.low, x.amin(0)), torch.maximum(self.high, x.amax(0))
        self.count += len(x)

    @property
    def _means(self) -> torch.Tensor:
        return self._powers / self.count

    @property
    def mean(self) -> torch.Tensor:
        assert self._shift is not None  # a pass has blocks, or raises
        return self._shift + self._means[0]

    @property
    def var(self) -> torch.Tensor:
        """Divisor n; exactly 0 where a unit never changes."""
        first, second = self._means[:2]
        return torch.where(self.low == self.high, 0, (second - first.square()).clamp(min=0))

    @property
    def kurtosis(self) -> torch.Tensor:
        """Fourth moment over squared variance, less 3: 0 of a Gaussian; NaN where a unit never changes."""
        m1, m2, m3, m4 = self._means
        fourth = m4 - 4 * m1 * m3 + 6 * m1.square() * m2 - 3 * m1**4
        return torch.where(self.var > 0, fourth / self.var.square() - 3, torch.nan)

    @property
    def density(self) -> torch.Tensor:
        return self._positive.double() / self.count


class TypeMeans:
    """Mean activation by token type: `sums` float64 `[types, U]`, `counts` int64 `[types]`."""

    def __init__(self, units: int):
        self.sums = torch.zeros(len(TOKEN_TYPES), units, dtype=torch.float64)
        self.counts = torch.zeros(len(TOKEN_TYPES), dtype=torch.int64)

    def add(self, block: Block) -> None:
        kind = block.who.token_type.long()
        for code in kind.unique().tolist():
            if code >= 0:
                mine = kind == code
                self.sums[code] += block.values[mine].double().sum(0)
                self.counts[code] += int(mine.sum())

    def over(self, *names: str) -> tuple[int, torch.Tensor]:
        """Rows of these types, and each unit's mean over them, float64 `[U]`."""
        codes = [TOKEN_TYPES.index(name) for name in names]
        count = int(self.counts[codes].sum())
        return count, self.sums[codes].sum(0) / max(1, count)


class PlaceMeans:
    """Mean activation by cell of the grid: `sums` float64 `[h, w, U]`, `counts` int64 `[h, w]`."""

    def __init__(self, units: int):
        self.sums = torch.zeros(0, 0, units, dtype=torch.float64)
        self.counts = torch.zeros(0, 0, dtype=torch.int64)

    def add(self, block: Block) -> None:
        y, x = block.who.y.long(), block.who.x.long()
        there = (y >= 0) & (x >= 0)
        if not there.any():
            return
        y, x = y[there], x[there]
        height, width = max(int(y.max()) + 1, len(self.counts)), max(int(x.max()) + 1, self.counts.shape[1])
        if (height, width) != tuple(self.counts.shape):
            grow = (0, width - self.counts.shape[1], 0, height - len(self.counts))
            self.counts = torch.nn.functional.pad(self.counts, grow)
            self.sums = torch.nn.functional.pad(self.sums, (0, 0, *grow))
        index = y * width + x
        self.sums.view(height * width, -1).index_add_(0, index, block.values[there].double())
        self.counts.view(-1).index_add_(0, index, torch.ones_like(index))

    def means(self) -> torch.Tensor | None:
        """float32 `[h, w, U]`; None where no row is a cell, or the grids differ too much to say a place."""
        if not len(self.counts) or not self.counts.all():
            return None
        return (self.sums / self.counts[..., None]).float()


class LabelSums:
    """Over labelled rows: sums of x, of max(x, 0) and of squares, in all and by label.

    labels: bool `[N, K]` come with each block. Class-selectivity needs activations of one sign: of max(x, 0).
    """

    def __init__(self, units: int, labels: int):
        self.rows = 0
        self.positive = torch.zeros(labels, dtype=torch.int64)
        self._shift: torch.Tensor | None = None
        self._total = torch.zeros(units, dtype=torch.float64)
        self._squares = torch.zeros(units, dtype=torch.float64)
        self._by_label = torch.zeros(units, labels, dtype=torch.float64)
        self._above = torch.zeros(units, dtype=torch.float64)
        self._above_by_label = torch.zeros(units, labels, dtype=torch.float64)

    def add(self, x: torch.Tensor, labels: np.ndarray) -> None:
        """x float32 `[N, U]`, labels bool `[N, K]`."""
        if not len(x):
            return
        if self._shift is None:
            self._shift = x.mean(0)
        y = torch.from_numpy(np.ascontiguousarray(labels, np.float32))
        d, above = x - self._shift, x.relu()
        self._total += d.double().sum(0)
        self._squares += d.double().square().sum(0)
        self._by_label += (d.T @ y).double()
        self._above += above.double().sum(0)
        self._above_by_label += (above.T @ y).double()
        self.positive += torch.from_numpy(labels.sum(0))
        self.rows += len(x)

    def correlation(self) -> torch.Tensor:
        """Point-biserial correlation (Pearson's r with 0 or 1), float32 `[U, K]`; 0 where one is constant."""
        n, p = max(1, self.rows), self.positive.double()
        mean = self._total / n
        var = (self._squares / n - mean.square()).clamp(min=0)
        spread = var.sqrt()[:, None] * (p / n * (1 - p / n)).sqrt()
        r = (self._by_label / n - mean[:, None] * p / n) / spread
        # What rounding leaves of a constant unit's variance is none.
        there = (spread > 0) & (var > 1e-12 * self._squares / n)[:, None]
        return torch.where(there, r, 0).clamp(-1, 1).float()

    def selectivity(self) -> torch.Tensor:
        """(m1 - m0) / (m1 + m0) of the means of max(x, 0) with and without the label: float32 `[U, K]` in
        -1..1; 0 where both are 0, NaN where all rows have the label, or none."""
        p = self.positive.double()
        one = self._above_by_label / p.clamp(min=1)
        none = (self._above[:, None] - self._above_by_label) / (self.rows - p).clamp(min=1)
        found = (one - none).div((one + none).clamp(min=1e-300)).float()
        return torch.where((p > 0) & (p < self.rows), found, torch.nan)

    def class_selectivity(self, classes: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Class-selectivity index of exclusive labels (Morcos et al. 2018, arXiv:1803.06959).

        (m_max - m_others) / (m_max + m_others) of the means of max(x, 0) by class, the others' being the mean
        of their class means: float32 `[U]` in 0..1, and the class of the largest mean, int64 `[U]`. Classes
        without a row are left out.
        """
        there = torch.tensor([c for c in classes if self.positive[c] > 0], dtype=torch.int64)
        if len(there) < 2:
            units = len(self._total)
            return torch.full((units,), torch.nan), torch.full((units,), -1)
        means = self._above_by_label[:, there] / self.positive[there].double()
        most, which = means.max(1)
        others = (means.sum(1) - most) / (len(there) - 1)
        return ((most - others) / (most + others).clamp(min=1e-300)).float(), there[which]
