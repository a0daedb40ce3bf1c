"""AuxK: dead latents learn to reconstruct what the others left (Gao et al. 2024, arXiv:2406.04093)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch

from mmxai.kernels.code_gradients import code_gradients
from mmxai.kernels.codes import Codes
from mmxai.kernels.decode_error import decode_error
from mmxai.kernels.topk_rows import topk_rows
from mmxai.methods.sae.workspace import is_dense


@dataclass(frozen=True, eq=False)
class AuxK:
    """The auxiliary loss of one step.

    `latents` int64 `[A]`: the dead ones. Of each row the `k` largest of their activations, or all where there
    are fewer, reconstruct the residual e = target - reconstruction, without `b_dec` and without gradient
    through e. The loss is `coef * scale * sum |e - its reconstruction|^2`, `scale` that of the step;
    `relative`: in place of `scale` 1 / sum of |e - mean e|^2, as dictionary_learning has it.
    """

    latents: torch.Tensor
    k: int
    coef: float = 1 / 32
    relative: bool = False

    @property
    def empty(self) -> bool:
        return len(self.latents) == 0 or self.k < 1 or self.coef == 0


class _Found(NamedTuple):
    """`loss` float64 `[]`, the squared distances, and `weight` times its gradients."""

    loss: torch.Tensor
    W_dec: torch.Tensor
    W_enc: torch.Tensor
    b_enc: torch.Tensor


def add_auxk(
    aux: AuxK,
    pre: torch.Tensor,
    residual: torch.Tensor,
    inputs: torch.Tensor,
    W_dec: torch.Tensor,
    gradients: Mapping[str, torch.Tensor],
    squares: torch.Tensor,
    scale: float,
    project: bool,
) -> torch.Tensor:
    """The loss, float64 `[]`.

    Its gradients are added to those of `W_enc`, `b_enc` and `W_dec`, and to `squares`, the latents' own.
    `pre` `[B, A]`: the dead latents' pre-activations, which are overwritten. `residual` `[B, E]`, `inputs`
    `[B, D]`.
    """
    dead, rows = aux.latents, W_dec[aux.latents]
    weight = torch.full((), aux.coef * scale, dtype=torch.float64, device=pre.device)
    if aux.relative:
        spread = torch.linalg.vector_norm(residual - residual.mean(0), dtype=torch.float64).square()
        weight = torch.where(spread > 0, aux.coef / spread, 0.0)
    dense = is_dense(aux.k / len(dead))
    found = (_by_products if dense else _by_codes)(aux.k, pre, residual, inputs, rows, weight)
    if project:
        found.W_dec.sub_(torch.linalg.vecdot(found.W_dec, rows)[:, None] * rows)
    held = torch.zeros(len(dead), dtype=torch.float64, device=pre.device)
    for name in ("W_dec", "W_enc", "b_enc"):
        part = getattr(found, name).add_(gradients[name][dead])
        gradients[name][dead] = part
        held += torch.linalg.vector_norm(part.view(len(dead), -1), dim=1, dtype=torch.float64).square()
    squares[dead] = held
    return weight * found.loss


def _by_products(
    k: int,
    pre: torch.Tensor,
    residual: torch.Tensor,
    inputs: torch.Tensor,
    rows: torch.Tensor,
    weight: torch.Tensor,
) -> _Found:
    """Where many of the dead are active: `pre` itself becomes their activations. Equal ones stay together."""
    if k < len(rows):
        least = pre.topk(k, sorted=False).values.amin(1, keepdim=True)
        pre.masked_fill_(pre < least, 0.0)
    acts = pre.clamp_(min=0)
    errors = torch.addmm(residual, acts, rows, beta=-1)
    loss = torch.linalg.vector_norm(errors, dtype=torch.float64).square()
    errors *= 2 * weight
    d_pre = (errors @ rows.T).mul_(acts > 0)
    return _Found(loss, acts.T @ errors, d_pre.T @ inputs, d_pre.sum(0))


def _by_codes(
    k: int,
    pre: torch.Tensor,
    residual: torch.Tensor,
    inputs: torch.Tensor,
    rows: torch.Tensor,
    weight: torch.Tensor,
) -> _Found:
    """Where few of the dead are active."""
    values, indices = topk_rows(pre, k)
    codes = Codes.fixed(values.clamp_(min=0), indices, len(rows))
    errors, losses, d_pre = decode_error(codes, rows, residual, bias=torch.zeros_like(rows[0]))
    errors *= weight
    d_pre.mul_(codes.values > 0).mul_(weight)
    parts = torch.empty_like(rows), inputs.new_empty(len(rows), inputs.shape[1]), rows.new_empty(len(rows))
    code_gradients(codes, d_pre, errors, inputs, *parts)
    return _Found(losses.sum(), *parts)
