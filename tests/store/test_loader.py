"""Loaders: each row once, exact resumption, splits and filters, and what goes wrong."""

from __future__ import annotations

import gc
import json
import threading
import time
from itertools import islice

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmxai.errors import ArgumentError, RowSpaceError, SelectionError
from mmxai.store import loader as loader_module
from mmxai.store import open_store
from mmxai.types import TOKEN_CODES
from tests.store.memory_model import make_content, same

SITE = "vision.0.x"


@pytest.fixture(scope="module")
def content(tmp_path_factory):
    return make_content(tmp_path_factory.mktemp("loader") / "a", samples=120, per_part=17)


@pytest.fixture
def store(content):
    with open_store(content.path) as store:
        yield store


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(loader_module, "BLOCK_BYTES", 1)


def keys(batches) -> list[tuple[int, int]]:
    """(sample, position) of every row, in order."""
    out = []
    for batch in batches:
        out += list(zip(batch.rows.sample.tolist(), batch.rows.position.tolist(), strict=True))
    return out


def all_keys(content, mask=None) -> list[tuple[int, int]]:
    table = content.rows["vision"] if mask is None else content.rows["vision"][mask]
    return [(int(r[0]), int(r[1])) for r in table]


MODES = [{}, {"shuffle": True, "window": None}, {"shuffle": True, "window": 40}]


@pytest.mark.parametrize("prefetch", [0, 2])
@pytest.mark.parametrize("mode", MODES)
def test_every_row_once_with_its_values(content, store, mode, prefetch):
    by_key = {k: i for i, k in enumerate(all_keys(content))}
    seen = []
    sizes = []
    for batch in store.batches(32, sites=[SITE, "vision.2.x"], prefetch=prefetch, **mode):
        rows = [by_key[k] for k in keys([batch])]
        assert same(batch[SITE], content.acts[SITE][rows])
        assert same(batch["vision.2.x"], content.acts["vision.2.x"][rows])
        assert batch.space == "vision"
        seen += rows
        sizes.append(batch.num_rows)
    assert sorted(seen) == list(range(len(by_key)))
    assert (seen == sorted(seen)) == (not mode)
    assert set(sizes[:-1]) == {32}


@settings(max_examples=40, deadline=None)
@given(
    batch=st.integers(1, 70), world=st.integers(1, 5), mode=st.sampled_from(MODES),
    drop_last=st.booleans(), seed=st.integers(0, 9),
)  # fmt: skip
def test_ranks_share_every_row(content, batch, world, mode, drop_last, seed):
    with open_store(content.path) as store:
        options = {**mode, "seed": seed, "drop_last": drop_last, "prefetch": 0}
        loaders = [store[SITE].batches(batch, rank=r, world=world, **options) for r in range(world)]
        lengths = [len(loader) for loader in loaders]
        taken = [list(loader) for loader in loaders]
        assert [len(t) for t in taken] == lengths
        seen = [k for t in taken for k in keys(t)]
        everything = all_keys(content)
        if drop_last:
            assert len(set(lengths)) == 1
            assert all(b.num_rows == batch for t in taken for b in t)
            assert len(seen) == len(set(seen)) == len(everything) // (batch * world) * batch * world
            assert set(seen) <= set(everything)
        else:
            assert sorted(seen) == sorted(everything)
        # One global sequence: rank r of step t holds its slice of it.
        whole = keys(store[SITE].batches(batch * world, **options))
        dealt = [k for step in zip(*taken, strict=False) for k in keys(step)]
        full = len(everything) // (batch * world) * batch * world
        assert dealt[:full] == whole[:full]


@settings(max_examples=40, deadline=None)
@given(
    mode=st.sampled_from(MODES), stop=st.integers(0, 12),
    world=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    batch=st.tuples(st.integers(5, 40), st.integers(5, 40)), prefetch=st.sampled_from([0, 2]),
    epochs=st.integers(1, 2),
)  # fmt: skip
def test_resumes_to_the_row_at_any_world_size(content, mode, stop, world, batch, prefetch, epochs):
    with open_store(content.path) as store:
        options = {**mode, "seed": 3, "epochs": epochs, "prefetch": prefetch}
        whole = keys(store[SITE].batches(1000, **options))
        before = [store[SITE].batches(batch[0], rank=r, world=world[0], **options) for r in range(world[0])]
        steps = [list(islice(loader, stop)) for loader in before]
        done = sum(b.num_rows for t in steps for b in t)
        states = [loader.state_dict() for loader in before]
        state = json.loads(json.dumps(max(states, key=lambda s: (s["epoch"], s["position"]))))
        after = [store[SITE].batches(batch[1], rank=r, world=world[1], **options) for r in range(world[1])]
        for loader in after:
            loader.load_state_dict(state)
        left = [len(loader) for loader in after]
        rest = [list(loader) for loader in after]
        assert [len(r) for r in rest] == left
        seen = [k for t in steps + rest for k in keys(t)]
        assert sorted(seen) == sorted(whole)
        if world[1] == 1:
            assert keys(rest[0]) == whole[done:]


def test_state_at_the_end_and_in_the_running_loader(store):
    loader = store[SITE].batches(50, shuffle=True, epochs=2)
    total = len(loader)
    first = keys(islice(loader, 3))
    state = loader.state_dict()
    rest = keys(loader)
    assert next(loader, None) is None and len(loader) == 0
    end = loader.state_dict()
    loader.load_state_dict(state)
    assert len(loader) == total - 3 and keys(loader) == rest
    loader.load_state_dict(end)
    assert list(loader) == []
    assert len(first) == 150


def test_epochs_differ_and_repeat(store):
    for window in (None, 40):
        two = keys(store[SITE].batches(64, shuffle=True, seed=1, epochs=2, window=window))
        n = len(two) // 2
        assert sorted(two[:n]) == sorted(two[n:]) and two[:n] != two[n:]
        assert two[:n] == keys(store[SITE].batches(10, shuffle=True, seed=1, window=window))
        assert two[:n] != keys(store[SITE].batches(10, shuffle=True, seed=2, window=window))
        endless = store[SITE].batches(64, shuffle=True, seed=1, epochs=None, window=window)
        assert keys(islice(endless, n // 64)) == two[: n // 64 * 64]
        with pytest.raises(TypeError):
            len(endless)
        endless.close()


def test_foreign_states_are_refused(content, store, tmp_path):
    options = {"shuffle": True, "seed": 1, "tokens": "patch"}
    state = store[SITE].batches(8, **options).state_dict()
    for change, name in (
        ({"seed": 2}, "seed"), ({"tokens": "cls"}, "selection"), ({"shuffle": False}, "shuffle"),
        ({"split": "train"}, "selection"), ({"rows": [0, 1, 2, 3]}, "selection"), ({"window": 40}, "window"),
    ):  # fmt: skip
        with pytest.raises(ArgumentError, match=f"{name}: state has"):
            store[SITE].batches(8, **{**options, **change}).load_state_dict(state)
    with pytest.raises(ArgumentError, match="sites"):
        store["vision.1.x"].batches(8, **options).load_state_dict(state)
    other = make_content(tmp_path / "b", samples=120, per_part=17)
    with open_store(other.path) as elsewhere, pytest.raises(ArgumentError, match="snapshot"):
        elsewhere[SITE].batches(8, **options).load_state_dict(state)
    for wrong in ({}, {**state, "position": -1}, {**state, "position": 10**9}, {**state, "epoch": "x"}):
        with pytest.raises(ArgumentError, match="loader state"):
            store[SITE].batches(8, **options).load_state_dict(wrong)


@pytest.mark.parametrize("mode", MODES)
def test_token_filters(content, store, mode):
    kind, sample = content.rows["vision"][:, 4], content.rows["vision"][:, 0]
    for tokens in ("patch", "cls,patch", ["pad"]):
        names = tokens.split(",") if isinstance(tokens, str) else tokens
        mask = torch.isin(kind, torch.tensor([TOKEN_CODES[t] for t in names], dtype=torch.int32))
        found = keys(store[SITE].batches(9, tokens=tokens, **mode))
        assert sorted(found) == sorted(all_keys(content, mask))
    last = {}
    for i in range(len(sample)):
        if kind[i] != TOKEN_CODES["pad"]:
            last[int(sample[i])] = i
    mask = torch.zeros(len(sample), dtype=torch.bool)
    mask[list(last.values())] = True
    assert sorted(keys(store[SITE].batches(9, tokens="last", **mode))) == sorted(all_keys(content, mask))
    for wrong in ("patches", ["last", "cls"], []):
        with pytest.raises(SelectionError, match="tokens"):
            store[SITE].batches(9, tokens=wrong)
    with pytest.raises(SelectionError, match="no row"):
        store[SITE].batches(9, tokens="register")


def test_split_goes_by_sample_at_every_site(content, store, tmp_path):
    parts = {
        split: {k[0] for k in keys(store[SITE].batches(64, split=split, splits=(0.5, 0.3, 0.2)))}
        for split in ("train", "val", "test")
    }
    assert not parts["train"] & parts["val"] and not parts["train"] & parts["test"]
    assert set().union(*parts.values()) == {k[0] for k in all_keys(content)}
    pooled = store["vision.embeds"].batches(64, split="val", splits=(0.5, 0.3, 0.2))
    assert parts["val"] <= {k[0] for k in keys(pooled)}
    assert 30 <= len(parts["train"]) <= 75
    grown = make_content(tmp_path / "b", samples=200, per_part=11, order="sequential", seed=5)
    with open_store(grown.path) as other:
        train = {k[0] for k in keys(other[SITE].batches(64, split="train", splits=(0.5, 0.3, 0.2)))}
    assert not train & (parts["val"] | parts["test"])
    for wrong in ({"split": "dev"}, {"split": "val", "splits": (0.5, 0.5)}, {"splits": (0.9, 0.9, -0.8)}):
        with pytest.raises(SelectionError, match="split"):
            store[SITE].batches(8, **wrong)


@pytest.mark.parametrize("mode", MODES)
def test_given_rows(content, store, mode):
    rows = torch.randperm(len(content.rows["vision"]))[:37]
    found = keys(store[SITE].batches(8, rows=rows, **mode))
    assert sorted(found) == sorted(all_keys(content, rows))
    if not mode:
        assert found == all_keys(content, rows)
    for wrong, text in (([0, 0], "twice"), ([-1], "expected 0 <= row"), ([10**7], "expected 0 <= row")):
        with pytest.raises(ArgumentError, match=text):
            store[SITE].batches(8, rows=wrong)


@pytest.mark.parametrize("mode", MODES)
def test_dtypes(content, store, mode):
    for site in (SITE, "vision.1.x", "vision.2.x"):
        for dtype in (torch.float32, torch.float64, torch.bfloat16):
            x = torch.cat([b.x for b in store[site].batches(50, dtype=dtype, **mode)])
            assert x.dtype == dtype
            assert same(x.float().sort(0).values, content.acts[site].to(dtype).float().sort(0).values)
    with pytest.raises(ArgumentError, match="float dtype"):
        store[SITE].batches(8, dtype=torch.int8)


def test_rows_of_two_spaces(store):
    with pytest.raises(RowSpaceError, match="do not correspond"):
        store.batches(8, sites=[SITE, "vision.embeds"])


def test_bad_options(store):
    for wrong in (
        {"batch_size": 0}, {"batch_size": 2.5}, {"rank": 2, "world": 2}, {"world": 0}, {"prefetch": -1},
        {"epochs": -1}, {"window": 0, "shuffle": True}, {"window": 10}, {"window": "big", "shuffle": True},
    ):  # fmt: skip
        with pytest.raises(ArgumentError):
            store[SITE].batches(**{"batch_size": 8, **wrong})


def test_windows_on_their_own_where_memory_is_short(content, store, monkeypatch):
    monkeypatch.setattr(loader_module, "available_bytes", lambda: 4000)
    loader = store[SITE].batches(16, shuffle=True)
    assert loader.window == 500 // 16
    order = keys(loader)
    assert sorted(order) == sorted(all_keys(content))
    half = store[SITE].batches(16, shuffle=True)
    head = keys(islice(half, 5))
    state = half.state_dict()
    half.close()
    monkeypatch.setattr(loader_module, "available_bytes", lambda: 1 << 40)
    resumed = store[SITE].batches(16, shuffle=True)
    assert resumed.window is None
    resumed.load_state_dict(state)
    assert head + keys(resumed) == order


def test_windows_mix_parts(tmp_path):
    content = make_content(
        tmp_path / "a", samples=64, per_part=4, big_rows=64, dtypes=("bfloat16",), widths=(4096,)
    )
    with open_store(content.path) as store:
        loader = store[SITE].batches(512, shuffle=True, window=1024)
        parts = [set(b.rows.sample.tolist()) for b in loader]
        assert len(parts) == 8 and all(len(p) > 6 for p in parts)


def test_batches_kept_are_not_overwritten(content, store):
    kept = list(store[SITE].batches(16, shuffle=True, dtype=torch.float32))
    by_key = {k: i for i, k in enumerate(all_keys(content))}
    for batch in kept:
        assert same(batch.x, content.acts[SITE][[by_key[k] for k in keys([batch])]].float())


def prefetchers() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name.startswith("mmxai-")]


@pytest.mark.parametrize("mode", MODES)
def test_threads_end_on_break_and_garbage(store, mode):
    for _ in store[SITE].batches(8, epochs=None, **mode):
        break
    gc.collect()
    deadline = time.monotonic() + 5
    while prefetchers() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not prefetchers()
    with store[SITE].batches(8, epochs=None, **mode) as loader:
        next(loader)
        assert prefetchers()
    assert not prefetchers()


def test_errors_reach_the_consumer_and_can_be_retried(content, store, monkeypatch):
    expected = keys(store[SITE].batches(8))
    loader = store[SITE].batches(8)
    table = store.view.site_table(SITE)
    calls = []

    def failing(rows, out):
        calls.append(1)
        if len(calls) == 4:
            raise OSError(5, "Input/output error")
        return type(table).gather(table, rows, out)

    monkeypatch.setattr(table, "gather", failing, raising=False)
    got = []
    with pytest.raises(OSError, match="Input/output"):
        for batch in loader:
            got += keys([batch])
    assert len(got) == 24
    assert got + keys(loader) == expected


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("mode", MODES)
def test_cuda(content, store, mode):
    by_key = {k: i for i, k in enumerate(all_keys(content))}
    kept = list(store[SITE].batches(16, device="cuda", dtype=torch.float32, **mode))
    for batch in kept:
        assert batch.x.is_cuda and batch.rows.sample.device.type == "cpu"
        assert same(batch.x.cpu(), content.acts[SITE][[by_key[k] for k in keys([batch])]].float())
