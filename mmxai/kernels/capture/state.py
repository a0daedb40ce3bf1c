"""What `capture` keeps of every neuron while rows stream by."""

from __future__ import annotations

import torch

from mmxai.errors import ArgumentError

MOST = 128
"""The largest k."""


class NeuronState:
    """Statistics of the rows seen so far, a column a neuron (D = `width`); all tensors on `device`.

    Tensors are rank-major (`[k, D]`), so that the values a new one must beat are one contiguous row.

    `count`, `next_row`: host integers: rows seen; the least row id the next call may begin with.
    `tallies` int64 `[4, D]`: NaN, +inf, -inf, and the finite values above 0 (`NAN POSINF NEGINF POSITIVE`).
    `moments` float64 `[2, D]`: mean and M2, the sum of squared deviations from it, over the finite values.
    `extremes` float32 `[2, D]`: least and largest finite value; inf and -inf where there is none.
    `top_values` float32, `top_rows` int64 `[k, D]`: the k largest finite values and their row ids, rank 0
        the largest, ties to the lower row; -inf and -1 where there are fewer.
    `bottom_values`, `bottom_rows`: with `bottom`, the k smallest, rank 0 the smallest; inf and -1; else None.
    `top_samples`, `bottom_samples` int64 `[k, D]`: with `per_sample`, every sample enters the lists at most
        once, with its largest (smallest) value, and these say which; -1 where there are fewer; else None.

    Zeros are positive zeros in `extremes` and in the lists: -0.0 is a value like 0.0 and ties with it.
    """

    NAN, POSINF, NEGINF, POSITIVE = range(4)
    MEAN, M2 = range(2)
    MIN, MAX = range(2)

    def __init__(
        self,
        width: int,
        k: int = 16,
        *,
        bottom: bool = False,
        per_sample: bool = False,
        device: torch.device | str = "cpu",
    ):
        if width < 1 or not 1 <= k <= MOST:
            raise ArgumentError(
                f"statistics: got width {width}, k {k}, expected width >= 1 and 1 <= k <= {MOST}"
            )
        self.width, self.k, self.bottom, self.per_sample = width, k, bottom, per_sample
        self.device = torch.device(device)

        def held(rows: int, dtype: torch.dtype) -> torch.Tensor:
            return torch.empty((rows, width), dtype=dtype, device=device)

        self.tallies = held(4, torch.int64)
        self.moments = held(2, torch.float64)
        self.extremes = held(2, torch.float32)
        self.top_values, self.top_rows = held(k, torch.float32), held(k, torch.int64)
        self.top_samples = held(k, torch.int64) if per_sample else None
        self.bottom_values = held(k, torch.float32) if bottom else None
        self.bottom_rows = held(k, torch.int64) if bottom else None
        self.bottom_samples = held(k, torch.int64) if bottom and per_sample else None
        self.reset()

    def reset(self) -> None:
        """As before the first row."""
        self.count = self.next_row = 0
        self.tallies.zero_()
        self.moments.zero_()
        self.extremes[self.MIN], self.extremes[self.MAX] = torch.inf, -torch.inf
        self.top_values.fill_(-torch.inf)
        if self.bottom_values is not None:
            self.bottom_values.fill_(torch.inf)
        for ids in (self.top_rows, self.top_samples, self.bottom_rows, self.bottom_samples):
            if ids is not None:
                ids.fill_(-1)

    @property
    def finite(self) -> torch.Tensor:
        """Finite values seen: int64 `[D]`."""
        return self.count - self.tallies[: self.POSITIVE].sum(0)

    def __repr__(self) -> str:
        options = [n for n in ("bottom", "per_sample") if getattr(self, n)]
        parts = [f"{self.width} neurons over {self.count:,} rows, k={self.k}", *options]
        return f"NeuronState({', '.join(parts)})"
