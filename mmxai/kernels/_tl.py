# mypy: allow-untyped-defs, allow-incomplete-defs
"""Triton, for the backends that run where no CUDA compiler was present at install.

Kernels see 16-bit floats as int16 and float32 as int32, and convert by integer arithmetic: what must be equal
bit for bit is then equal on every GPU and under Triton's interpreter, whose bfloat16 is wrong. `KIND`: 0
float32, 1 bfloat16, 2 float16 (`FLOATS` of `_args`).

With TRITON_INTERPRET=1 in the environment before the first import, the kernels run on tensors on the CPU.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

MISSING = tl.constexpr(-(1 << 63))
"""The key of nothing: below that of every value."""


@triton.jit
def widen(bits, KIND: tl.constexpr):
    """int32 bits of the float32 of a value, from its own bits."""
    if KIND == 0:
        wide = bits
    elif KIND == 1:
        wide = bits.to(tl.int32) << 16
    else:
        u = bits.to(tl.int32)
        nan = ((u & 0x8000) << 16) | 0x7FC00000 | ((u & 0x3FF) << 13)
        value = bits.to(tl.float16, bitcast=True).to(tl.float32).to(tl.int32, bitcast=True)
        wide = tl.where((u & 0x7FFF) > 0x7C00, nan, value)
    return wide


@triton.jit
def narrow(u, KIND: tl.constexpr):
    """The inverse of `widen`: to nearest, ties to even, NaNs as `_convert` specifies."""
    nan = (u & 0x7FFFFFFF) > 0x7F800000
    if KIND == 0:
        bits = u
    elif KIND == 1:
        rounded = (u + (0x7FFF + ((u >> 16) & 1))) >> 16
        bits = tl.where(nan, (u >> 16) | 0x40, rounded).to(tl.int16)
    else:
        value = u.to(tl.float32, bitcast=True).to(tl.float16).to(tl.int16, bitcast=True).to(tl.int32)
        payload = ((u >> 16) & 0x8000) | 0x7E00 | ((u >> 13) & 0x3FF)
        bits = tl.where(nan, payload, value).to(tl.int16)
    return bits


@triton.jit
def order(u):
    """int32 that sort as the float32 of bits `u` do; of either zero 0. NaN is for the caller to deal with."""
    return tl.where((u & 0x7FFFFFFF) == 0, 0, u ^ ((u >> 31) & 0x7FFFFFFF))


@triton.jit
def sort_key(value, place):
    """int64 that sort by (value ascending, place descending); `value` float32, `place` from 0 to 2^32 - 1."""
    high = order(value.to(tl.int32, bitcast=True)).to(tl.int64)
    return (high << 32) | (0xFFFFFFFF - place.to(tl.int64))


@triton.jit
def key_value(key):
    ordered = (key >> 32).to(tl.int32)
    return (ordered ^ ((ordered >> 31) & 0x7FFFFFFF)).to(tl.float32, bitcast=True)


@triton.jit
def key_place(key):
    return 0xFFFFFFFF - (key & 0xFFFFFFFF)


def as_bits(x: torch.Tensor) -> torch.Tensor:
    """A float tensor as the kernels take it; same strides, same memory."""
    return x.view(torch.int32 if x.dtype == torch.float32 else torch.int16)
