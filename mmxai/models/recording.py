"""A run of which is kept what the blocks of a tower were called with, for `resume.Recording.replay`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from mmxai.capture.hooks import Edit, held
from mmxai.models import arrange, attention
from mmxai.models.adapter import BoundTower
from mmxai.models.attention import Call, Handler
from mmxai.models.resume import ROWS_LAST, Recording, blocks_of

if TYPE_CHECKING:
    from mmxai.models.inputs import Inputs
    from mmxai.models.model import Model, Run


def record(
    model: Model,
    tower: str,
    inputs: Inputs,
    *,
    edit: Mapping[str, Edit | Sequence[Edit]] | None = None,
    capture: Sequence[str] = (),
) -> tuple[Run, Recording]:
    """Run the model and keep what the blocks of `tower` were called with. Arguments as of `model.run`."""
    bound = model.towers[tower]
    lengths = arrange.lengths_of(inputs.rows)
    found = Recording(bound, blocks_of(bound), [], [], [], [], [], [], [], lengths)
    found.reason = _unsuited(bound, found.blocks)
    if found.reason:
        return model.run(inputs, capture=capture, edit=edit), found
    count = len(found.blocks)
    inner: dict[int, torch.Tensor] = {}
    outer: dict[int, torch.Tensor] = {}
    read: dict[str, Callable[[torch.Tensor], None]] = {}
    for b in range(count):
        read[f"{tower}.{b}.resid_pre"] = _kept(inner, b)
        read[f"{tower}.{b}.resid_post"] = _kept(outer, b)
    shapes: list[tuple[int, ...]] = []
    # Other threads wait: what is attached here would see, or change, their runs too.
    with held(model.module), _arguments(found, shapes), _calls(found):
        run = model.run(inputs, capture=capture, edit=edit, read=read)
    found.states = [*(inner[b] for b in range(count)), outer[count - 1]]
    found.reason = _unfaithful(found, inner, outer, shapes)
    return run, found


def _unsuited(tower: BoundTower, blocks: Sequence[nn.Module]) -> str | None:
    """What about a tower's adapter says that its blocks cannot be called one by one."""
    for b in range(tower.dims.blocks):
        before, after = (tower.sites.get(f"{tower.name}.{b}.{k}") for k in ("resid_pre", "resid_post"))
        if before is None or after is None:
            return f"block {b} of {tower.name} has no resid_pre or no resid_post"
        same = before.point.module is after.point.module
        if not same or before.point.side != "in" or after.point.side != "out":
            return f"resid_pre and resid_post of {tower.name} are not what its blocks take and give"
    return None if blocks else f"{tower.name} has no blocks"


def _unfaithful(
    found: Recording,
    inner: dict[int, torch.Tensor],
    outer: dict[int, torch.Tensor],
    shapes: Sequence[tuple[int, ...]],
) -> str | None:
    """What was seen of a run that calls of blocks, one after the other, would not do again."""
    for b in range(1, len(found.blocks)):
        if inner[b] is not outer[b - 1] and not torch.equal(inner[b], outer[b - 1]):
            return f"something is added to the stream between blocks {b - 1} and {b}"
    if different := {s for s in shapes if s != tuple(found.states[0].shape)}:
        return f"its blocks take states {different.pop()}, not a row a row of each sample"
    length, n = found.length, found.samples
    for arguments in found.arguments:
        for name, value in arguments.items():
            for x in value if isinstance(value, tuple) else (value,):
                if x is None or isinstance(x, bool | int | float | str):
                    continue
                known = isinstance(x, torch.Tensor) and _fits(name, x, length, n)
                if not known:
                    return f"its blocks take {name}, {_said(x)}, which cannot be cut by rows"
    for rest in found.tuples:
        if rest is not None and any(r is not None for r in rest):
            return "its blocks give more than their states"
    return None


def _fits(name: str, x: torch.Tensor, length: int, samples: int) -> bool:
    if name == "attention_mask":
        return x.ndim == 4 and x.shape[-2:] == (length, length) and x.shape[0] in (1, samples)
    if name == "position_embeddings":
        return x.ndim >= 2 and x.shape[-2] == length
    return name in ROWS_LAST and x.shape[-1] == length


def _said(x: Any) -> str:
    return f"a tensor {tuple(x.shape)}" if isinstance(x, torch.Tensor) else f"a {type(x).__name__}"


def _kept(into: dict[int, torch.Tensor], block: int) -> Callable[[torch.Tensor], None]:
    def reader(x: torch.Tensor) -> None:
        into[block] = x.detach()

    return reader


@contextmanager
def _arguments(found: Recording, shapes: list[tuple[int, ...]]) -> Iterator[None]:
    """Keep the arguments of each block but its states, of those the shapes."""
    names: list[dict[str, Any]] = [{} for _ in found.blocks]
    tuples: list[tuple[Any, ...] | None] = [None] * len(found.blocks)
    undo = []

    def before(block: int) -> Callable[..., None]:
        signature = inspect.signature(type(found.blocks[block]).forward)

        def hook(module: nn.Module, args: tuple, kwargs: dict) -> None:
            bound = signature.bind(module, *args, **kwargs)
            _, states, *rest = bound.arguments.items()
            shapes.append(tuple(states[1].shape))
            given = dict(rest)
            for name, parameter in signature.parameters.items():
                if parameter.kind is inspect.Parameter.VAR_KEYWORD:
                    given |= given.pop(name, {})
            names[block] = given

        return hook

    def after(block: int) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple, out: Any) -> None:
            tuples[block] = out[1:] if isinstance(out, tuple) else None

        return hook

    try:
        for b, module in enumerate(found.blocks):
            undo.append(module.register_forward_pre_hook(before(b), with_kwargs=True).remove)
            undo.append(module.register_forward_hook(after(b)).remove)
        yield
        found.arguments, found.tuples = names, tuples
    finally:
        for remove in undo:
            remove()


@contextmanager
def _calls(found: Recording) -> Iterator[None]:
    """Keep keys, values and masks of each block's attention, where it shows them."""
    tower = found.tower
    points = [
        site.point
        for b in range(len(found.blocks))
        if (site := tower.sites.get(f"{tower.name}.{b}.pattern")) is not None and attention.shown(site.point)
    ]
    if len(points) < len(found.blocks):
        yield
        return
    seen: dict[nn.Module, Call] = {}

    def keeping(module: nn.Module) -> Handler:
        def handle(call: Call) -> Call:
            # The query is large and not needed again; its shape is.
            seen[module] = call._replace(key=call.key.detach(), value=call.value.detach())
            return call

        return handle

    modules = [p.module for p in points]
    with attention.handling(tower.root, {m: keeping(m) for m in modules}):
        yield
    found.attentions = modules
    found.keys = [seen[m].key for m in modules]
    found.values = [seen[m].value for m in modules]
    found.calls = [
        c._replace(query=c.query[:1, :1], key=c.key[:1, :1], value=c.value[:1, :1])
        for c in (seen[m] for m in modules)
    ]
