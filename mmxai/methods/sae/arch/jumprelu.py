"""JumpReLU: a learned threshold a latent, and a penalty on how many are active (Rajamanoharan et al. 2024).

arXiv:2407.14435. A step has no slope, so the threshold's gradient is a kernel estimate over the
pre-activations within half a `bandwidth` of it: these are among the codes, with value 0 where they are below.
"""

from __future__ import annotations

from typing import Any

import torch

from mmxai.kernels.codes import Codes
from mmxai.kernels.select_above import select_above
from mmxai.methods.sae.step import CodeGradient, Weights


class JumpReLU:
    """Charges `penalty` x L0, or with `target` penalty x (L0 / target - 1)^2; L0 is the batch's mean."""

    prefixes: tuple[int, ...] = ()

    def __init__(self, penalty: float, bandwidth: float, target: float | None = None):
        self.penalty, self.bandwidth, self.target, self.ramp = penalty, bandwidth, target, 1.0

    def begin(self, weights: Weights, rows: int) -> Choice:
        return Choice(self, weights)

    def first(self, weights: Weights) -> None:
        assert weights.threshold is not None
        weights.threshold.fill_(self.bandwidth)

    def after(self, weights: Weights, codes: Codes) -> None:
        assert weights.threshold is not None
        weights.threshold.clamp_min_(0)

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing is kept."""

    def charge(self, l0: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The penalty at a mean number of active latents `[]`, and its slope."""
        weight = self.ramp * self.penalty
        if self.target is None:
            return weight * l0, torch.full_like(l0, weight)
        over = l0 / self.target - 1
        return weight * over**2, weight * 2 * over / self.target


class Choice:
    def __init__(self, arch: JumpReLU, weights: Weights):
        assert weights.threshold is not None
        self._arch, self._threshold = arch, weights.threshold
        self._from = weights.threshold - arch.bandwidth / 2
        self._blocks: list[Codes] = []

    def block(self, product: torch.Tensor, bias: torch.Tensor, first_row: int) -> None:
        self._blocks.append(select_above(product, self._from, bias=bias))

    def finish(self) -> Codes:
        found = Codes.cat(self._blocks)
        self._blocks = []
        raw = found.values
        self._at = self._threshold[found.indices.long()]
        self._active = (raw > self._at) & (raw > 0)
        self._near = (raw - self._at).abs() < self._arch.bandwidth / 2
        return Codes(raw * self._active, found.indices, found.offsets, found.width)

    def backward(self, codes: Codes, d_values: torch.Tensor) -> CodeGradient:
        rows, width = max(1, codes.rows), self._arch.bandwidth
        penalty, slope = self._arch.charge(self._active.sum().double() / rows)
        d_at = (d_values * self._at + slope / rows).mul_(self._near).mul_(-1 / width)
        return CodeGradient(d_values.mul_(self._active), codes.sum_by_latent(d_at), penalty)
