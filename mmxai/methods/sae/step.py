"""One training step of a sparse autoencoder, transcoder or crosscoder, on the kernels of sparse codes.

The encoder's product is taken in blocks of rows, and an architecture keeps of each block the few
pre-activations that it chooses; everything after works on these codes. No autograd: the gradients are written
out here, and equal to those of dense autograd (tests/methods/sae/test_step.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, runtime_checkable

import torch

from mmxai.errors import ArgumentError
from mmxai.kernels.code_gradients import code_gradients
from mmxai.kernels.codes import Codes
from mmxai.kernels.decode_error import decode_error
from mmxai.methods.sae.adam import Adam
from mmxai.methods.sae.auxk import AuxK, add_auxk
from mmxai.methods.sae.workspace import Workspace, backend_for

PRODUCTS = ("float32", "bfloat16")
SPARSE = ("W_enc", "b_enc", "W_dec")  # weights whose gradients come from the codes


class Weights(Protocol):
    """What a step reads, and updates in place: contiguous float32 on one device.

    `W_enc` `[M, D]`, `b_enc` `[M]`, `W_dec` `[M, E]`, `b_dec` `[E]`; `threshold` `[M]` and `W_skip` `[E, D]`
    where the architecture has them.
    """

    W_enc: torch.Tensor
    b_enc: torch.Tensor
    W_dec: torch.Tensor
    b_dec: torch.Tensor
    threshold: torch.Tensor | None
    W_skip: torch.Tensor | None


@dataclass(frozen=True)
class CodeGradient:
    """What an architecture makes of the gradient at its codes' values.

    `d_pre` float32 `[n]`: at each entry's pre-activation, the penalty's part included. `d_threshold` `[M]`.
    `penalty`: what the architecture adds to the loss; a tensor of one number where reading it would wait.
    """

    d_pre: torch.Tensor
    d_threshold: torch.Tensor | None = None
    penalty: float | torch.Tensor = 0.0


class Choice(Protocol):
    """The codes of one batch while they are chosen."""

    def block(self, product: torch.Tensor, bias: torch.Tensor, first_row: int) -> None:
        """Rows `first_row` and on of the encoder's product `[R, M]`, without its `bias` `[M]`.

        `product` is a buffer that the next block overwrites.
        """

    def finish(self) -> Codes:
        """The codes of all rows, activated."""

    def backward(self, codes: Codes, d_values: torch.Tensor) -> CodeGradient:
        """From the gradient `[n]` of the reconstruction's loss at the values; it may overwrite that."""


@runtime_checkable
class Direct(Protocol):
    """A choice that can do without the encoder's product."""

    def direct(
        self, inputs: torch.Tensor, W_enc: torch.Tensor, bias: torch.Tensor, workspace: Workspace
    ) -> bool:
        """Chooses for all rows of `inputs` `[B, D]`; or False: it wants the product's blocks."""


class Arch(Protocol):
    """An architecture: how codes are chosen. `prefixes`: ends of nested prefixes of latents, or ()."""

    prefixes: tuple[int, ...]

    def begin(self, weights: Weights, rows: int) -> Choice:
        """For a batch of that many rows."""


@dataclass(frozen=True)
class StepResult:
    """One step, before its update.

    `row_losses` float64 `[B, G]`: squared distances of the reconstructions, not scaled. `fired` int64 `[M]`:
    in how many rows each latent was active. `norm` float64 `[]`: of all gradients, before clipping, as a
    tensor; a step on a GPU waits for nothing, but reading one of the numbers below waits for all of them.
    """

    row_losses: torch.Tensor
    codes: Codes
    fired: torch.Tensor
    norm: torch.Tensor
    parts: tuple[torch.Tensor, ...]

    @cached_property
    def _numbers(self) -> list[float]:
        numbers: list[float] = torch.stack([*self.parts, self.norm, self.fired.sum().double()]).tolist()
        return numbers

    @property
    def reconstruction(self) -> float:
        return self._numbers[0]

    @property
    def penalty(self) -> float:
        """What the architecture charges."""
        return self._numbers[1]

    @property
    def aux(self) -> float:
        """The loss of AuxK."""
        return self._numbers[2]

    @property
    def loss(self) -> float:
        return sum(self._numbers[:3])

    @property
    def grad_norm(self) -> float:
        return self._numbers[3]

    @property
    def l0(self) -> float:
        """Active latents of a row, on average."""
        return self._numbers[4] / max(1, len(self.row_losses))


def gradients(
    weights: Weights,
    arch: Arch,
    x: torch.Tensor,
    target: torch.Tensor,
    *,
    scale: float,
    centred: bool,
    prefix_weights: Sequence[float] | None = None,
    aux: AuxK | None = None,
    project: bool = True,
    frozen: Sequence[str] = (),
    workspace: Workspace | None = None,
    product: str = "float32",
) -> tuple[dict[str, torch.Tensor], StepResult]:
    """The gradients of a batch's losses, by the weights' names, in buffers that the next step overwrites.

    `x` `[B, D]`, `target` `[B, E]`: contiguous float32 in the SAE's units. The loss is `scale` times the mean
    over prefixes (or their sum by `prefix_weights`) of the squared distances of all rows, plus the
    architecture's penalty, plus `aux`. `centred`: `b_dec` is taken off x before the encoder, and its gradient
    has both parts. `project`: the decoder's gradient loses its part along the decoder's rows, which must be
    unit vectors. `frozen`: names of weights without gradient. `product`: the dtype of the encoder's product.
    """
    unknown = [name for name in frozen if getattr(weights, name, None) is None]
    if unknown:
        raise ArgumentError(f"sae step: got frozen={unknown}, expected names of weights")
    ends = arch.prefixes or (len(weights.b_enc),)
    shares = [1 / len(ends)] * len(ends) if prefix_weights is None else prefix_weights
    factors = tuple(scale * share for share in shares)
    workspace = workspace or Workspace()
    inputs = _centre(weights, x, centred, workspace)
    dead = None if aux is None or aux.empty else aux.latents
    choice, codes, dead_pre = _encode(weights, arch, inputs, workspace, product, dead)
    base = None if weights.W_skip is None else x @ weights.W_skip.detach().T
    out_width = weights.W_dec.shape[1]
    errors, row_losses, d_values = decode_error(
        codes, weights.W_dec, target, bias=weights.b_dec, base=base, prefixes=ends, weights=factors,
        errors=workspace.take("errors", (len(x), len(ends), out_width), x.device), backend=backend_for(codes),
    )  # fmt: skip
    code = choice.backward(codes, d_values)
    found = {name: workspace.like(f"g.{name}", getattr(weights, name)) for name in SPARSE}
    squares = code_gradients(
        codes, code.d_pre, errors, inputs, found["W_dec"], found["W_enc"], found["b_enc"], prefixes=ends,
        project=weights.W_dec.detach() if project else None, backend=backend_for(codes),
    )  # fmt: skip
    device = x.device
    aux_loss = torch.zeros((), dtype=torch.float64, device=device)
    if aux is not None and dead_pre is not None:
        if factors[-1] == 0:
            raise ArgumentError("sae step: got a weight of 0 for the whole dictionary, AuxK expects more")
        residual = errors[:, -1] * (-0.5 / factors[-1])
        aux_loss = add_auxk(
            aux, dead_pre, residual, inputs, weights.W_dec.detach(), found, squares, scale, project
        )
    found["b_dec"] = errors[:, 0].sum(0)
    if centred:
        found["b_dec"] -= found["b_enc"] @ weights.W_enc.detach()
    if weights.W_skip is not None:
        found["W_skip"] = errors[:, 0].T @ x
    if code.d_threshold is not None:
        found["threshold"] = code.d_threshold
    if frozen:
        found = {name: g for name, g in found.items() if name not in frozen}
        norms = [_norm(g) for g in found.values()]
    else:  # those of the matrices and b_enc are known
        norms = [squares.sum().sqrt()] + [_norm(g) for n, g in found.items() if n not in SPARSE]
    penalty = code.penalty
    if not isinstance(penalty, torch.Tensor):
        penalty = torch.full((), penalty, device=device)
    reconstruction = torch.stack([f * s for f, s in zip(factors, row_losses.sum(0), strict=True)]).sum()
    parts = (reconstruction, penalty.double(), aux_loss)
    return found, StepResult(row_losses, codes, codes.fired(), _norm(torch.stack(norms)), parts)


def step(
    weights: Weights,
    arch: Arch,
    x: torch.Tensor,
    target: torch.Tensor,
    adam: Adam,
    *,
    lr: float,
    scale: float,
    centred: bool,
    clip: float | None = None,
    unit: bool = True,
    prefix_weights: Sequence[float] | None = None,
    aux: AuxK | None = None,
    frozen: Sequence[str] = (),
    workspace: Workspace | None = None,
    product: str = "float32",
) -> StepResult:
    """`gradients`, then an update of the weights in place.

    `unit`: the decoder's rows are unit vectors, so that its gradient is projected off them before clipping,
    and they are made so again after the update. `clip`: the largest norm of all gradients together. Where
    that norm is not finite the weights stay as they are.
    """
    found, result = gradients(
        weights, arch, x, target, scale=scale, centred=centred, prefix_weights=prefix_weights, aux=aux,
        project=unit, frozen=frozen, workspace=workspace, product=product,
    )  # fmt: skip
    adam.step(weights, found, lr, norm=result.norm, clip=clip, unit=unit)
    return result


def _norm(g: torch.Tensor) -> torch.Tensor:
    return torch.linalg.vector_norm(g, dtype=torch.float64)


def _centre(weights: Weights, x: torch.Tensor, centred: bool, workspace: Workspace) -> torch.Tensor:
    width = weights.W_enc.shape[1]
    if x.ndim != 2 or not len(x) or x.shape[1] != width or x.dtype != torch.float32 or not x.is_contiguous():
        raise ArgumentError(
            f"sae step: x is {x.dtype} of shape {tuple(x.shape)}, expected contiguous float32 of shape "
            f"(B, {width}), with B at least 1"
        )
    if not centred:
        return x
    return torch.sub(x, weights.b_dec.detach(), out=workspace.like("centred", x))


def _encode(
    weights: Weights,
    arch: Arch,
    inputs: torch.Tensor,
    workspace: Workspace,
    product: str,
    dead: torch.Tensor | None,
) -> tuple[Choice, Codes, torch.Tensor | None]:
    """The choice, its codes and the pre-activations of the latents `dead`, `[B, A]`."""
    if product not in PRODUCTS:
        raise ArgumentError(f"sae step: got product={product!r}, expected one of {PRODUCTS}")
    rows, latents = len(inputs), len(weights.b_enc)
    bias = weights.b_enc.detach()
    W_enc = weights.W_enc.detach()
    choice = arch.begin(weights, rows)
    dead_pre = None if dead is None else workspace.take("dead", (rows, len(dead)), inputs.device)
    if product == "float32" and isinstance(choice, Direct) and choice.direct(inputs, W_enc, bias, workspace):
        if dead is not None and dead_pre is not None:
            torch.addmm(bias[dead], inputs, W_enc[dead].T, out=dead_pre)
        return choice, choice.finish(), dead_pre
    matrix = W_enc.to(getattr(torch, product)).T
    for first in range(0, rows, workspace.block_rows):
        block = inputs[first : first + workspace.block_rows]
        out = workspace.take("product", (len(block), latents), inputs.device)
        if product == "float32":
            torch.mm(block, matrix, out=out)
        else:
            out.copy_(block.to(matrix.dtype) @ matrix)
        choice.block(out, bias, first)
        if dead is not None and dead_pre is not None:
            torch.index_select(out, 1, dead, out=dead_pre[first : first + len(block)])
    if dead is not None and dead_pre is not None:
        dead_pre += bias[dead]
    return choice, choice.finish(), dead_pre
