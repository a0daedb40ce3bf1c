"""TopK: each row's k largest, no penalty (Gao et al. 2024, arXiv:2406.04093)."""

from __future__ import annotations

import torch

from mmxai.kernels.codes import Codes
from mmxai.kernels.topk_product import quicker, topk_product
from mmxai.kernels.topk_rows import topk_rows
from mmxai.methods.sae.arch._stateless import Stateless
from mmxai.methods.sae.select import topk_codes
from mmxai.methods.sae.step import CodeGradient, Weights
from mmxai.methods.sae.workspace import Workspace


class TopK(Stateless):
    prefixes: tuple[int, ...] = ()
    ramp = 1.0

    def __init__(self, k: int):
        self.k = k

    def begin(self, weights: Weights, rows: int) -> Choice:
        return Choice(weights, rows, self.k)


class Choice:
    def __init__(self, weights: Weights, rows: int, k: int):
        device = weights.W_enc.device
        self._width, self._k = len(weights.W_enc), k
        self._values = torch.empty((rows, k), device=device)
        self._indices = torch.empty((rows, k), dtype=torch.int32, device=device)

    def block(self, product: torch.Tensor, bias: torch.Tensor, first_row: int) -> None:
        rows = slice(first_row, first_row + len(product))
        self._values[rows], self._indices[rows] = topk_rows(product, self._k, bias=bias)

    def direct(
        self, inputs: torch.Tensor, W_enc: torch.Tensor, bias: torch.Tensor, workspace: Workspace
    ) -> bool:
        if not quicker(inputs, W_enc, self._k):
            return False

        def scratch(count: int) -> torch.Tensor:
            return workspace.take("product", (count,), inputs.device)

        self._values, self._indices = topk_product(inputs, W_enc, self._k, bias=bias, scratch=scratch)
        return True

    def finish(self) -> Codes:
        return topk_codes(self._values, self._indices, self._width)

    def backward(self, codes: Codes, d_values: torch.Tensor) -> CodeGradient:
        return CodeGradient(d_values.mul_(codes.values > 0))
