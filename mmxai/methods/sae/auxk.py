"""AuxK: dead latents learn to reconstruct what the others left (Gao et al. 2024, arXiv:2406.04093)."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from mmxai.kernels.code_gradients import code_gradients
from mmxai.kernels.codes import Codes
from mmxai.kernels.decode_error import decode_error
from mmxai.kernels.topk_rows import topk_rows
from mmxai.methods.sae.workspace import backend_for


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


def add_auxk(
    aux: AuxK,
    pre: torch.Tensor,
    residual: torch.Tensor,
    inputs: torch.Tensor,
    W_dec: torch.Tensor,
    gradients: dict[str, torch.Tensor],
    squares: torch.Tensor,
    scale: float,
    project: bool,
) -> torch.Tensor:
    """The loss, float64 `[]`.

    Its gradients are added to those of `W_enc`, `b_enc` and `W_dec`, and to `squares`, the latents' own.
    `pre` `[B, A]`: the dead latents' pre-activations. `residual` `[B, E]`, `inputs` `[B, D]`.
    """
    dead, count = aux.latents, len(aux.latents)
    if aux.k < count:
        values, indices = topk_rows(pre, aux.k)
        codes = Codes.fixed(values.clamp_(min=0), indices, count)
    else:
        codes = Codes.from_dense(pre.clamp_(min=0))
    rows = W_dec[dead]
    backend = backend_for(codes)
    errors, losses, d_values = decode_error(
        codes, rows, residual, bias=torch.zeros_like(rows[0]), weights=(aux.coef,), backend=backend
    )
    by = torch.full((), scale, dtype=torch.float64, device=pre.device)
    if aux.relative:
        spread = torch.linalg.vector_norm(residual - residual.mean(0), dtype=torch.float64).square()
        by = torch.where(spread > 0, 1 / spread, 0.0)
    errors *= by
    d_values.mul_(codes.values > 0).mul_(by)
    names = ("W_dec", "W_enc", "b_enc")
    parts = [gradients[name].new_empty((count, *gradients[name].shape[1:])) for name in names]
    code_gradients(
        codes, d_values, errors, inputs, *parts, project=rows if project else None, backend=backend
    )
    held = torch.zeros(count, dtype=torch.float64, device=pre.device)
    for name, part in zip(names, parts, strict=True):
        part += gradients[name][dead]
        gradients[name][dead] = part
        held += torch.linalg.vector_norm(part.view(count, -1), dim=1, dtype=torch.float64).square()
    squares[dead] = held
    return aux.coef * by * losses.sum()
