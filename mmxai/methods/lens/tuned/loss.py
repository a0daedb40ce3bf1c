"""KL from the final distribution to a lens's, and its gradient, a block of logits at a time.

With z = cap(scale n W' + b) of a normed row n and p the final distribution, d KL(p || softmax z) / d z is
softmax z - p, and that times scale (1 - (z / softcap)^2) W is the gradient at n: two products a block.
Autograd is asked for the norm alone, whose rows are `[N, D]`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from mmxai.models.unembedding import Unembedding


def kl_to_final(
    unembedding: Unembedding, states: Sequence[torch.Tensor], final: torch.Tensor, *, block_bytes: int
) -> list[torch.Tensor]:
    """KL(final || lens) in nats, float32 `[N]`, of each of `states` `[N, D]` (before the norm)."""
    return _walk(unembedding, states, final, block_bytes, gradients=False)[0]


def kl_and_gradients(
    unembedding: Unembedding, states: Sequence[torch.Tensor], final: torch.Tensor, *, block_bytes: int
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Also the gradients float32 `[N, D]` of each row's KL at its state."""
    kl, at_norm = _walk(unembedding, states, final, block_bytes, gradients=True)
    gradients = []
    for state, gradient in zip(states, at_norm, strict=True):
        with torch.enable_grad():
            x = state.detach().requires_grad_(True)
            normed = unembedding.norm(x)
        (found,) = torch.autograd.grad(normed, x, gradient.to(normed.dtype))
        gradients.append(found.float())
    return kl, gradients


@torch.no_grad()
def _walk(
    unembedding: Unembedding,
    states: Sequence[torch.Tensor],
    final: torch.Tensor,
    block_bytes: int,
    *,
    gradients: bool,
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    weight, softcap = unembedding.weight, unembedding.softcap
    rows = max(1, block_bytes // (4 * len(weight)))
    target = unembedding.norm(final)
    normed = [unembedding.norm(x) for x in states]
    kl = [torch.empty(len(final), device=target.device) for _ in states]
    at_norm = [torch.empty(n.shape, device=n.device) for n in normed] if gradients else []
    for begin in range(0, len(final), rows):
        part = slice(begin, begin + rows)
        log_p = _log_softmax_(_logits(unembedding, target[part]))
        p = log_p.exp()
        negative_entropy = torch.linalg.vecdot(p, log_p)
        del log_p
        for i, n in enumerate(normed):
            z = _logits(unembedding, n[part])
            flat = None if softcap is None or not gradients else (z / softcap).square_().neg_().add_(1)
            log_q = _log_softmax_(z)
            kl[i][part] = negative_entropy - torch.linalg.vecdot(p, log_q)
            if gradients:
                slope = log_q.exp_().sub_(p)
                slope = slope if flat is None else slope.mul_(flat)
                product = slope.to(weight.dtype) @ weight
                at_norm[i][part] = product.float() * unembedding.scale
    return kl, at_norm


def _log_softmax_(z: torch.Tensor) -> torch.Tensor:
    """In place, so that a block is held once."""
    return z.sub_(z.logsumexp(1, keepdim=True))


def _logits(unembedding: Unembedding, normed: torch.Tensor) -> torch.Tensor:
    """float32 `[rows, V]`; the product is taken in the weight's dtype, as the model's own is."""
    out = (normed @ unembedding.weight.T).float()
    if unembedding.scale != 1.0:
        out *= unembedding.scale
    if unembedding.bias is not None:
        out += unembedding.bias.float()
    softcap = unembedding.softcap
    return out if softcap is None else out.div_(softcap).tanh_().mul_(softcap)
