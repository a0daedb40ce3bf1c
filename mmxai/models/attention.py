"""Attention patterns: `[B, T, heads * L]`, row t of head h being what query t reads of the L keys.

Fused attention never forms the pattern, so for the time of a run that asks for one, the tower's config names
an attention function of ours. It calls the family's own eager function, shows the weights to the hooks,
and mixes the values again where the weights were edited. L is the tower's length (`BoundTower.keys`), so
that the width is the same for every batch; keys beyond the sequence at hand are 0.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from mmxai.errors import ArgumentError, ModelError

if TYPE_CHECKING:
    from mmxai.capture.hooks import Point
    from mmxai.models.adapter import BoundTower

_NAME, _SDPA = "mmxai_eager", "mmxai_sdpa"
_LIMIT = 2**32


class Received(NamedTuple):
    """What an attention function was called with: rotated query `[B, heads, T, d]` and key `[B, kv heads, T,
    d]`, the factor of their products, and the cap those then get (None: none)."""

    query: torch.Tensor
    key: torch.Tensor
    scaling: float
    softcap: float | None


class Call(NamedTuple):
    """What an attention function gets, and may be given instead: query `[B, heads, T, d]`, key and value `[B,
    kv heads, K, d]`, mask `[B or 1, heads or 1, T, K]` (bool: may be read; float: added to scores) or None.

    causal: with mask None, each query reads the keys up to its own place; else all.
    additive: the function wants masks to add (eager), not bool ones.
    """

    query: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor
    mask: torch.Tensor | None
    causal: bool
    additive: bool


Handler = Callable[[Call], Call]

_received: dict[nn.Module, Received] | None = None
_handlers: dict[nn.Module, list[Handler]] = {}
_watched: dict[nn.Module, Callable[[torch.Tensor], torch.Tensor]] = {}


def read(tower: BoundTower, weights: torch.Tensor) -> torch.Tensor:
    """`[B, heads, T, keys]` -> `[B, T, heads * L]`."""
    batch, heads, queries, keys = weights.shape
    if keys > tower.keys:
        raise ArgumentError(
            f"{tower.name} pattern: got {keys} keys, expected at most {tower.keys}; set "
            f"model.set_length({tower.name!r}, {keys}) first"
        )
    if batch * heads * queries * tower.keys * weights.element_size() > _LIMIT:
        raise ArgumentError(
            f"{tower.name} pattern: {batch} x {queries} rows of {heads} heads x {tower.keys} keys is more "
            f"than 4 GiB; say how long your texts are: model.set_length({tower.name!r}, {keys})"
        )
    return F.pad(weights.transpose(1, 2), (0, tower.keys - keys)).flatten(-2)


def write(weights: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
    heads, keys = weights.shape[1], weights.shape[-1]
    return new.unflatten(-1, (heads, -1))[..., :keys].transpose(1, 2)


def switch(
    root: nn.Module, module: nn.Module, through: Callable[[torch.Tensor], torch.Tensor]
) -> Callable[[], None]:
    """Show `module`'s pattern to `through` until the returned function is called."""
    _register()
    both: list[Any] = [root.config, module.config]
    configs = {id(c): c for c in both}.values()
    before = [(c, c._attn_implementation_internal) for c in configs]
    outer = _watched.get(module)  # of an intervention around this run: it edits first

    def undo() -> None:
        if outer is None:
            _watched.pop(module, None)
        else:
            _watched[module] = outer
        for config, implementation in before:
            config._attn_implementation_internal = implementation

    _watched[module] = through if outer is None else lambda x: through(outer(x))
    for config, _ in before:
        config._attn_implementation_internal = _NAME
    return undo


@contextmanager
def receiving() -> Iterator[dict[nn.Module, Received]]:
    """What each switched attention is called with meanwhile, by module."""
    global _received
    _received = {}
    try:
        yield _received
    finally:
        _received = None


@contextmanager
def handling(root: nn.Module, handlers: Mapping[nn.Module, Handler]) -> Iterator[None]:
    """Let attention calls pass through handlers meanwhile: what a tower's modules are called with may be seen
    and replaced, under eager and sdpa attention alike. Blocks of this nest; the outer one's come first.

    Raises ModelError of another implementation (flash attention takes no mask).
    """
    _register()
    configs: dict[int, Any] = {id(c): c for c in (root.config, *(m.config for m in handlers))}
    before = [(c, c._attn_implementation_internal) for c in configs.values()]
    ours = {"eager": _NAME, "sdpa": _SDPA, _NAME: _NAME, _SDPA: _SDPA, None: _NAME}
    if unknown := sorted({i for _, i in before if i not in ours}):
        raise ModelError(
            f"{type(root).__name__}: got attention {unknown}, expected eager or sdpa, to see and change what "
            'attention reads; load the model with attn_implementation="sdpa"'
        )
    for module, handler in handlers.items():
        _handlers.setdefault(module, []).append(handler)
    try:
        for config, implementation in before:
            config._attn_implementation_internal = ours[implementation]
        yield
    finally:
        for module in handlers:
            _handlers[module].pop()
            if not _handlers[module]:
                del _handlers[module]
        for config, implementation in before:
            config._attn_implementation_internal = implementation


def _handled(
    module: nn.Module, query: Any, key: Any, value: Any, mask: Any, additive: bool, is_causal: bool | None
) -> Call:
    causal = not additive and (getattr(module, "is_causal", True) if is_causal is None else is_causal)
    call = Call(query, key, value, mask, bool(causal) and query.shape[2] > 1, additive)
    for handler in _handlers.get(module, ()):
        call = handler(call)
    return call


def shown(point: Point) -> bool:
    """Is a pattern's point one of transformers' attention, whose query and key `receiving` tells?"""
    return point.side == "switch" and getattr(point.switch, "func", None) is switch


def _register() -> None:
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, AttentionMaskInterface
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, AttentionInterface

    if _NAME not in ALL_ATTENTION_FUNCTIONS:
        # eager functions add the mask to the scores, so they need the mask eager attention gets.
        AttentionMaskInterface.register(_NAME, ALL_MASK_ATTENTION_FUNCTIONS["eager"])
        AttentionInterface.register(_NAME, _attend)
        AttentionMaskInterface.register(_SDPA, ALL_MASK_ATTENTION_FUNCTIONS["sdpa"])
        AttentionInterface.register(_SDPA, _attend_fused)


def _attend(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **kwargs: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    if module in _handlers:
        call = _handled(module, query, key, value, attention_mask, True, kwargs.get("is_causal"))
        query, key, value, attention_mask = call.query, call.key, call.value, call.mask
    if _received is not None:
        scaling = kwargs.get("scaling") or query.shape[-1] ** -0.5
        _received[module] = Received(query.detach(), key.detach(), scaling, kwargs.get("softcap"))
    mixed, weights = _eager(module)(module, query, key, value, attention_mask, **kwargs)
    through = _watched.get(module)
    if through is None:
        return mixed, weights
    new = through(weights)
    if new is not weights:
        groups = new.shape[1] // value.shape[1]
        values = value.repeat_interleave(groups, dim=1) if groups > 1 else value
        mixed, weights = torch.matmul(new, values).transpose(1, 2).contiguous(), new
    return mixed, weights


def _attend_fused(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **kwargs: Any,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    call = _handled(module, query, key, value, attention_mask, False, kwargs.get("is_causal"))
    mixed: tuple[torch.Tensor, torch.Tensor | None] = ALL_ATTENTION_FUNCTIONS["sdpa"](
        module, call.query, call.key, call.value, call.mask, **{**kwargs, "is_causal": call.causal}
    )
    return mixed


def _eager(module: nn.Module) -> Callable:
    for cls in type(module).__mro__:
        function = getattr(sys.modules.get(cls.__module__), "eager_attention_forward", None)
        if function is not None:
            return function
    raise ModelError(
        f"{type(module).__name__}: its file has no eager_attention_forward, so it has no pattern site"
    )
