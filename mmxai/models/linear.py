"""What a model's modules do to a row, as matrices and norms: read off weights, or found by asking."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from mmxai.errors import ModelError

_TOLERANCE = 1e-2  # of a probe; bfloat16 weights answer to three digits


@dataclass(frozen=True)
class Norm:
    """y = gain * c(x) / s(x) + bias, where c subtracts the mean of a row (layer norm) or nothing (RMS norm).

    gain, bias: float32 `[D]`. With s held at what it is for a row, y is linear in x but for the bias.
    """

    gain: torch.Tensor
    bias: torch.Tensor | None
    centred: bool
    eps: float

    def scale(self, x: torch.Tensor) -> torch.Tensor:
        """s of rows `[N, D]`: float32 `[N]`."""
        return (self.centre(x).square().mean(-1) + self.eps).sqrt()

    def centre(self, x: torch.Tensor) -> torch.Tensor:
        return x - x.mean(-1, keepdim=True) if self.centred else x

    def forward(self, x: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        y = self.gain * self.centre(x) / scale[:, None]
        return y if self.bias is None else y + self.bias

    def pull(self, read: torch.Tensor) -> torch.Tensor:
        """The covectors of x that `read` `[.., D]` of y comes to, before they are divided by s."""
        return self.centre(self.gain * read)


def matrix_of(module: nn.Module, where: str) -> tuple[torch.Tensor, torch.Tensor | None]:
    """(weight float32 `[out, in]`, bias float32 `[out]` or None) of a Linear, Conv1D (transformers') or the
    output projection of a MultiheadAttention. Raises ModelError."""
    module = module.out_proj if isinstance(module, nn.MultiheadAttention) else module
    weight: Any = getattr(module, "weight", None)
    if not isinstance(weight, torch.Tensor) or weight.ndim != 2 or not weight.is_floating_point():
        raise ModelError(
            f"{where}: got a {type(module).__name__} without a floating matrix, expected a linear map; load "
            "the model without quantisation or adapters (LoRA: merge it first)"
        )
    dtype, weight = weight.dtype, weight.detach().float()
    bias: Any = getattr(module, "bias", None)
    bias = None if bias is None else bias.detach().float()
    # Conv1D holds its matrix transposed.
    weight = weight.T if type(module).__name__ == "Conv1D" else weight
    # An adapter beside the matrix (LoRA) shows the matrix without it: asked, it answers otherwise.
    drawn = torch.randn(weight.shape[1], generator=torch.Generator().manual_seed(0)).to(weight.device)
    with torch.no_grad():
        said = module(drawn.to(dtype)[None, None])[0, 0].float()
    expected = weight @ drawn.to(dtype).float() + (0 if bias is None else bias)
    if not _close(said, expected, 1e-4 if dtype == torch.float32 else _TOLERANCE):
        raise ModelError(
            f"{where}: the {type(module).__name__} does not do what its matrix says, expected a linear map "
            "with nothing beside it (LoRA: merge it first)"
        )
    return weight, bias


def norm_of(module: nn.Module, width: int, where: str) -> Norm:
    """The norm that a module is. Raises ModelError of anything but a layer norm or RMS norm."""
    found = after_of(module, width, where)
    if not isinstance(found, Norm):
        raise ModelError(f"{where}: got a {type(module).__name__}, expected a layer norm or RMS norm")
    return found


def after_of(module: nn.Module, width: int, where: str) -> Norm | torch.Tensor:
    """What a module does to each row of `width`: a `Norm`, or the factors float32 `[D]` of each column.

    Found by asking it, for norms differ in what they make of their weight (Gemma's multiply by 1 + weight).
    Raises ModelError where it is neither.
    """
    like = next((p for p in module.parameters()), torch.zeros(()))
    signs = torch.ones(width, device=like.device)
    signs[1::2] = -1
    drawn = torch.randn(width, generator=torch.Generator().manual_seed(0)).to(like.device)

    def ask(x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return module(x.to(like.dtype)[None, None])[0, 0].float()

    offset = ask(torch.zeros_like(signs))
    factor = (ask(signs) - offset) * signs
    if _close(ask(2 * drawn), 2 * factor * drawn) and not offset.any():
        return factor
    eps = getattr(module, "eps", getattr(module, "variance_epsilon", None))
    if isinstance(eps, float):
        bias = offset if offset.any() else None
        for centred in (True, False):
            # The signs' own mean and scale, of an odd width too.
            row = signs - signs.mean() if centred else signs
            gain = (ask(signs) - offset) * (row.square().mean() + eps).sqrt() / row
            norm = Norm(gain, bias, centred, eps)
            if all(
                _close(ask(x), norm.forward(x[None], norm.scale(x[None]))[0]) for x in (drawn, 3 * drawn + 1)
            ):
                return norm
    raise ModelError(
        f"{where}: got a {type(module).__name__}, expected a layer norm, an RMS norm or a factor a column: "
        "what stands behind it cannot be split exactly"
    )


def _close(a: torch.Tensor, b: torch.Tensor, tolerance: float = _TOLERANCE) -> bool:
    return bool((a - b).abs().max() <= tolerance * b.abs().max().clamp(min=1e-6))
