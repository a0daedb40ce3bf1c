"""StatsAccumulator and merge against brute force in float64."""

from __future__ import annotations

import os
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmxai.errors import ArgumentError
from mmxai.stats import OPTIONAL_NAMES, STATE_NAMES, StatsAccumulator, merge, state_bytes

EXACT = ("count", "nan", "posinf", "neginf", "min", "max", "positive", "topk_values", "topk_rows")


def brute(x: torch.Tensor, k: int) -> dict[str, np.ndarray]:
    a = x.to(torch.float32).numpy()
    n, d = a.shape
    wide = a.astype(np.float64)
    out = {
        "count": np.array([n]), "nan": np.isnan(a).sum(0), "posinf": np.isposinf(a).sum(0),
        "neginf": np.isneginf(a).sum(0), "mean": np.zeros(d), "m2": np.zeros(d),
        "min": np.full(d, np.inf, np.float32), "max": np.full(d, -np.inf, np.float32),
        "positive": (np.isfinite(a) & (a > 0)).sum(0), "topk_values": np.full((d, k), -np.inf, np.float32),
        "topk_rows": np.full((d, k), -1, np.int64),
    }  # fmt: skip
    for j in range(d):
        rows = np.flatnonzero(np.isfinite(a[:, j]))
        if rows.size == 0:
            continue
        v = wide[rows, j]
        out["mean"][j], out["m2"][j] = v.mean(), ((v - v.mean()) ** 2).sum()
        out["min"][j], out["max"][j] = v.min(), v.max()
        best = rows[np.lexsort((rows, -v))][:k]
        out["topk_values"][j, : len(best)], out["topk_rows"][j, : len(best)] = a[best, j], best
    return out


def accumulate(x: torch.Tensor, k: int, cuts: list[int], part: int = 0) -> dict[str, np.ndarray]:
    acc = StatsAccumulator(x.shape[1], k)
    for start, stop in zip([0, *cuts], [*cuts, len(x)], strict=True):
        acc.update(x[start:stop], start)
    return acc.state(part)


def check(got: dict[str, np.ndarray], want: dict[str, np.ndarray]) -> None:
    assert tuple(got) == STATE_NAMES
    for name in EXACT:
        np.testing.assert_array_equal(got[name], want[name], err_msg=name)
        assert got[name].dtype == want[name].dtype, name
    scale = np.maximum(np.abs(np.where(np.isfinite(want["max"]), want["max"], 0)), 1e-30)
    scale = np.maximum(scale, np.abs(np.where(np.isfinite(want["min"]), want["min"], 0))).astype(np.float64)
    np.testing.assert_allclose(got["mean"] / scale, want["mean"] / scale, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(got["m2"] / scale**2, want["m2"] / scale**2, rtol=1e-5, atol=1e-9)


def sample(n: int, d: int, dtype: torch.dtype, seed: int, kind: str) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(n, d, generator=g)
    if kind == "ties":
        x = torch.randint(-2, 3, (n, d), generator=g).float()
    if kind == "relu":
        x = x.relu()
    if kind == "offset":
        x = x * 1e-2 + 1000
    if kind == "specials":
        pick = torch.randint(0, 8, (n, d), generator=g)
        for code, value in enumerate((torch.nan, torch.inf, -torch.inf, -0.0)):
            x = torch.where(pick == code, torch.tensor(value), x)
        x[:, 0] = torch.nan
    return x.to(dtype)


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(0, 300), d=st.integers(1, 9), k=st.integers(1, 5), seed=st.integers(0, 1000),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16, torch.float64]),
    kind=st.sampled_from(["normal", "ties", "relu", "offset", "specials"]), data=st.data(),
)  # fmt: skip
def test_against_brute_force(n, d, k, seed, dtype, kind, data):
    x = sample(n, d, dtype, seed, kind)
    cuts = sorted(data.draw(st.lists(st.integers(0, n), max_size=6)))
    check(accumulate(x, k, cuts), brute(x, k))


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000), kind=st.sampled_from(["ties", "normal", "specials"]), data=st.data())
def test_merge_of_parts(seed, kind, data):
    n = 200
    x = sample(n, 4, torch.bfloat16, seed, kind)
    cuts = sorted(data.draw(st.lists(st.integers(0, n), max_size=5)))
    edges = [0, *cuts, n]
    parts = [accumulate(x[a:b], 3, [], p) for p, (a, b) in enumerate(pairwise(edges))]
    got, want = merge(parts), brute(x, 3)
    rows = got["topk_rows"]
    logical = np.where(rows < 0, -1, np.array(edges)[rows >> 32] + (rows & 0xFFFFFFFF))
    check({**got, "topk_rows": logical}, want)


def test_many_blocks_and_hot_columns():
    x = sample(20_000, 40, torch.float32, 0, "normal")
    x[:, 3] = torch.arange(20_000)  # every row is a new maximum
    x[:, 4] = -torch.arange(20_000.0)
    check(accumulate(x, 16, [1, 7000, 7001]), brute(x, 16))


def test_merge_of_many_states():
    x = sample(500, 3, torch.float32, 1, "ties")
    parts = [accumulate(x[i : i + 1], 2, [], i) for i in range(500)]
    got = merge(parts)
    check({**got, "topk_rows": got["topk_rows"] >> 32}, brute(x, 2))


def test_large_finite_values_do_not_overflow():
    x = torch.full((40, 2), 3e38)
    x[::2, 1] = -3e38
    state = accumulate(x, 2, [])
    np.testing.assert_allclose(state["mean"], [float(x[0, 0]), 0], atol=1e32)
    np.testing.assert_allclose(state["m2"] / 40, [0, 9e76], rtol=1e-3, atol=1e64)
    assert state["nan"].sum() == state["posinf"].sum() == 0


def test_non_contiguous_input():
    x = sample(100, 6, torch.float32, 2, "normal")
    for view in (x.T.contiguous().T, x[:, ::2], x[:1].expand(100, 6)):
        check(accumulate(view, 3, []), brute(view, 3))


def test_bad_input():
    acc = StatsAccumulator(4)
    with pytest.raises(ArgumentError, match=r"expected floats of shape \(N, 4\)"):
        acc.update(torch.zeros(2, 3), 0)
    with pytest.raises(ArgumentError, match="rows in order"):
        acc.update(torch.zeros(2, 4), 0)
        acc.update(torch.zeros(2, 4), 1)
    with pytest.raises(ArgumentError, match="no states"):
        merge([])
    with pytest.raises(ArgumentError, match="the same of all"):
        merge([StatsAccumulator(4).state(), StatsAccumulator(4, bottom=True).state()])
    with pytest.raises(ArgumentError, match="one width and one k"):
        merge([StatsAccumulator(4).state(), StatsAccumulator(5).state()])


@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("kind", ["ties", "normal", "specials"])
def test_both_ends_and_samples_merge(kind, per_sample):
    """However rows lie in parts, even where a sample lies in several, merging equals one pass."""
    n, k = 300, 5
    x = sample(n, 6, torch.float32, 3, kind)
    samples = torch.arange(n) // 11 * 3

    def state(rows: slice, part: int) -> dict[str, np.ndarray]:
        acc = StatsAccumulator(6, k, bottom=True, per_sample=per_sample)
        acc.update(x[rows], 0, samples[rows] if per_sample else None)
        return acc.state(part)

    edges = [0, 4, 5, 120, 200, 200, 300]
    whole = state(slice(0, n), 0)
    got = merge([state(slice(a, b), p) for p, (a, b) in enumerate(pairwise(edges))])
    assert list(got) == [*STATE_NAMES, *(m for m in OPTIONAL_NAMES if per_sample or "samples" not in m)]
    assert sum(v.nbytes for v in got.values()) == state_bytes(6, k, bottom=True, per_sample=per_sample)
    for name in whole:
        if name.endswith("_rows"):
            rows = got[name]
            got[name] = np.where(rows < 0, -1, np.array(edges)[rows >> 32] + (rows & 0xFFFFFFFF))
        if name not in ("mean", "m2"):
            np.testing.assert_array_equal(got[name], whole[name], err_msg=name)


def test_memory_stays_flat():
    """A thousand batches leave nothing behind."""
    page = os.sysconf("SC_PAGE_SIZE")

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * page

    x = torch.randn(500, 400)
    acc = StatsAccumulator(400, 16, bottom=True)
    acc.update(x, 0)
    before = 0
    for i in range(1, 1000):
        acc.update(x, 500 * i)
        if i == 100:
            before = resident()
    assert acc.count == 500_000
    assert resident() - before < 4 << 20
