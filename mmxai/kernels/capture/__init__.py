"""A hidden state read once: the kept rows packed in storage dtype, the statistics of every neuron updated."""

from __future__ import annotations

import torch

from mmxai.errors import ArgumentError
from mmxai.kernels._args import FLOATS
from mmxai.kernels._dispatch import Op
from mmxai.kernels._threads import thread_count
from mmxai.kernels.capture.state import MOST, NeuronState
from mmxai.kernels.pack import pack

__all__ = ["MOST", "OP", "NeuronState", "capture"]

OP = Op("capture")


def capture(
    x: torch.Tensor,
    keep: torch.Tensor | None,
    out: torch.Tensor | None,
    state: NeuronState | None,
    row0: int,
    *,
    samples: torch.Tensor | None = None,
    scales: torch.Tensor | None = None,
    threads: int | None = None,
    backend: str = "auto",
) -> int:
    """Write the kept rows of `x` `[B, T, D]` to `out` `[N, D]` and take them into `state`; one read of `x`.

    `x`: float32, bfloat16 or float16 with any strides. `keep`: bool `[B, T]` with N True, or None for all.
    The n-th kept row, in (b, t) order, has the id `row0 + n` (a store's are `part << 32 | row`); ids grow
    from call to call. `samples`: int64 `[N]`, the sample of each kept row, the rows of one sample next to
    each other; needed if and only if `state.per_sample`. Returns the number of values that are finite in `x`
    and not in `out`.

    `out`: contiguous; float32, bfloat16 or float16 rounded as `pack` does. Or int8 with `scales` float32
    `[N]`, which are written too: scale = largest finite |x| of the row / 127, and x / scale rounded to
    nearest even, within +-127; 0 for NaN and where the scale is 0, +-127 for +-inf. Or None: statistics only.

    `state` (None: packing only) is of the values as `out` holds them, so that anyone can recompute it from
    what was stored; only beside int8 it is of `x` rounded to bfloat16; without `out`, of `x` in float32.
    Everything but the moments is exact and depends neither on the backend nor on how rows were split into
    calls. The moments are sums in float32 over at most 128 rows about a recent mean, merged in float64 (Chan,
    Golub and LeVeque 1983): against exact arithmetic M2 is within 1e-5 of itself and the mean within 1e-5
    standard deviations, however large values or their offset are. `state` is spoilt if a call raises.
    """
    if state is None and out is not None and out.dtype != torch.int8:
        if samples is not None or scales is not None:
            raise ArgumentError(
                f"capture: got samples or scales without state, out {out.dtype}; expected neither"
            )
        return pack(x, keep, out, threads=threads, backend=backend)
    index = None
    if keep is not None:
        if keep.dtype != torch.bool or keep.shape != x.shape[:2]:
            raise ArgumentError(
                f"capture: keep is {keep.dtype} {tuple(keep.shape)}, expected torch.bool {tuple(x.shape[:2])}"
            )
        index = keep.reshape(-1).nonzero().reshape(-1)
    count = check(x, index, out, state, row0, samples, scales)
    overflow = 0
    if count:
        module = OP.pick(backend, x.device.type, x, index, out, state)
        overflow = module.capture(x.detach(), index, out, state, row0, samples, scales, thread_count(threads))
        if state is not None:
            state.count += count
            state.next_row = row0 + count
    return overflow


def check(
    x: torch.Tensor,
    index: torch.Tensor | None,
    out: torch.Tensor | None,
    state: NeuronState | None,
    row0: int,
    samples: torch.Tensor | None,
    scales: torch.Tensor | None,
) -> int:
    """Raises where `capture` would; the number of rows it would take, 0 where there is nothing to do."""
    if x.ndim != 3 or x.dtype not in FLOATS:
        raise ArgumentError(
            f"capture: x is {x.dtype} of shape {tuple(x.shape)}, expected (B, T, D) of {_NAMES}"
        )
    if state is None and (out is None or out.dtype != torch.int8):
        raise ArgumentError("capture: got neither int8 out nor state, expected one at least")
    batch, tokens, width = x.shape
    count = batch * tokens
    if index is not None:
        _check_index(index, count)
        count = len(index)
    _check_out(out, scales, count, width)
    _check_state(state, samples, row0, count, width)
    given = [t for t in (index, out, scales, samples) if t is not None]
    others = {t.device for t in given} | (set() if state is None else {state.top_values.device})
    if others - {x.device} or x.device.type not in ("cpu", "cuda"):
        raise ArgumentError(
            f"capture: x is on {x.device}, the others on {sorted(map(str, others))}; expected one cpu or cuda"
        )
    return count if width else 0


def _check_index(index: torch.Tensor, rows: int) -> None:
    if index.dtype != torch.int64 or index.ndim != 1 or not index.is_contiguous():
        raise ArgumentError(
            f"capture: index is {index.dtype} {tuple(index.shape)}, expected contiguous torch.int64 (N,)"
        )
    # On a GPU looking would wait for it.
    if index.device.type == "cpu" and len(index) and not 0 <= int(index.min()) <= int(index.max()) < rows:
        raise ArgumentError(
            f"capture: index goes from {int(index.min())} to {int(index.max())}, x has {rows} rows"
        )


def _check_out(out: torch.Tensor | None, scales: torch.Tensor | None, count: int, width: int) -> None:
    if (scales is not None) != (out is not None and out.dtype == torch.int8):
        raise ArgumentError(
            f"capture: got out {None if out is None else out.dtype} "
            f"{'with' if scales is not None else 'without'} scales, expected scales with int8 and only there"
        )
    if scales is not None and (
        scales.dtype != torch.float32 or tuple(scales.shape) != (count,) or not scales.is_contiguous()
    ):
        raise ArgumentError(
            f"capture: scales are {scales.dtype} {tuple(scales.shape)}, expected torch.float32 ({count},)"
        )
    if out is not None and (
        out.dtype not in (*FLOATS, torch.int8)
        or tuple(out.shape) != (count, width)
        or not out.is_contiguous()
    ):
        raise ArgumentError(
            f"capture: out is {out.dtype} of shape {tuple(out.shape)}, strides {out.stride()}; "
            f"expected contiguous ({count}, {width}) of {_NAMES} or int8"
        )


def _check_state(
    state: NeuronState | None, samples: torch.Tensor | None, row0: int, count: int, width: int
) -> None:
    if state is not None and state.width != width:
        raise ArgumentError(f"capture: x has width {width}, the state {state.width}; expected the same")
    if state is not None and row0 < state.next_row:
        raise ArgumentError(f"capture: got row {row0} after row {state.next_row - 1}, expected rows in order")
    if (samples is not None) != (state is not None and state.per_sample):
        raise ArgumentError(
            f"capture: got {'no ' if samples is None else ''}samples for {state}, expected them with a state "
            f"made with per_sample=True and only there"
        )
    if samples is not None and (
        samples.dtype != torch.int64 or tuple(samples.shape) != (count,) or not samples.is_contiguous()
    ):
        raise ArgumentError(
            f"capture: samples are {samples.dtype} {tuple(samples.shape)}, expected torch.int64 ({count},)"
        )


_NAMES = "float32, bfloat16 or float16"
