"""Forwards that start in the middle: from recorded states of a block, and of rows from some row on.

`record` runs a model once and keeps what its blocks were called with: their input states, keys and values,
and the other arguments (masks, rotary embeddings), which the model itself made. `Recording.replay` then
calls the blocks from any one on, with only the rows from a place on that earlier rows do not look beyond,
and the recorded keys and values in front: what an intervention cannot change is not computed again.
`finish` makes the model's own forward give its output for the states so found: its blocks are passed over.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from mmxai.capture.hooks import Edit, attached, eagerly, exclusive, held
from mmxai.models import arrange, attention
from mmxai.models.adapter import BoundTower
from mmxai.models.attention import Call, Handler
from mmxai.models.attention_masks import allowed, explicit, split_before

if TYPE_CHECKING:
    from mmxai.models.inputs import Inputs
    from mmxai.models.model import Model, Run

_ROWS_LAST = ("position_ids", "cache_position")
"""Arguments of blocks `[..., T]`; position_embeddings are `[..., T, d]`, attention_mask `[B, 1, T, K]`."""


@dataclass(eq=False)
class Recording:
    """What the blocks of a tower were called with when `inputs` ran.

    states: `[n, T, D]` a block's input, and the last block's output behind them. keys, values: `[n, kv
    heads, T, d]` of each block, rotated; empty where attention does not show them. arguments: of each block,
    by name, without the states. lengths: rows of each sample, by row space. reason: why nothing can be
    resumed (None: it can).
    """

    tower: BoundTower
    blocks: list[nn.Module]
    states: list[torch.Tensor]
    arguments: list[dict[str, Any]]
    attentions: list[nn.Module]
    keys: list[torch.Tensor]
    values: list[torch.Tensor]
    calls: list[Call]
    tuples: list[tuple[Any, ...] | None]
    lengths: Mapping[str, tuple[int, ...]]
    reason: str | None = None
    _tiled: dict[tuple[int, int, int], Any] = field(default_factory=dict)

    @property
    def samples(self) -> int:
        return len(self.states[0])

    @property
    def length(self) -> int:
        return self.states[0].shape[1]

    @property
    def nbytes(self) -> int:
        """Of states, keys and values."""
        return sum(x.numel() * x.element_size() for x in (*self.states, *self.keys, *self.values))

    @cached_property
    def _may(self) -> torch.Tensor | None:
        """Which rows any row reads in any block, bool `[T, T]`; None where attention does not show it."""
        if not self.calls:
            return None
        seen: dict[int, torch.Tensor] = {}
        for call in self.calls:
            key = id(call.mask) if call.mask is not None else -1 - int(call.causal)
            if key not in seen:
                seen[key] = allowed(call).flatten(0, -3).any(0)
        return torch.stack(list(seen.values())).any(0)

    def start(self, row: int) -> int:
        """From which row on rows must run so that changes from `row` on are seen."""
        return 0 if self._may is None or row <= 0 else split_before(self._may, row)

    @torch.no_grad()
    def replay(
        self,
        model: Model,
        entries: Sequence[int],
        start: int,
        edits: Mapping[str, Edit] | None = None,
        handlers: Mapping[int, Handler] | None = None,
        every: bool = False,
    ) -> list[torch.Tensor]:
        """Copies of the samples, copy c from block `entries[c]` on, rows from `start` on: the last block's
        output `[C * n, T - start, D]`, or every block's, as a list.

        entries: ascending. edits: site -> edit of `[c * n, T - start, D]`, of the c copies that have entered
        by the site's block. handlers: block -> handler of attention calls; it sees those copies, all keys.
        """
        first, last = entries[0], len(self.blocks)
        counts = [sum(e <= b for e in entries) for b in range(last)]
        points = [(model.point_of(site), _through(model, site, edit)) for site, edit in (edits or {}).items()]
        x = self.states[first][:0, start:]
        outputs = [s[:, start:].repeat(len(entries), 1, 1) for s in self.states[1 : first + 1] if every]
        prefixed = self._prefixed(first, start, counts, handlers or {})
        with exclusive(model.module), eagerly(model.module), prefixed, attached(points):
            for b in range(first, last):
                new = counts[b] - len(x) // self.samples
                if new:
                    entering = self.states[b][:, start:].repeat(new, 1, 1)
                    x = entering if not len(x) else torch.cat([x, entering])
                rows = {space: each * counts[b] for space, each in self.lengths.items()}
                with arrange.arranged(rows):
                    out = self.blocks[b](x, **self._cut(b, start, counts[b]))
                x = out[0] if isinstance(out, tuple) else out
                if every:
                    later = self.states[b + 1][:, start:].repeat(len(entries) - counts[b], 1, 1)
                    outputs.append(torch.cat([x, later]))
        self._tiled.clear()
        return outputs or [x]

    @contextmanager
    def _prefixed(
        self, first: int, start: int, counts: Sequence[int], handlers: Mapping[int, Handler]
    ) -> Iterator[None]:
        """Attention calls get the recorded keys and values of the rows before `start`."""
        if not self.attentions:
            yield
            return

        def handler(block: int) -> Handler:
            def handle(call: Call) -> Call:
                if start:
                    n = counts[block]
                    keys, values = (
                        x[block][:, :, :start].repeat(n, 1, 1, 1) for x in (self.keys, self.values)
                    )
                    call = call._replace(
                        key=torch.cat([keys, call.key], 2), value=torch.cat([values, call.value], 2)
                    )
                    # Behind a prefix, causal means up to one's own row, and has to be said.
                    call = call._replace(mask=explicit(call), causal=False)
                return handlers[block](call) if block in handlers else call

            return handle

        chosen = {
            self.attentions[b]: handler(b) for b in range(first, len(self.blocks)) if start or b in handlers
        }
        if not chosen:
            yield
            return
        with attention.handling(self.tower.root, chosen):
            yield

    def _cut(self, block: int, start: int, copies: int) -> dict[str, Any]:
        """A block's recorded arguments for some copies of the samples, and the rows from `start` on."""
        return {k: self._cut_one(k, v, start, copies) for k, v in self.arguments[block].items()}

    def _cut_one(self, name: str, value: Any, start: int, copies: int) -> Any:
        if isinstance(value, tuple):
            return tuple(self._cut_one(name, v, start, copies) for v in value)
        if not isinstance(value, torch.Tensor):
            return value
        key = (id(value), start, copies)
        if key not in self._tiled:
            rows = -1 if name in _ROWS_LAST else -2
            x = value.narrow(rows, start, value.shape[rows] - start)
            batch = {"attention_mask": 0, "position_embeddings": value.ndim - 3}.get(name, value.ndim - 2)
            if copies > 1 and batch >= 0 and value.shape[batch] == self.samples and self.samples > 1:
                x = torch.cat([x] * copies, batch)
            self._tiled[key] = x
        return self._tiled[key]


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
    found = Recording(bound, _blocks(bound), [], [], [], [], [], [], [], lengths)
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


def _blocks(tower: BoundTower) -> list[nn.Module]:
    count = tower.dims.blocks
    sites = [tower.sites.get(f"{tower.name}.{b}.resid_pre") for b in range(count)]
    return [s.point.module for s in sites if s is not None]


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
    return name in _ROWS_LAST and x.shape[-1] == length


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


def _through(model: Model, site: str, edit: Edit) -> Callable[[torch.Tensor], torch.Tensor]:
    from mmxai.capture.hooks import Request

    return Request(site, model.point_of(site), edits=(edit,)).through


@torch.no_grad()
def finish(
    model: Model,
    states: Mapping[str, Sequence[torch.Tensor]],
    inputs: Inputs,
    capture: Sequence[str] = (),
) -> Run:
    """The model's own forward, whose towers named in `states` have their blocks passed over: the last ones
    give `states[tower]`, each `[n, T, D]`. All of them, where later parts read earlier blocks, as LLaVA does
    of its vision tower. inputs: of as many samples and rows; of a language model, whose output is read row
    by row, any tokens will do."""
    with held(model.module), passing_over(model, states):
        return model.run(inputs, capture=capture)


@contextmanager
def passing_over(model: Model, states: Mapping[str, Sequence[torch.Tensor]]) -> Iterator[None]:
    """Blocks do nothing meanwhile, and the last ones of each tower give the states said."""
    replaced: list[tuple[nn.Module, Any]] = []
    try:
        for name, given in states.items():
            blocks = _blocks(model.towers[name])
            for b, block in enumerate(blocks):
                at = b - len(blocks) + len(given)
                replaced.append((block, block.__dict__.get("forward")))
                block.__dict__["forward"] = _giving(given[at] if at >= 0 else None)
        yield
    finally:
        for block, own in replaced:
            if own is None:
                block.__dict__.pop("forward")
            else:
                block.__dict__["forward"] = own


def _giving(states: torch.Tensor | None) -> Callable[..., torch.Tensor]:
    def forward(hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        return hidden_states if states is None else states

    return forward


@contextmanager
def reading_rows(model: Model, rows: torch.Tensor) -> Iterator[bool]:
    """The head of a language model sees some rows of each sequence alone, int64 `[n, K]`: logits come as `[n,
    K, V]`. Yields False, and changes nothing, where the adapter names no module as its head."""
    head = _head(model)
    if head is None:
        yield False
        return

    def hook(module: nn.Module, args: tuple) -> tuple:
        x = args[0]
        times = len(x) // len(rows)
        index = rows.repeat(times, 1).to(x.device)[..., None].expand(-1, -1, x.shape[-1])
        return (x.gather(1, index), *args[1:])

    with held(model.module):
        handle = head.register_forward_pre_hook(hook)
        try:
            yield True
        finally:
            handle.remove()


def _head(model: Model) -> nn.Module | None:
    tower = model.towers.get("text")
    readout = tower.spec.readout if tower is not None else None
    if readout is None or not readout.logits or not readout.matrix.startswith("/"):
        return None
    found: Any = model.module
    for name in readout.matrix[1:].split("."):
        found = getattr(found, name, None)
    return found if isinstance(found, nn.Module) else None
