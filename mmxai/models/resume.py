"""Forwards that start in the middle: from recorded states of a block, and of rows from some row on.

`recording.record` runs a model once and keeps what its blocks were called with: their input states, keys and
values, and the other arguments (masks, rotary embeddings), which the model itself made. `Recording.replay`
then calls the blocks from any one on, with only the rows from a place on that earlier rows do not look
beyond, and the recorded keys and values in front: what an intervention cannot change is not computed again.
`finishing.finish` makes the model's own forward give its output for the states so found: its blocks are
passed over.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from mmxai.capture.hooks import Edit, Request, attached, eagerly, exclusive
from mmxai.models import arrange, attention
from mmxai.models.adapter import BoundTower
from mmxai.models.attention import Call, Handler
from mmxai.models.attention_masks import allowed, explicit, split_before

if TYPE_CHECKING:
    from mmxai.models.model import Model

ROWS_LAST = ("position_ids", "cache_position")
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
            rows = -1 if name in ROWS_LAST else -2
            x = value.narrow(rows, start, value.shape[rows] - start)
            batch = {"attention_mask": 0, "position_embeddings": value.ndim - 3}.get(name, value.ndim - 2)
            if copies > 1 and batch >= 0 and value.shape[batch] == self.samples and self.samples > 1:
                x = torch.cat([x] * copies, batch)
            self._tiled[key] = x
        return self._tiled[key]


def blocks_of(tower: BoundTower) -> list[nn.Module]:
    """The modules whose inputs are `resid_pre`."""
    count = tower.dims.blocks
    sites = [tower.sites.get(f"{tower.name}.{b}.resid_pre") for b in range(count)]
    return [s.point.module for s in sites if s is not None]


def _through(model: Model, site: str, edit: Edit) -> Callable[[torch.Tensor], torch.Tensor]:
    return Request(site, model.point_of(site), edits=(edit,)).through
