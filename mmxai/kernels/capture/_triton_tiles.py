# mypy: allow-untyped-defs, allow-incomplete-defs
"""The pass over `x`: rows go out, and what each tile of rows says of its columns."""

from __future__ import annotations

import triton
import triton.language as tl

from mmxai.kernels._tl import narrow, widen

INF = tl.constexpr(float("inf"))
MOST_F32 = tl.constexpr(3.4028234663852886e38)
SMALL = tl.constexpr(2.0**-80)
"""Below it a sum of squares may have lost terms to float32's end."""


@triton.jit
def offsets(rows, ok, index, begin, tokens, batch_stride, token_stride, FLAT: tl.constexpr):
    """Where rows (int32) begin in x, in values: of `index`, or from row `begin` of x where it is None.

    FLAT: the rows of x are evenly spaced.
    """
    place = rows + begin
    if index is not None:
        place = tl.load(index + rows, mask=ok, other=0).to(tl.int32)
    if FLAT:
        return place.to(tl.int64) * token_stride
    return (place // tokens).to(tl.int64) * batch_stride + (place % tokens).to(tl.int64) * token_stride


@triton.jit
def stored(bits, SOURCE: tl.constexpr, TARGET: tl.constexpr):
    """(bits to write, value as float32); TARGET 3: bfloat16's value beside int8, 4: statistics alone."""
    u = widen(bits, SOURCE)
    if TARGET == SOURCE:
        new = bits
    elif TARGET == 3:
        new = narrow(u, 1)
        u = widen(new, 1)
    elif TARGET == 4:
        new = bits
    else:
        new = narrow(u, TARGET)
        u = widen(new, TARGET)
    return new, u.to(tl.float32, bitcast=True)


@triton.jit
def quantised(bits, scale, SOURCE: tl.constexpr):
    """int8 of x / scale, to nearest even, +-127 at most; 0 for NaN and where the scale is 0."""
    x = widen(bits, SOURCE).to(tl.float32, bitcast=True)
    steps = tl.where(scale > 0, tl.div_rn(x, tl.where(scale > 0, scale, 1.0)), 0.0)
    infinite = tl.where(x == INF, 127.0, tl.where(x == -INF, -127.0, 0.0))
    steps = tl.where(tl.abs(x) <= MOST_F32, steps, infinite)
    steps = tl.minimum(tl.maximum(steps, -127.0), 127.0)
    return ((steps + 12582912.0) - 12582912.0).to(tl.int8)  # 1.5 * 2^23: rounds to even integers' neighbours


@triton.jit
def append(hot, rows, cols, counts, found, ROOM: tl.constexpr):
    """Note rows of columns in `found` `[D, ROOM]`, in no order; `counts` tells of overfull ones."""
    cols = cols + tl.zeros_like(rows)
    slot = tl.atomic_add(counts + cols, 1, mask=hot, sem="relaxed")
    tl.store(found + (cols * ROOM + slot), rows + tl.zeros_like(cols), mask=hot & (slot < ROOM))


@triton.jit
def row_scales(
    x, index, scales, n: tl.int32, width: tl.int32, begin: tl.int32, tokens: tl.int32,
    batch_stride: tl.int64, token_stride: tl.int64, value_stride: tl.int64,
    SOURCE: tl.constexpr, FLAT: tl.constexpr, COLS: tl.constexpr,
):  # fmt: skip
    """scales[r] = largest finite |x| of row r / 127; a program a row."""
    row = tl.program_id(0)
    base = offsets(row, row < n, index, begin, tokens, batch_stride, token_stride, FLAT)
    largest = tl.zeros([COLS], tl.float32)
    for start in range(0, width, COLS):
        cols = start + tl.arange(0, COLS)
        bits = tl.load(x + base + cols.to(tl.int64) * value_stride, mask=cols < width, other=0)
        value = tl.abs(widen(bits, SOURCE).to(tl.float32, bitcast=True))
        largest = tl.maximum(largest, tl.where(value <= MOST_F32, value, 0.0))
    tl.store(scales + row, tl.div_rn(tl.max(largest, 0), 127.0))


@triton.jit
def capture_tiles(
    x, index, out, scales, overflow, top, top_counts, top_found, bottom, bottom_counts, bottom_found,
    moments, extremes, counts,
    n: tl.int32, width: tl.int32, begin: tl.int32, tokens: tl.int32,
    batch_stride: tl.int64, token_stride: tl.int64, value_stride: tl.int64, depth: tl.int32,
    SOURCE: tl.constexpr, TARGET: tl.constexpr, FLAT: tl.constexpr, STATS: tl.constexpr,
    ROOM: tl.constexpr, UNROLL: tl.constexpr, LANES: tl.constexpr, COLS: tl.constexpr,
):  # fmt: skip
    """Program (c, r) takes COLS columns and the rows from r * depth to (r + 1) * depth of n.

    Writes `out` `[n, D]` (reading `scales` `[n]` beside int8), notes in `*_found` the first row of every
    UNROLL rows (LANES apart) of which one beats `top` (or stays below `bottom`), float32 `[D]`, and leaves
    float64 `moments` `[r, 2, D]` (mean, M2), float32 `extremes` `[r, 2, D]`, int32 `counts` `[r, 2, D]`
    (finite, positive). A count of -1 leaves a column to `mend`: something in it is not finite, or left the
    range where float32 can be trusted. Without STATS, raises `overflow`.

    A lane is a row of accumulators and sums every LANES-th row about the mean of its first UNROLL rows:
    however far that is from the mean, with L rows a lane the error is at most (1 + L / UNROLL) times that of
    a sum about the mean itself, for those UNROLL rows alone put as much into the true M2.
    """
    column = tl.program_id(0) * COLS + tl.arange(0, COLS)
    block = tl.program_id(1)
    first, last = block * depth, tl.minimum(block * depth + depth, n)
    lane = tl.arange(0, LANES)[:, None]
    cols = column[None, :]
    cols3 = cols[None, :, :]
    rows3 = (tl.arange(0, UNROLL)[:, None] * LANES + tl.arange(0, LANES)[None, :])[:, :, None]
    inside = column < width
    across = cols3.to(tl.int64) * value_stride

    if STATS:
        beat = tl.load(top + column, mask=inside, other=INF)[None, :]
        if bottom is not None:
            below = tl.load(bottom + column, mask=inside, other=-INF)[None, :]
        centre = tl.zeros([LANES, COLS], tl.float32)
        total = tl.zeros([LANES, COLS], tl.float32)
        square = tl.zeros([LANES, COLS], tl.float32)
        low = tl.full([LANES, COLS], INF, tl.float32)
        high = tl.full([LANES, COLS], -INF, tl.float32)
        positive = tl.zeros([LANES, COLS], tl.int32)
    lost = tl.zeros([LANES, COLS], tl.int32)

    for start in range(first, last, UNROLL * LANES):
        rows = start + rows3
        ok = rows < last
        mask = ok & (cols3 < width)
        base = offsets(rows, ok, index, begin, tokens, batch_stride, token_stride, FLAT)
        bits = tl.load(x + base + across, mask=mask, other=0)
        new, value = stored(bits, SOURCE, TARGET)
        if TARGET == 3:
            new = quantised(bits, tl.load(scales + rows, mask=ok, other=1.0), SOURCE)
        if out is not None:
            tl.store(out + rows.to(tl.int64) * width + cols3, new, mask=mask)
        if STATS:
            if start == first:
                seen = tl.sum(tl.where(ok, 1, 0), 0)
                centre += tl.sum(tl.where(ok, value, 0.0), 0) / tl.maximum(seen, 1).to(tl.float32)
            centred = tl.where(ok, value - centre[None, :, :], 0.0)
            total += tl.sum(centred, 0)
            square += tl.sum(centred * centred, 0)
            positive += tl.sum(tl.where(ok & (value > 0), 1, 0), 0)
            least = tl.min(tl.where(ok, value, INF), 0)
            most = tl.max(tl.where(ok, value, -INF), 0)
            low, high = tl.minimum(low, least), tl.maximum(high, most)
            append((most > beat) & (cols < width), start + lane, cols, top_counts, top_found, ROOM)
            if bottom is not None:
                append(
                    (least < below) & (cols < width), start + lane, cols, bottom_counts, bottom_found, ROOM
                )
        elif TARGET < 3:
            u = widen(bits, SOURCE).to(tl.float32, bitcast=True)
            lost += tl.sum(tl.where(mask & (tl.abs(u) <= MOST_F32) & (tl.abs(value) == INF), 1, 0), 0)

    if STATS:
        # Chan's merge over the lanes, about the mean of their centres; lanes without rows weigh nothing.
        members = tl.maximum((last - first - lane + LANES - 1) // LANES, 0)
        weight = members.to(tl.float32)
        pivot = tl.sum(tl.where(members > 0, centre, 0.0), 0) / tl.minimum(last - first, LANES).to(tl.float32)
        apart = total / tl.maximum(weight, 1.0)
        within = square - apart * total
        apart += tl.where(members > 0, centre - pivot[None, :], 0.0)
        shift = tl.sum(apart * weight, 0) / (last - first).to(tl.float32)
        between = apart - shift[None, :]
        m2 = tl.sum(within + weight * between * between, 0)
        least1, most1 = tl.min(low, 0), tl.max(high, 0)
        # Of anything not finite, and of squares past float32's range, m2 is not finite either.
        bad = tl.where(m2 <= MOST_F32, (m2 < SMALL) & (least1 < most1), True)
        at = block.to(tl.int64) * 2 * width + column
        tl.store(moments + at, pivot.to(tl.float64) + shift.to(tl.float64), mask=inside)
        tl.store(moments + at + width, tl.maximum(m2, 0.0).to(tl.float64), mask=inside)
        tl.store(extremes + at, least1, mask=inside)
        tl.store(extremes + at + width, most1, mask=inside)
        tl.store(counts + at, tl.where(bad, -1, last - first), mask=inside)
        tl.store(counts + at + width, tl.sum(positive, 0), mask=inside)
    elif TARGET < 3:
        gone = tl.sum(tl.sum(lost, 1), 0)
        if gone > 0:
            tl.atomic_add(overflow, gone.to(tl.int64), sem="relaxed")


@triton.jit
def mend(
    x, index, overflow, tallies, moments, extremes, counts,
    n: tl.int32, width: tl.int32, begin: tl.int32, tokens: tl.int32,
    batch_stride: tl.int64, token_stride: tl.int64, value_stride: tl.int64, depth: tl.int32,
    SOURCE: tl.constexpr, TARGET: tl.constexpr, FLAT: tl.constexpr, LANES: tl.constexpr, COLS: tl.constexpr,
):  # fmt: skip
    """Columns of a tile that `capture_tiles` left: its figures once more, of the finite values, in float64.

    Raises `tallies` `[4, D]` by the values that are not finite, and `overflow` by those that `out` made so.
    """
    column = tl.program_id(0) * COLS + tl.arange(0, COLS)
    block = tl.program_id(1)
    at = block.to(tl.int64) * 2 * width + column
    left = tl.load(counts + at, mask=column < width, other=0) < 0
    if tl.max(tl.where(left, 1, 0), 0) > 0:
        first, last = block * depth, tl.minimum(block * depth + depth, n)
        lane = tl.arange(0, LANES)[:, None]
        across = column[None, :].to(tl.int64) * value_stride
        nan = tl.zeros([LANES, COLS], tl.int32)
        up = tl.zeros([LANES, COLS], tl.int32)
        down = tl.zeros([LANES, COLS], tl.int32)
        lost = tl.zeros([LANES, COLS], tl.int32)
        low = tl.full([LANES, COLS], INF, tl.float32)
        high = tl.full([LANES, COLS], -INF, tl.float32)
        total = tl.zeros([LANES, COLS], tl.float64)
        for start in range(first, last, LANES):
            rows = start + lane
            mask = (rows < last) & left[None, :]
            base = offsets(rows, rows < last, index, begin, tokens, batch_stride, token_stride, FLAT)
            bits = tl.load(x + base + across, mask=mask, other=0)
            _, value = stored(bits, SOURCE, TARGET)
            finite = mask & (tl.abs(value) <= MOST_F32)
            nan += tl.where(mask & (value != value), 1, 0)
            up += tl.where(mask & (value == INF), 1, 0)
            down += tl.where(mask & (value == -INF), 1, 0)
            low = tl.minimum(low, tl.where(finite, value, INF))
            high = tl.maximum(high, tl.where(finite, value, -INF))
            total += tl.where(finite, value, 0.0).to(tl.float64)
            if TARGET < 3:
                u = widen(bits, SOURCE).to(tl.float32, bitcast=True)
                lost += tl.where(mask & (tl.abs(u) <= MOST_F32) & (tl.abs(value) == INF), 1, 0)
        nans, ups, downs = tl.sum(nan, 0), tl.sum(up, 0), tl.sum(down, 0)
        number = last - first - nans - ups - downs
        mean = tl.sum(total, 0) / tl.maximum(number, 1).to(tl.float64)
        square = tl.zeros([LANES, COLS], tl.float64)
        for start in range(first, last, LANES):
            rows = start + lane
            mask = (rows < last) & left[None, :]
            base = offsets(rows, rows < last, index, begin, tokens, batch_stride, token_stride, FLAT)
            _, value = stored(tl.load(x + base + across, mask=mask, other=0), SOURCE, TARGET)
            far = tl.where(mask & (tl.abs(value) <= MOST_F32), value.to(tl.float64) - mean[None, :], 0.0)
            square += far * far
        tl.store(moments + at, mean, mask=left)
        tl.store(moments + at + width, tl.sum(square, 0), mask=left)
        tl.store(extremes + at, tl.min(low, 0), mask=left)
        tl.store(extremes + at + width, tl.max(high, 0), mask=left)
        tl.store(counts + at, number, mask=left)
        # Among the positive were the infinite ones.
        positive = tl.load(counts + at + width, mask=left, other=0)
        tl.store(counts + at + width, positive - ups, mask=left)
        tl.atomic_add(tallies + column, nans.to(tl.int64), mask=left & (nans > 0), sem="relaxed")
        tl.atomic_add(tallies + width + column, ups.to(tl.int64), mask=left & (ups > 0), sem="relaxed")
        tl.atomic_add(
            tallies + 2 * width + column, downs.to(tl.int64), mask=left & (downs > 0), sem="relaxed"
        )
        gone = tl.sum(tl.sum(lost, 1), 0)
        if gone > 0:
            tl.atomic_add(overflow, gone.to(tl.int64), sem="relaxed")
