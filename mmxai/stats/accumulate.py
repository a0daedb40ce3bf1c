"""One pass over the rows of a site: moments, extremes, top-k and counts per neuron."""

from __future__ import annotations

import numpy as np
import torch

from mmxai.errors import ArgumentError
from mmxai.stats.topk import TopK

STATE_NAMES = (
    "count", "nan", "posinf", "neginf", "mean", "m2", "min", "max", "positive", "topk_values", "topk_rows",
)  # fmt: skip
"""The arrays of a state; their shapes and dtypes are told by `StatsAccumulator.state`."""

PART_SHIFT = 32
"""A row id is `part << PART_SHIFT | row in the part`."""


def state_bytes(width: int, k: int = 16) -> int:
    """Bytes of the state of a site of that width, as a part keeps it."""
    return width * (4 * 8 + 2 * 8 + 2 * 4 + k * (4 + 8)) + 8


_BLOCK_VALUES = 1 << 18  # a float32 block of 1 MiB stays in the cache over its several passes
_FIRST_ROWS = 64  # the first block is small: until there is a k-th value every row is a candidate


class StatsAccumulator:
    """Statistics of the rows given to `update`, per neuron (column).

    NaN and infinities are counted and else left out: every other figure is over the finite values.
    Moments are computed per block in float32 about the block's own mean and merged in float64 (Chan,
    Golub and LeVeque 1983); counts, extremes and top-k are exact and do not depend on how the rows were
    split into calls. float64 input is rounded to float32 first.
    """

    def __init__(self, width: int, k: int = 16):
        if width < 1 or k < 1:
            raise ArgumentError(f"StatsAccumulator: got width {width}, k {k}, expected both at least 1")
        self.width, self.k = width, k
        self._count = 0
        self._next_row = 0
        self._device: torch.device | None = None
        self._setup(torch.device("cpu"))

    def _setup(self, device: torch.device) -> None:
        def filled(value: float, dtype: torch.dtype) -> torch.Tensor:
            return torch.full((self.width,), value, dtype=dtype, device=device)

        self._nan, self._posinf, self._neginf, self._finite, self._positive = (
            filled(0, torch.int64) for _ in range(5)
        )
        self._mean, self._m2 = filled(0, torch.float64), filled(0, torch.float64)
        self._min, self._max = filled(torch.inf, torch.float32), filled(-torch.inf, torch.float32)
        self._topk = TopK(self.width, self.k, device)

    @property
    def count(self) -> int:
        """Rows seen."""
        return self._count

    def update(self, x: torch.Tensor, row0: int) -> None:
        """Take in `x` (`[N, width]`, any float dtype, any strides); its first row has number `row0`.

        Calls come in row order, so that ties in the top-k go to the lower row.
        """
        if x.ndim != 2 or x.shape[1] != self.width or not x.is_floating_point():
            raise ArgumentError(
                f"statistics: got {x.dtype} {tuple(x.shape)}, expected floats of shape (N, {self.width})"
            )
        if row0 < self._next_row:
            raise ArgumentError(
                f"statistics: got row {row0} after row {self._next_row - 1}, expected rows in order"
            )
        if self._device is None:
            self._device = x.device
            self._setup(x.device)
        step = max(32, _BLOCK_VALUES // self.width)
        start = 0
        while start < x.shape[0]:
            stop = start + (step if self._count >= _FIRST_ROWS else min(step, _FIRST_ROWS))
            block = x[start:stop].detach().to(torch.float32)
            self._block(block, row0 + start)
            self._count += block.shape[0]
            start += block.shape[0]
        self._next_row = row0 + x.shape[0]

    def _block(self, x: torch.Tensor, row0: int) -> None:
        n: int | torch.Tensor = x.shape[0]
        total = x.sum(0)
        low, high = x.amin(0), x.amax(0)  # torch.aminmax along rows is twenty times slower
        # A sum that is finite has only finite terms; one that is not is looked at more closely.
        if torch.isfinite(total).all():
            mean = total / n
            centred = x - mean
        else:
            finite = torch.isfinite(x)
            self._nan += torch.isnan(x).sum(0)
            self._posinf += (x == torch.inf).sum(0)
            self._neginf += (x == -torch.inf).sum(0)
            n = finite.sum(0)
            mean = torch.where(finite, x, 0).sum(0, dtype=torch.float64).div(n.clamp(min=1)).to(torch.float32)
            centred = torch.where(finite, x - mean, 0)
            low = torch.where(finite, x, torch.inf).amin(0)
            x = torch.where(finite, x, -torch.inf)
            high = x.amax(0)
        residue = centred.sum(0).to(torch.float64)  # what rounding the mean to float32 left over
        square = centred.mul_(centred).sum(0).to(torch.float64)
        # Squares of values near the end of float32's range overflow; float64 holds them.
        if not torch.isfinite(square).all():
            wide = x.to(torch.float64)
            centred64 = torch.where(torch.isfinite(wide), wide - mean, 0)
            residue, square = centred64.sum(0), centred64.square_().sum(0)
        self._merge_moments(n, mean, residue, square)
        # Ones in float32 (exact below 2^24 rows) add up five times faster than booleans.
        self._positive += torch.gt(x, 0, out=centred).sum(0).to(torch.int64)
        self._min = torch.minimum(self._min, low)
        self._max = torch.maximum(self._max, high)
        self._topk.offer(x, row0, high)

    def _merge_moments(
        self, n: int | torch.Tensor, mean: torch.Tensor, residue: torch.Tensor, square: torch.Tensor
    ) -> None:
        count = n.clamp(min=1) if isinstance(n, torch.Tensor) else n
        block_mean = mean.to(torch.float64) + residue / count
        block_m2 = (square - residue * residue / count).clamp_(min=0)
        total = self._finite + n
        weight = n / total.clamp(min=1).to(torch.float64)
        delta = block_mean - self._mean
        self._m2 += block_m2 + delta * delta * (self._finite * weight)
        self._mean += delta * weight
        self._finite = total

    def state(self, part: int = 0) -> dict[str, np.ndarray]:
        """What `merge` takes and a store keeps; `part` goes into the row ids.

        `count` int64 `[1]` (rows seen), `nan posinf neginf positive` int64 `[D]`, `mean m2` float64 `[D]`
        (m2: sum of squared deviations), `min max` float32 `[D]` (inf and -inf where nothing was finite),
        `topk_values` float32 `[D, k]` descending, `topk_rows` int64 `[D, k]` (`part << 32 | row`; -1 with
        value -inf where there are fewer than k finite values).
        """
        self._topk.flush()
        rows = self._topk.rows
        state = {
            "count": torch.tensor([self._count]),
            "nan": self._nan,
            "posinf": self._posinf,
            "neginf": self._neginf,
            "mean": self._mean,
            "m2": self._m2,
            "min": self._min,
            "max": self._max,
            "positive": self._positive,
            "topk_values": self._topk.values,
            "topk_rows": torch.where(rows < 0, rows, rows + (part << PART_SHIFT)),
        }
        return {name: np.array(value.cpu().numpy(), order="C") for name, value in state.items()}
