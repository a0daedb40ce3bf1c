"""ReLU with an L1 penalty (Bricken et al. 2023); the decoder's rows are of length 1."""

from __future__ import annotations

import torch

from mmxai.kernels.codes import Codes
from mmxai.kernels.select_above import select_above
from mmxai.methods.sae.arch._stateless import Stateless
from mmxai.methods.sae.step import CodeGradient, Weights


class ReLU(Stateless):
    """Charges `penalty` times the mean over rows of the sum of activations."""

    prefixes: tuple[int, ...] = ()

    def __init__(self, penalty: float):
        self.penalty, self.ramp = penalty, 1.0

    def begin(self, weights: Weights, rows: int) -> Choice:
        return Choice(self.ramp * self.penalty / rows)


class Choice:
    def __init__(self, charge: float):
        self._charge = charge
        self._blocks: list[Codes] = []

    def block(self, product: torch.Tensor, bias: torch.Tensor, first_row: int) -> None:
        self._blocks.append(select_above(product, 0.0, bias=bias))

    def finish(self) -> Codes:
        return Codes.cat(self._blocks)

    def backward(self, codes: Codes, d_values: torch.Tensor) -> CodeGradient:
        charged = self._charge * codes.values.sum(dtype=torch.float64)
        return CodeGradient(d_values.add_(self._charge), penalty=charged)
