"""Modules that see the rows of all samples in one dimension, `[B * T, D]`, in a block of `[B, T, D]`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

Through = Callable[[torch.Tensor], torch.Tensor]


def unfolded(block: nn.Module, through: Through) -> tuple[Through, Callable[[], None]]:
    """`through`, which takes `[B, T, D]`, for a module inside `block`; and what detaches it again.

    B and T are those of the block's first argument in the same forward: a generation's change step by step.
    """
    shape: list[int] = []

    def note(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        shape[:] = (args[0] if args else kwargs["hidden_states"]).shape[:2]

    def folded(tensor: torch.Tensor) -> torch.Tensor:
        # A view, so that what is written in place reaches the tensor itself; handed on as it came back, or
        # gradients at the view would miss what the module makes of the tensor.
        return through(tensor.unflatten(0, tuple(shape))).flatten(0, 1)

    return folded, block.register_forward_pre_hook(note, with_kwargs=True).remove
