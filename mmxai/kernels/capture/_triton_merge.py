# mypy: allow-untyped-defs, allow-incomplete-defs
"""What the tiles said, taken into the state; the same whatever order the tiles ran in."""

from __future__ import annotations

import triton
import triton.language as tl

from mmxai.kernels._tl import MISSING, key_place, key_value, sort_key
from mmxai.kernels.capture._triton_tiles import INF, MOST_F32, offsets, stored


@triton.jit
def fold(
    moments, extremes, counts, blocks: tl.int32, width: tl.int32,
    state_moments, state_extremes, tallies, seen: tl.int64, cursor,
    DEPTH: tl.constexpr, COLS: tl.constexpr,
):  # fmt: skip
    """Merge the tiles' figures `[blocks, 2, D]` into the state (Chan, Golub and LeVeque 1983), in float64.

    `seen`: rows with those of this pass; `cursor` (int64 `[row0, rows]`, or None) says what more there were.
    """
    column = tl.program_id(0) * COLS + tl.arange(0, COLS)
    inside = column < width
    n = tl.zeros([DEPTH, COLS], tl.int64)
    ups = tl.zeros([DEPTH, COLS], tl.int64)
    total = tl.zeros([DEPTH, COLS], tl.float64)
    low = tl.full([DEPTH, COLS], INF, tl.float32)
    high = tl.full([DEPTH, COLS], -INF, tl.float32)
    for start in range(0, blocks, DEPTH):
        block = start + tl.arange(0, DEPTH)[:, None]
        mask = (block < blocks) & inside[None, :]
        at = block.to(tl.int64) * 2 * width + column[None, :]
        here = tl.load(counts + at, mask=mask, other=0).to(tl.int64)
        n += here
        ups += tl.load(counts + at + width, mask=mask, other=0).to(tl.int64)
        total += here.to(tl.float64) * tl.load(moments + at, mask=mask, other=0.0)
        low = tl.minimum(low, tl.load(extremes + at, mask=mask, other=INF))
        high = tl.maximum(high, tl.load(extremes + at + width, mask=mask, other=-INF))
    n1 = tl.sum(n, 0)
    mean = tl.sum(total, 0) / tl.maximum(n1, 1).to(tl.float64)
    spread = tl.zeros([DEPTH, COLS], tl.float64)
    for start in range(0, blocks, DEPTH):
        block = start + tl.arange(0, DEPTH)[:, None]
        mask = (block < blocks) & inside[None, :]
        at = block.to(tl.int64) * 2 * width + column[None, :]
        here = tl.load(counts + at, mask=mask, other=0).to(tl.float64)
        apart = tl.load(moments + at, mask=mask, other=0.0) - mean[None, :]
        spread += tl.load(moments + at + width, mask=mask, other=0.0) + here * apart * apart
    m2 = tl.sum(spread, 0)

    # Tallies hold this pass already: what remains is the finite values of all rows, less those of this pass.
    rows = tl.zeros([COLS], tl.int64) + seen
    if cursor is not None:
        rows += tl.load(cursor + 1)
    for which in tl.static_range(3):
        rows -= tl.load(tallies + which * width + column, mask=inside, other=0)
    before = (rows - n1).to(tl.float64)
    ups_old = tl.load(tallies + 3 * width + column, mask=inside, other=0)
    tl.store(tallies + 3 * width + column, ups_old + tl.sum(ups, 0), mask=inside)
    old_mean = tl.load(state_moments + column, mask=inside, other=0.0)
    old_m2 = tl.load(state_moments + width + column, mask=inside, other=0.0)
    delta = mean - old_mean
    weight = n1.to(tl.float64) / tl.maximum(before + n1.to(tl.float64), 1.0)
    tl.store(state_moments + column, old_mean + delta * weight, mask=inside)
    tl.store(state_moments + width + column, old_m2 + m2 + delta * delta * (before * weight), mask=inside)
    old_low = tl.load(state_extremes + column, mask=inside, other=INF)
    old_high = tl.load(state_extremes + width + column, mask=inside, other=-INF)
    tl.store(state_extremes + column, tl.minimum(old_low, tl.min(low, 0)) + 0.0, mask=inside)
    tl.store(state_extremes + width + column, tl.maximum(old_high, tl.max(high, 0)) + 0.0, mask=inside)


@triton.jit
def one_each(new, run, new_owner, run_owner, K: tl.constexpr):
    """The K greatest of `new` `[C, N]` and `run` `[C, K]`, of every owner one, one after the other."""
    rank = tl.arange(0, K)[None, :]
    best = tl.full(run.shape, MISSING, tl.int64)
    for r in range(K):
        key = tl.maximum(tl.max(new, 1), tl.max(run, 1))[:, None]
        owner = tl.maximum(
            tl.max(tl.where(new == key, new_owner, MISSING), 1),
            tl.max(tl.where(run == key, run_owner, MISSING), 1),
        )[:, None]
        new, run = tl.where(new_owner == owner, MISSING, new), tl.where(run_owner == owner, MISSING, run)
        best = tl.where(rank == r, key, best)
    return best


@triton.jit
def owners(key, column, owner, samples, width, K: tl.constexpr):
    """Samples of entries: those with a place below K were in the list, the others are rows of this pass."""
    place = key_place(key)
    held, fresh = (key != MISSING) & (place < K), (key != MISSING) & (place >= K)
    old = tl.load(owner + place * width + column, mask=held, other=-1)
    return tl.where(fresh, tl.load(samples + place - K, mask=fresh, other=-1), old)


@triton.jit
def select(
    x, index, samples, counts, found, values, ids, owner,
    n: tl.int32, width: tl.int32, begin: tl.int32, tokens: tl.int32,
    batch_stride: tl.int64, token_stride: tl.int64, value_stride: tl.int64,
    row0: tl.int64, cursor, k: tl.int32,
    SIGN: tl.constexpr, SOURCE: tl.constexpr, TARGET: tl.constexpr, FLAT: tl.constexpr,
    K: tl.constexpr, ROOM: tl.constexpr, UNROLL: tl.constexpr, LANES: tl.constexpr,
    STEP: tl.constexpr, COLS: tl.constexpr,
):  # fmt: skip
    """Take the rows found in COLS columns into their lists: `values ids owner` `[k, D]`.

    SIGN -1 is for the smallest. Where more was found than there was ROOM for, all rows are gone through:
    slower, as exact. K is a power of two from k on, and STEP one from K on.
    """
    column = (tl.program_id(0) * COLS + tl.arange(0, COLS))[:, None]
    inside = column < width
    number = tl.load(counts + column, mask=inside, other=0)
    most = tl.max(tl.max(number, 1), 0)
    if most > 0:
        rank = tl.arange(0, K)[None, :]
        mine = inside & (rank < k)
        entry = rank.to(tl.int64) * width + column
        old = tl.load(values + entry, mask=mine, other=-SIGN * INF) * SIGN
        run = tl.where(old > -INF, sort_key(old, rank), MISSING)
        least = tl.load(values + (k - 1).to(tl.int64) * width + column, mask=inside, other=SIGN * INF) * SIGN
        again = most > ROOM
        total = tl.where(again, n, most * UNROLL)
        for start in range(0, total, STEP):
            at = start + tl.arange(0, STEP)[None, :]
            if again:
                rows = at + tl.zeros_like(column)
            else:
                mask = inside & (at < number * UNROLL)
                rows = (
                    tl.load(found + (column * ROOM + at // UNROLL), mask=mask, other=n) + at % UNROLL * LANES
                )
            mask = inside & (rows < n)
            base = offsets(rows, mask, index, begin, tokens, batch_stride, token_stride, FLAT)
            bits = tl.load(x + base + column.to(tl.int64) * value_stride, mask=mask, other=0)
            _, value = stored(bits, SOURCE, TARGET)
            value = value * SIGN
            hot = mask & (value > least) & (tl.abs(value) <= MOST_F32)
            new = tl.where(hot, sort_key(value, K + rows), MISSING)
            if samples is not None:
                new_owner = owners(new, column, owner, samples, width, K)
                run_owner = owners(run, column, owner, samples, width, K)
                run = one_each(new, run, new_owner, run_owner, K)
            else:
                best = tl.topk(new, K)
                run = tl.topk(tl.reshape(tl.join(run, best), [COLS, 2 * K]), K)
        place = key_place(run)
        there = run != MISSING
        held = there & (place < K)
        began = tl.zeros([COLS, K], tl.int64) + row0
        if cursor is not None:
            began += tl.load(cursor)
        new_ids = tl.where(
            held, tl.load(ids + place * width + column, mask=held, other=-1), began + place - K
        )
        best_values = tl.where(there, key_value(run), -INF) * SIGN + 0.0
        if samples is not None:
            new_owner = owners(run, column, owner, samples, width, K)
            tl.debug_barrier()  # every thread has read the lists before any writes them
            tl.store(owner + entry, new_owner, mask=mine)
        tl.debug_barrier()
        tl.store(ids + entry, tl.where(there, new_ids, -1), mask=mine)
        tl.store(values + entry, best_values, mask=mine)
