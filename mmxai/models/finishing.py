"""The model's own end for states that were found elsewhere, and for some rows alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from mmxai.capture.hooks import held
from mmxai.models.resume import blocks_of

if TYPE_CHECKING:
    from mmxai.models.inputs import Inputs
    from mmxai.models.model import Model, Run


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
            blocks = blocks_of(model.towers[name])
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
