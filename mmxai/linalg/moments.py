"""Mean and covariance of rows that stream by, merged exactly; principal components of them."""

from __future__ import annotations

import torch

from mmxai.errors import ArgumentError, NonFiniteError


class Moments:
    """Count, mean float64 `[D]` and scatter float64 `[D, D]` (sum of products of deviations).

    Blocks are centred by their own mean and merged pairwise (Chan, Golub and LeVeque 1983), so that a large
    common offset costs no digits. Products of a block run in float64.
    """

    def __init__(self, width: int):
        if width < 1:
            raise ArgumentError(f"moments: got width {width}, expected at least 1")
        self.width, self.count = width, 0
        self.mean = torch.zeros(width, dtype=torch.float64)
        self.scatter = torch.zeros(width, width, dtype=torch.float64)

    def update(self, x: torch.Tensor) -> None:
        """Take in rows `[N, D]` of any float dtype. NonFiniteError where one is NaN or infinite."""
        if x.ndim != 2 or x.shape[1] != self.width or not x.is_floating_point():
            raise ArgumentError(
                f"moments: got {x.dtype} {tuple(x.shape)}, expected floats of shape (N, {self.width})"
            )
        if not len(x):
            return
        block = x.detach().to("cpu", torch.float64)
        mean = block.mean(0)
        if not mean.isfinite().all():
            row = int((~block.isfinite().all(1)).nonzero()[0])
            raise NonFiniteError(
                f"moments: got NaN or inf in row {row} of a block of {len(block)}, expected finite rows; "
                "leave such rows out"
            )
        centred = block - mean
        self._merge(len(block), mean, centred.T @ centred)

    def merge(self, other: Moments) -> None:
        """Take in what `other` has seen."""
        if other.width != self.width:
            raise ArgumentError(f"moments: got width {other.width}, expected {self.width}")
        self._merge(other.count, other.mean, other.scatter)

    def _merge(self, count: int, mean: torch.Tensor, scatter: torch.Tensor) -> None:
        total = self.count + count
        if not total:
            return
        apart = mean - self.mean
        self.scatter += scatter + torch.outer(apart, apart) * (self.count * count / total)
        self.mean += apart * (count / total)
        self.count = total

    @property
    def covariance(self) -> torch.Tensor:
        """float64 `[D, D]`, divisor n."""
        return self.scatter / max(1, self.count)

    def components(self, k: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """The first k principal directions, float64 `[k, D]` of norm 1, and their variances `[k]`.

        Largest variance first. Each direction's largest entry is positive, which makes it unique where
        its variance is.
        """
        k = self.width if k is None else k
        if not 1 <= k <= self.width:
            raise ArgumentError(f"components: got k={k}, expected 1 <= k <= {self.width}")
        values, vectors = torch.linalg.eigh(self.covariance)
        directions = vectors.T.flip(0)[:k]
        largest = directions.gather(1, directions.abs().argmax(1, keepdim=True))
        return directions * largest.sign(), values.flip(0)[:k].clamp(min=0)

    def __repr__(self) -> str:
        return f"Moments({self.count:,} rows of width {self.width})"
