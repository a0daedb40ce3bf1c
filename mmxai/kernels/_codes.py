"""Checks shared by the ops on `Codes`."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import numpy as np
import torch

from mmxai.errors import ArgumentError
from mmxai.kernels.codes import Codes


def tensor(op: str, name: str, x: torch.Tensor, shape: tuple[int, ...], device: torch.device) -> None:
    """Raises unless `x` is contiguous float32 of that shape on that device."""
    if x.dtype != torch.float32 or x.shape != shape or not x.is_contiguous() or x.device != device:
        layout = "" if x.is_contiguous() else ", not contiguous"
        raise ArgumentError(
            f"{op}: {name} is {x.dtype} of shape {tuple(x.shape)} on {x.device}{layout}; expected contiguous "
            f"float32 of shape {shape} on {device}"
        )


def codes_on(op: str, codes: Codes) -> torch.device:
    """The device of `codes`, whose indices and offsets are checked: kernels follow them unseen."""
    device = codes.values.device
    if device.type not in ("cpu", "cuda"):
        raise ArgumentError(f"{op}: got codes on {device}, expected cpu or cuda")
    if device.type == "cuda":
        return device  # a look at the numbers would wait for the device
    # In NumPy, on one thread: less work than waking another.
    indices, offsets = codes.indices.numpy(), codes.offsets.numpy()
    if len(indices):
        low, high = int(indices.min()), int(indices.max())
        if low < 0 or high >= codes.width:
            raise ArgumentError(f"{op}: got latents {low} to {high}, expected 0 to {codes.width - 1}")
    ends = (int(offsets[0]), int(offsets[-1]))
    if ends != (0, len(codes.values)) or (offsets[1:] < offsets[:-1]).any():
        raise ArgumentError(f"{op}: got offsets {ends}, expected them to rise from 0 to {len(codes.values)}")
    return device


def ends_of(op: str, prefixes: tuple[int, ...] | None, width: int) -> tuple[int, ...]:
    """Checked ends of nested prefixes of the latents; None is the whole."""
    ends = prefixes or (width,)
    if any(a >= b for a, b in zip((0, *ends), ends, strict=False)) or ends[-1] != width:
        raise ArgumentError(f"{op}: got prefixes {ends}, expected them to rise to {width}, the latents")
    return ends


_CELLS = 1 << 22
"""Cells of `[B, M]` that dense products take at once: 16 MiB of float32."""


def dense_blocks(codes: Codes) -> Iterator[tuple[slice, slice, Codes]]:
    """`codes.blocks` of as many rows as may be made dense at once."""
    return codes.blocks(max(1, _CELLS // codes.width))


@lru_cache(maxsize=64)
def constants(numbers: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """`numbers` on `device`, not to be changed; kept, for a copy to a GPU waits for what that does."""
    return torch.tensor(numbers, dtype=dtype, device=device)


def arrays(codes: Codes) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Values, indices and offsets of codes on the CPU, for the C++ backends."""
    return (
        codes.values.detach().contiguous().numpy(),
        codes.indices.contiguous().numpy(),
        codes.offsets.numpy(),
    )


def optional(x: torch.Tensor | None) -> np.ndarray | None:
    """A tensor of the CPU as NumPy, sharing memory."""
    return None if x is None else x.detach().numpy()
