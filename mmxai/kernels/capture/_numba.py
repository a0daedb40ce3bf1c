"""`capture` under numba. One thread.

Rows go in groups of eight, widened into a buffer that stays in the cache; loops run along the neurons, so
that LLVM makes vectors of them, and sums gain a group at a time. As in C++, what is rare shows in the sums.
"""

from __future__ import annotations

import numpy as np
import torch

from mmxai.kernels._args import FLOATS
from mmxai.kernels._jit import jit, narrow, overflows, widen
from mmxai.kernels.capture.state import NeuronState

_GROUP, _TILE = 8, 128
_STRIP = 1024  # neurons at a time: their sums and eight rows of them fit the level-1 cache, or nearly


def supports(
    x: torch.Tensor, index: torch.Tensor | None, out: torch.Tensor | None, state: NeuronState | None
) -> str | None:
    return None


@jit
def _settle(x: np.ndarray, source: int, target: int, write: bool, out: np.ndarray, held: np.ndarray) -> None:
    """One row: bits `x` of dtype `source` as `target`, to `out` if wanted, and as float32 bits to `held`."""
    if source == target and source < 2:
        for d in range(len(x)):
            held[d] = np.uint32(x[d]) << np.uint32(16 * source)
        if write:
            out[:] = x
    elif source == target or target == 0:
        for d in range(len(x)):
            held[d] = widen(x[d], source)
        if write:
            for d in range(len(x)):
                out[d] = x[d] if source == target else held[d]
    elif target == 1 and source == 0:
        for d in range(len(x)):  # uint32 throughout: half of int64's width
            u = x[d]
            rounded = u + np.uint32(0x7FFF) + ((u >> np.uint32(16)) & np.uint32(1))
            if (u & np.uint32(0x7FFFFFFF)) > np.uint32(0x7F800000):
                rounded = u | np.uint32(0x400000)
            held[d] = rounded & np.uint32(0xFFFF0000)
        if write:
            for d in range(len(x)):
                out[d] = held[d] >> np.uint32(16)
    else:
        for d in range(len(x)):
            u = narrow(widen(x[d], source), target)
            held[d] = widen(u, target)
            if write:
                out[d] = u


@jit
def _add_group(
    x: np.ndarray, rows: int, w: int, sums: np.ndarray, positive: np.ndarray, peaks: np.ndarray
) -> None:
    """Take `rows` rows of `x` into sums (shift, sum, square, low, high) and `peaks` (the group's low, high).

    `x` is whole and `w` beside it, for of a part numba does not know that neurons are neighbours.
    """
    for d in range(w):
        shift = sums[0, d]
        s, q, above = np.float32(0), np.float32(0), np.int32(0)
        low, high = np.float32(np.inf), np.float32(-np.inf)
        if rows == 8:
            for r in range(8):
                v = x[r, d]
                c = v - shift
                s += c
                q += c * c
                low = v if v < low else low
                high = v if v > high else high
                above += np.int32(1) if v > 0 else np.int32(0)
        else:
            for r in range(rows):
                v = x[r, d]
                c = v - shift
                s += c
                q += c * c
                low = v if v < low else low
                high = v if v > high else high
                above += np.int32(1) if v > 0 else np.int32(0)
        sums[1, d] += s
        sums[2, d] += q
        sums[3, d] = low if low < sums[3, d] else sums[3, d]
        sums[4, d] = high if high > sums[4, d] else sums[4, d]
        positive[d] += above
        peaks[0, d] = low
        peaks[1, d] = high


@jit
def _offer(
    values: np.ndarray, rows: np.ndarray, owners: np.ndarray, v: float, row: int, sample: int, sign: int
) -> float:
    """Enter a finite value into a neuron's list and return what the next must beat.

    `sign` -1 where the list is of the smallest. Equal values there have the lower row and stay first.
    """
    at = len(values) - 1
    if len(owners):
        own = 0
        while own < at and owners[own] != sample:
            own += 1
        at = own
    if not v * sign > values[at] * sign:
        return values[-1]
    while at > 0 and v * sign > values[at - 1] * sign:
        values[at], rows[at] = values[at - 1], rows[at - 1]
        if len(owners):
            owners[at] = owners[at - 1]
        at -= 1
    values[at], rows[at] = v + np.float32(0), row  # never -0.0
    if len(owners):
        owners[at] = sample
    return values[-1]


@jit
def _offer_group(
    x: np.ndarray, rows: int, peaks: np.ndarray, last: np.ndarray, values: np.ndarray, ids: np.ndarray,
    owners: np.ndarray, row0: int, samples: np.ndarray, first: int, sign: int,
) -> None:  # fmt: skip
    """Enter what beats `last` among `rows` rows of `x`, of which `peaks` are the extremes; lists `[w, k]`."""
    largest = np.float32(3.4028235e38)
    for d in range(len(values)):
        if peaks[d] * sign > last[d] * sign:
            for r in range(rows):
                v = x[r, d]
                if v * sign > last[d] * sign and abs(v) <= largest:
                    sample = samples[first + r] if len(samples) else -1
                    own = owners[d] if len(samples) else owners[0]
                    last[d] = _offer(values[d], ids[d], own, v, row0 + first + r, sample, sign)


@jit
def _merge(d: int, before: float, n: float, mean: float, m2: float, moments: np.ndarray) -> None:
    """Chan, Golub and LeVeque (1983): n values of that mean and M2, beside `before` others."""
    delta = mean - moments[0, d]
    moments[0, d] += delta * n / (before + n)
    moments[1, d] += m2 + delta * delta * before * n / (before + n)


@jit
def _column(
    x: np.ndarray, index: np.ndarray, r0: int, d: int, source: int, target: int, column: np.ndarray
) -> int:
    """A column of a tile, settled, as float32 bits to `column`; returns how many values overflowed."""
    tokens, overflow = x.shape[1], 0
    for r in range(len(column)):
        at = index[r0 + r] if len(index) else r0 + r
        u = widen(x[at // tokens, at % tokens, d], source)
        overflow += overflows(u, target) if source != target else 0
        column[r] = widen(narrow(u, target), target)
    return overflow


@jit
def _mean(x: np.ndarray) -> tuple[int, float]:
    n, total = 0, 0.0
    for v in x:
        if np.isfinite(v):
            n += 1
            total += v
    return n, total / n if n else 0.0


@jit
def _merge_slowly(
    x: np.ndarray, d: int, before: float, tallies: np.ndarray, moments: np.ndarray, extremes: np.ndarray
) -> None:
    """A column of a tile where the sums do not stand for it, in float64."""
    n, mean = _mean(x)
    m2 = 0.0
    for v in x:
        if np.isfinite(v):
            m2 += (v - mean) * (v - mean)
            tallies[3, d] += v > 0
            extremes[0, d] = min(extremes[0, d], v + np.float32(0))
            extremes[1, d] = max(extremes[1, d], v + np.float32(0))
        else:
            tallies[0 if np.isnan(v) else 1 if v > 0 else 2, d] += 1
    if n:
        _merge(d, before, float(n), mean, m2, moments)


@jit
def _turned(lists: np.ndarray, d0: int, w: int) -> np.ndarray:
    """Columns `[d0, d0 + w)` of `[k, D]` as `[w, k]`; `[1, 0]` of lists that are not kept."""
    if len(lists) == 0:
        return np.empty((1, 0), lists.dtype)
    return lists[:, d0 : d0 + w].T.copy()


@jit
def _put_back(turned: np.ndarray, lists: np.ndarray, d0: int) -> None:
    if len(lists):
        lists[:, d0 : d0 + len(turned)] = turned.T


@jit
def _run(
    x: np.ndarray, index: np.ndarray, count: int, out: np.ndarray, write: bool, source: int, target: int,
    row0: int, samples: np.ndarray, seen: int, tallies: np.ndarray, moments: np.ndarray, extremes: np.ndarray,
    top_values: np.ndarray, top_rows: np.ndarray, top_owners: np.ndarray,
    low_values: np.ndarray, low_rows: np.ndarray, low_owners: np.ndarray,
) -> int:  # fmt: skip
    tokens, width, overflow = x.shape[1], x.shape[2], 0
    largest = np.float32(3.4028235e38)
    bits, column = np.empty((_GROUP, _STRIP), np.uint32), np.empty(_TILE, np.uint32)
    held = bits.view(np.float32)
    sums, peaks = np.empty((5, _STRIP), np.float32), np.empty((2, _STRIP), np.float32)
    positive = np.empty(_STRIP, np.int32)
    for d0 in range(0, width, _STRIP):
        w = min(_STRIP, width - d0)
        # The lists neuron by neuron: an insertion in rank-major order would touch a page a rank.
        tops, lows = _turned(top_values, d0, w), _turned(low_values, d0, w)
        tops_at, lows_at = _turned(top_rows, d0, w), _turned(low_rows, d0, w)
        tops_of, lows_of = _turned(top_owners, d0, w), _turned(low_owners, d0, w)
        top_last, low_last = tops[:, -1].copy(), lows[:, -1].copy() if len(low_values) else tops[:, -1].copy()
        for r0 in range(0, count, _TILE):
            rows = min(_TILE, count - r0)
            sums[1:3], sums[3], sums[4], positive[:] = 0, np.inf, -np.inf, 0
            for d in range(w):
                before = seen + r0 - tallies[0, d0 + d] - tallies[1, d0 + d] - tallies[2, d0 + d]
                if before < _TILE:
                    _column(x, index, r0, d0 + d, source, target, column[:rows])
                    sums[0, d] = _mean(column[:rows].view(np.float32))[1]
                else:
                    sums[0, d] = moments[0, d0 + d]
            for g in range(r0, r0 + rows, _GROUP):
                group = min(_GROUP, r0 + rows - g)
                for r in range(group):
                    at = index[g + r] if len(index) else g + r
                    line = x[at // tokens, at % tokens, d0 : d0 + w]
                    _settle(line, source, target, write, out[g + r if write else 0, d0 : d0 + w], bits[r, :w])
                _add_group(held, group, w, sums, positive, peaks)
                _offer_group(held, group, peaks[1], top_last, tops, tops_at, tops_of, row0, samples, g, 1)
                if len(low_values):
                    _offer_group(
                        held, group, peaks[0], low_last, lows, lows_at, lows_of, row0, samples, g, -1
                    )
            for d in range(w):
                before = float(seen + r0 - tallies[0, d0 + d] - tallies[1, d0 + d] - tallies[2, d0 + d])
                s, q, low, high = float(sums[1, d]), float(sums[2, d]), sums[3, d], sums[4, d]
                if (q >= 2.0**-100 and q <= largest) or (q == 0 and low == high):
                    _merge(
                        d0 + d,
                        before,
                        float(rows),
                        sums[0, d] + s / rows,
                        max(q - s * s / rows, 0.0),
                        moments,
                    )
                    tallies[3, d0 + d] += positive[d]
                    extremes[0, d0 + d] = min(extremes[0, d0 + d], low + np.float32(0))
                    extremes[1, d0 + d] = max(extremes[1, d0 + d], high + np.float32(0))
                else:
                    overflow += _column(x, index, r0, d0 + d, source, target, column[:rows])
                    values = column[:rows].view(np.float32)
                    _merge_slowly(values, d0 + d, before, tallies, moments, extremes)
        _put_back(tops, top_values, d0)
        _put_back(tops_at, top_rows, d0)
        _put_back(tops_of, top_owners, d0)
        _put_back(lows, low_values, d0)
        _put_back(lows_at, low_rows, d0)
        _put_back(lows_of, low_owners, d0)
    return overflow


@jit
def _quantise(x: np.ndarray, index: np.ndarray, out: np.ndarray, scales: np.ndarray, source: int) -> None:
    tokens = x.shape[1]
    bits = np.empty(x.shape[2], np.uint32)
    held = bits.view(np.float32)
    rounder, edge = np.float32(12582912), np.float32(127)  # adding 1.5 * 2^23 rounds to nearest even
    for r in range(len(out)):
        at = index[r] if len(index) else r
        high = np.float32(0)
        for d in range(x.shape[2]):
            bits[d] = widen(x[at // tokens, at % tokens, d], source)
            v = abs(held[d])
            high = v if v > high and v < np.inf else high
        scale = high / edge
        scales[r] = scale
        for d in range(x.shape[2]):
            v = held[d]
            if np.isnan(v):
                out[r, d] = 0
            elif np.isinf(v):
                out[r, d] = 127 if v > 0 else -127
            elif scale > 0:
                steps = v / scale
                steps = -edge if steps < -edge else edge if steps > edge else steps
                out[r, d] = np.int8((steps + rounder) - rounder)
            else:
                out[r, d] = 0


def capture(
    x: torch.Tensor,
    index: torch.Tensor | None,
    out: torch.Tensor | None,
    state: NeuronState | None,
    row0: int,
    samples: torch.Tensor | None,
    scales: torch.Tensor | None,
    threads: int,
) -> int:
    rows = np.empty(0, np.int64) if index is None else index.numpy()
    count = x.shape[0] * x.shape[1] if index is None else len(rows)
    source, target = FLOATS.index(x.dtype), FLOATS.index(torch.float32)
    values, packed = _unsigned(x), np.empty((1, x.shape[2]), np.uint32)
    if out is not None and scales is not None:
        _quantise(values, rows, out.numpy(), scales.numpy(), source)
        target, out = FLOATS.index(torch.bfloat16), None  # what the statistics are of
    elif out is not None:
        target, packed = FLOATS.index(out.dtype), _unsigned(out)
    if state is None:
        return 0
    overflow = _run(
        values, rows, count, packed, out is not None, source, target, row0, _array(samples, 1, torch.int64),
        state.count, state.tallies.numpy(), state.moments.numpy(), state.extremes.numpy(),
        state.top_values.numpy(), state.top_rows.numpy(), _array(state.top_samples, 2, torch.int64),
        _array(state.bottom_values, 2, torch.float32), _array(state.bottom_rows, 2, torch.int64),
        _array(state.bottom_samples, 2, torch.int64),
    )  # fmt: skip
    return int(overflow) if out is not None else 0


def _array(x: torch.Tensor | None, dims: int, dtype: torch.dtype) -> np.ndarray:
    """As NumPy; empty for None."""
    return (torch.empty((0,) * dims, dtype=dtype) if x is None else x).numpy()


def _unsigned(x: torch.Tensor) -> np.ndarray:
    """The bits, sharing memory and strides: uint32 or uint16."""
    return x.view(torch.uint32 if x.dtype == torch.float32 else torch.uint16).numpy()
