"""Buffers that training steps use again and again, and the rule for dense codes."""

from __future__ import annotations

import math

import torch

from mmxai.kernels.codes import Codes

DENSE_ABOVE = 0.05
"""See `is_dense`; the two take the same time at 5 to 10 %."""


def is_dense(density: float) -> bool:
    """Whether products of dense codes are quicker than sums over codes."""
    return density > DENSE_ABOVE


def backend_for(codes: Codes) -> str:
    """The backend for the ops on `codes`: the reference is made of dense products."""
    return "reference" if is_dense(codes.density) else "auto"


class Workspace:
    """Named buffers that grow to the largest asked for; fresh memory costs a page fault every 4 KiB.

    One serves all the SAEs of a run, one after another. `block_rows`: rows of the encoder's product at once.
    """

    def __init__(self, block_rows: int = 512):
        self.block_rows = block_rows
        self._held: dict[tuple[str, torch.device], torch.Tensor] = {}

    def take(self, name: str, shape: tuple[int, ...], device: torch.device) -> torch.Tensor:
        """The buffer of that name as float32 of that shape, with whatever it held."""
        count = math.prod(shape)
        held = self._held.get((name, device))
        if held is None or held.numel() < count:
            held = self._held[name, device] = torch.empty(count, device=device)
        return held[:count].view(shape)

    def like(self, name: str, x: torch.Tensor) -> torch.Tensor:
        """`take` with the shape and device of `x`."""
        return self.take(name, tuple(x.shape), x.device)
