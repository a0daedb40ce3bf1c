"""q, k, v, z and pattern of `torch.nn.MultiheadAttention`, which computes them inside one fused call.

For the time of a run that asks for one of them, the module's forward is replaced by the same computation
step by step (self-attention, batch first, no dropout), and each step is shown to the hooks.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from mmxai.errors import ModelError

Through = Callable[[torch.Tensor], torch.Tensor]
_watched: dict[nn.MultiheadAttention, dict[str, Through]] = {}


def switch(kind: str, module: nn.MultiheadAttention, through: Through) -> Callable[[], None]:
    """Show `kind` of `module` to `through` until the returned function is called."""
    plain = module.bias_k is None and not module.add_zero_attn and module.in_proj_weight is not None
    if not (module.batch_first and plain):
        raise ModelError(
            "MultiheadAttention: got one with separate projections, extra keys or the batch second, expected "
            "plain batch-first self-attention; q, k, v, z and pattern cannot be shown"
        )
    kinds = _watched.setdefault(module, {})
    outer = kinds.get(kind)  # of an intervention around this run: it edits first
    kinds[kind] = through if outer is None else lambda x: through(outer(x))
    module.forward = partial(_attend, module)  # type: ignore[method-assign]

    def undo() -> None:
        kinds.pop(kind, None)
        if outer is not None:
            kinds[kind] = outer
        if not kinds and _watched.pop(module, None) is not None:
            del module.forward

    return undo


def _attend(
    module: nn.MultiheadAttention,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    key_padding_mask: torch.Tensor | None = None,
    need_weights: bool = True,
    attn_mask: torch.Tensor | None = None,
    average_attn_weights: bool = True,
    is_causal: bool = False,
) -> tuple[torch.Tensor, Any]:
    if query is not key or query is not value or key_padding_mask is not None or need_weights:
        raise ModelError(
            "MultiheadAttention: got cross-attention or wanted weights, expected plain self-attention"
        )
    kinds = _watched[module]
    show = lambda kind, x: kinds[kind](x) if kind in kinds else x  # noqa: E731
    q, k, v = F.linear(query, module.in_proj_weight, module.in_proj_bias).chunk(3, dim=-1)
    q, k, v = show("q", q), show("k", k), show("v", v)
    heads = module.num_heads
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
    scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
    if attn_mask is not None:
        mask = attn_mask if attn_mask.ndim == 2 else attn_mask.unflatten(0, (-1, heads))
        scores = scores.masked_fill(mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
    pattern = show("pattern", scores.softmax(dim=-1))
    z = show("z", (pattern @ v).transpose(1, 2).flatten(-2))
    return F.linear(z, module.out_proj.weight, module.out_proj.bias), None
