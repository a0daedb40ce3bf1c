"""BatchTopK: the batch's B k largest, so that rows may take more or fewer (Bussmann et al. 2024, 2412.06410).

Used, it has no batch: `threshold` is a running mean of the smallest activation that training kept.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from mmxai.kernels.codes import Codes
from mmxai.kernels.select_above import select_above
from mmxai.methods.sae.step import CodeGradient, Weights

MEMORY = 0.99  # of the running mean; corrected for its beginning, as Adam's are
SLACK = 1.5  # candidates over those wanted at which they are thinned


class BatchTopK:
    """`guess`: a bit below what the first block's B k-th largest was in the batch before; for speed alone."""

    prefixes: tuple[int, ...] = ()
    ramp = 1.0

    def __init__(self, k: int):
        self.k, self.guess = k, 0.0
        self._mean, self._batches = 0.0, 0

    def begin(self, weights: Weights, rows: int) -> Choice:
        return Choice(self, rows * self.k)

    def first(self, weights: Weights) -> None:
        assert weights.threshold is not None
        weights.threshold.zero_()

    def after(self, weights: Weights, codes: Codes) -> None:
        assert weights.threshold is not None
        least = float(codes.values.min()) if len(codes.values) else 0.0
        self._batches += 1
        self._mean = MEMORY * self._mean + (1 - MEMORY) * least
        weights.threshold.fill_(self._mean / (1 - MEMORY**self._batches))

    def state_dict(self) -> dict[str, Any]:
        return {"mean": self._mean, "batches": self._batches}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._mean, self._batches = state["mean"], state["batches"]


class Choice:
    """Holds the `wanted` largest so far, a few more at most; all others are below `_cut`, or not above 0."""

    def __init__(self, arch: BatchTopK, wanted: int):
        self._arch, self._wanted = arch, wanted
        self._cut = 0.0
        self._blocks: list[Codes] = []
        self._held = 0

    def block(self, product: torch.Tensor, bias: torch.Tensor, first_row: int) -> None:
        if first_row == 0:
            self._add(self._first(product, bias))
            self._thin()
            self._arch.guess = 0.9 * self._cut
            return
        # As in `_thin`: what equals the cut is kept, or a batch's codes would depend on its blocks.
        below = max(0.0, float(np.nextafter(np.float32(self._cut), np.float32(-np.inf))))
        self._add(select_above(product, below, bias=bias))
        if self._held > SLACK * self._wanted:
            self._thin()

    def finish(self) -> Codes:
        self._thin()
        return Codes.cat(self._blocks)

    def backward(self, codes: Codes, d_values: torch.Tensor) -> CodeGradient:
        return CodeGradient(d_values)  # what is kept is above 0

    def _first(self, product: torch.Tensor, bias: torch.Tensor) -> Codes:
        """All above the guess, if these are enough: then no other is wanted. Else all above 0."""
        if self._arch.guess > 0:
            codes = select_above(product, self._arch.guess, bias=bias)
            if len(codes.values) >= self._wanted:
                return codes
        return select_above(product, 0.0, bias=bias)

    def _add(self, codes: Codes) -> None:
        self._blocks.append(codes)
        self._held += len(codes.values)

    def _thin(self) -> None:
        if self._held <= self._wanted:
            return
        values = torch.cat([b.values for b in self._blocks])
        # Equal values stay together, so that none is taken for its place alone.
        self._cut = float(values.kthvalue(len(values) - self._wanted + 1).values)
        self._blocks = [b.select(b.values >= self._cut) for b in self._blocks]
        self._held = sum(len(b.values) for b in self._blocks)
