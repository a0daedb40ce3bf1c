"""How a site's native tensor `[B, T, D]` lies inside the tensor a module shows.

Every part has `read(x, dims)` (a view where possible) and `write(x, new, dims)` (the tensor to use instead).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch


def pair(size: Any) -> tuple[int, int]:
    """A side or (height, width) -> (height, width)."""
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))


@dataclass(frozen=True)
class Dims:
    """Sizes of a tower. `q`, `kv` are the widths of all heads together."""

    model: int
    blocks: int
    heads: int
    kv_heads: int
    head_dim: int
    mlp: int
    joint: int = 0
    embed: int = 0

    @property
    def q(self) -> int:
        return self.heads * self.head_dim

    @property
    def kv(self) -> int:
        return self.kv_heads * self.head_dim


@dataclass(frozen=True)
class Whole:
    """The tensor itself."""

    def read(self, x: torch.Tensor, dims: Dims) -> torch.Tensor:
        return x

    def write(self, x: torch.Tensor, new: torch.Tensor, dims: Dims) -> torch.Tensor:
        return new


@dataclass(frozen=True)
class Pooled:
    """`[B, D]`, one row a sample, shown as `[B, 1, D]`."""

    def read(self, x: torch.Tensor, dims: Dims) -> torch.Tensor:
        return x.unsqueeze(1)

    def write(self, x: torch.Tensor, new: torch.Tensor, dims: Dims) -> torch.Tensor:
        return new.squeeze(1)


@dataclass(frozen=True)
class Third:
    """q, k or v (index 0, 1, 2) of a fused projection `[B, T, 3 * D]` laid out q, k, v."""

    index: int

    def read(self, x: torch.Tensor, dims: Dims) -> torch.Tensor:
        return x.chunk(3, dim=-1)[self.index]

    def write(self, x: torch.Tensor, new: torch.Tensor, dims: Dims) -> torch.Tensor:
        parts = list(x.chunk(3, dim=-1))
        parts[self.index] = new
        return torch.cat(parts, dim=-1)


@dataclass(frozen=True)
class Interleaved:
    """q, k or v of a fused projection laid out head by head (q, k, v of head 0, then of head 1): GPT-NeoX."""

    index: int

    def read(self, x: torch.Tensor, dims: Dims) -> torch.Tensor:
        heads = x.unflatten(-1, (dims.heads, 3, dims.head_dim))
        return heads[..., self.index, :].flatten(-2)

    def write(self, x: torch.Tensor, new: torch.Tensor, dims: Dims) -> torch.Tensor:
        parts = list(x.unflatten(-1, (dims.heads, 3, dims.head_dim)).unbind(-2))
        parts[self.index] = new.unflatten(-1, (dims.heads, dims.head_dim))
        return torch.stack(parts, dim=-2).flatten(-3)


@dataclass(frozen=True)
class HeadsLast:
    """`[B, T, heads, head_dim]`."""

    def read(self, x: torch.Tensor, dims: Dims) -> torch.Tensor:
        return x.flatten(-2)

    def write(self, x: torch.Tensor, new: torch.Tensor, dims: Dims) -> torch.Tensor:
        return new.view_as(x) if new.is_contiguous() else new.reshape(x.shape)


@dataclass(frozen=True)
class HeadsFirst:
    """`[B, heads, T, head_dim]`."""

    def read(self, x: torch.Tensor, dims: Dims) -> torch.Tensor:
        return x.transpose(1, 2).flatten(-2)

    def write(self, x: torch.Tensor, new: torch.Tensor, dims: Dims) -> torch.Tensor:
        return new.unflatten(-1, (x.shape[1], x.shape[3])).transpose(1, 2)


Part = Whole | Pooled | Third | Interleaved | HeadsLast | HeadsFirst
WHOLE, POOLED = Whole(), Pooled()
