"""Reading a store against the same content in memory."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import mmxai
from mmxai.errors import ArgumentError, CorruptPartError, StoreError, StoreNotFoundError, UnknownSiteError
from mmxai.store import open_store, table
from mmxai.store.buffers import BufferPool
from mmxai.store.compact import compact
from tests.store.memory_model import make_content, same


@pytest.fixture(scope="module")
def content(tmp_path_factory):
    return make_content(tmp_path_factory.mktemp("reader") / "a.zarr", specials=True)


@settings(max_examples=25, deadline=None)
@given(
    samples=st.integers(1, 30), per_part=st.integers(1, 12), most_rows=st.integers(1, 9),
    dtype=st.sampled_from(["bfloat16", "float16", "float32"]), width=st.sampled_from([1, 3, 64, 2048]),
    order=st.sampled_from(["permuted", "sequential"]), seed=st.integers(0, 99), data=st.data(),
)  # fmt: skip
def test_indexing_is_that_of_a_tensor(
    tmp_path_factory, samples, per_part, most_rows, dtype, width, order, seed, data
):
    content = make_content(
        tmp_path_factory.mktemp("s") / "a", samples=samples, per_part=per_part, most_rows=most_rows,
        dtypes=(dtype,), widths=(width,), order=order, seed=seed, specials=True,
    )  # fmt: skip
    expected = content.acts["vision.0.x"]
    with open_store(content.path) as store:
        site = store["vision.0.x"]
        assert site.shape == tuple(expected.shape) and site.dtype == expected.dtype
        assert same(site[:], expected)
        n = len(expected)
        bound = st.one_of(st.none(), st.integers(-n - 2, n + 2))
        # Tensors have no negative steps; NumPy has.
        for _ in range(3):
            cut = slice(data.draw(bound), data.draw(bound), data.draw(st.sampled_from([None, 1, 3, -1, -2])))
            rows = np.arange(n)[cut]
            assert same(site[cut], expected[torch.from_numpy(rows.copy())])
            assert torch.equal(site.rows[cut].table, content.rows["vision"][torch.from_numpy(rows.copy())])
        if n:
            rows = data.draw(st.lists(st.integers(0, n - 1), max_size=20))
            assert same(site.gather(rows), expected[rows])
            # torch itself converts the payload of a float16 NaN in two ways.
            wide = site.gather(rows, torch.float32)
            torch.testing.assert_close(wide, expected[rows].float(), rtol=0, atol=0, equal_nan=True)
            assert same(site[rows[0] if rows else 0], expected[rows[0] if rows else 0])


def test_kinds_of_index(content):
    with open_store(content.path) as store:
        for name, expected in content.acts.items():
            site = store[name]
            mask = torch.rand(len(expected)) < 0.5
            assert same(site[mask], expected[mask]) and same(site[mask.numpy()], expected[mask])
            assert same(site[-1], expected[-1]) and same(site[[-1, 0]], expected[[-1, 0]])
            assert same(site[np.int64(3)], expected[3]) and same(site[torch.tensor([3, 2])], expected[[3, 2]])
            assert same(site[2:9, :2], expected[2:9, :2]) and same(site[3, 1:], expected[3, 1:])
            assert same(site[[]], expected[:0]) and same(site[...], expected)
            with pytest.raises(IndexError, match="outside"):
                site[len(expected)]
            with pytest.raises(ArgumentError, match="expected 0 <= row"):
                site.gather([-1])
            with pytest.raises(ArgumentError, match="integers"):
                site[[0.5]]
            with pytest.raises(ArgumentError, match="mask"):
                site[mask[:-1]]


def test_row_table(content):
    with open_store(content.path) as store:
        rows, expected = store.rows["vision"], content.rows["vision"]
        assert len(rows) == len(expected)
        assert torch.equal(rows.read().table, expected)
        assert torch.equal(rows.sample, expected[:, 0]) and torch.equal(rows.token_type, expected[:, 4])
        assert torch.equal(rows.gather([5, 1]).table, expected[[5, 1]])
        assert list(rows.to_pandas()["sample"]) == expected[:, 0].tolist()
        assert store["vision.0.x"].rows is rows
        with pytest.raises(AttributeError):
            rows.colour  # noqa: B018


def test_sample_table(content):
    with open_store(content.path) as store:
        samples = store.samples
        assert len(samples) == 40
        for i in (0, 39, 17):
            assert (samples[i].sample, samples[i].key, samples[i].columns) == (i, f"key{i}", {"label": i % 3})
        frame = samples.to_pandas()
        assert frame.index.tolist() == list(range(40)) and frame.loc[4, "label"] == 1
        assert sorted(s.sample for s in samples) == list(range(40))
        for wrong in (40, -1):
            with pytest.raises(IndexError, match="expected 0 <= sample < 40"):
                samples[wrong]


@pytest.mark.parametrize("compacted", [False, True])
def test_statistics_are_those_of_the_rows(tmp_path, compacted):
    content = make_content(tmp_path / "a", specials=True)
    if compacted:
        compact(content.path)
    with open_store(content.path) as store:
        for name, x in content.acts.items():
            stats, wide = store.stats[name], x.double()
            finite = torch.isfinite(wide)
            some = torch.where(finite, wide, torch.nan)
            assert stats.count == len(x)
            assert torch.equal(stats.finite, finite.sum(0)) and torch.equal(stats.nan, torch.isnan(x).sum(0))
            torch.testing.assert_close(stats.mean, some.nanmean(0), rtol=1e-5, atol=1e-6)
            torch.testing.assert_close(
                stats.var, (some - some.nanmean(0)).square().nanmean(0), rtol=1e-4, atol=1e-8
            )
            assert torch.equal(stats.max, torch.where(finite, x.float(), -torch.inf).amax(0))
            torch.testing.assert_close(stats.positive, ((some > 0).sum(0) / finite.sum(0)).double())
            columns = torch.arange(x.shape[1])[:, None]
            assert torch.equal(x.float()[stats.topk_rows, columns], stats.topk_values)
            order = (
                torch.where(finite, x.float(), -torch.inf).sort(dim=0, descending=True, stable=True).indices
            )
            assert torch.equal(stats.topk_rows, order[:3].T)
            torch.testing.assert_close(
                stats.quantile([0.0, 0.3, 1.0]).double(),
                torch.nanquantile(some, torch.tensor([0.0, 0.3, 1.0], dtype=torch.float64), dim=0),
                rtol=1e-5, atol=1e-6,
            )  # fmt: skip
            assert stats.quantile(0.5).shape == (x.shape[1],)
            assert "not finite" in repr(stats) and len(stats.to_pandas()) == x.shape[1]
        with pytest.raises(KeyError):
            store.stats["nothing"]


def test_quantile_of_a_sample_keeps_its_bound(tmp_path):
    with mmxai.create_store(tmp_path / "a", {"s": 4}, dtype="float32", samples_per_part=9000) as writer:
        x = torch.randn(20_000, 4)
        writer.write(list(range(20_000)), {"s": x})
    with open_store(tmp_path / "a") as store:
        stats = store.stats["s"]
        level = (x <= stats.quantile(0.9, rows=2000)).double().mean(0)
        bound = (np.log(2 / 1e-4) / (2 * 2000)) ** 0.5
        assert (level - 0.9).abs().max() < bound
        assert torch.equal(stats.quantile(0.9, rows=2000), stats.quantile(0.9, rows=2000))
        with pytest.raises(ArgumentError, match="0 <= q <= 1"):
            stats.quantile(1.5)


def test_statistics_absent(tmp_path):
    with mmxai.create_store(tmp_path / "a", {"s": 4}, statistics=False) as writer:
        writer.write([0, 1], {"s": torch.randn(2, 4)})
    with open_store(tmp_path / "a") as store, pytest.raises(StoreError, match="without statistics"):
        store.stats["s"]


def flip(path: Path, offset: int) -> None:
    with open(path, "r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 1]))


def test_damaged_chunk(tmp_path):
    content = make_content(
        tmp_path / "a", samples=12, per_part=4, big_rows=2000, dtypes=("bfloat16",), widths=(512,)
    )
    site, part_rows = "vision.0.x", 4 * 2000
    chunk = content.plan.chunk_rows(site)
    assert part_rows > 2 * chunk
    flip(content.path / site / "c.1.0", (chunk + 3) * 1024)
    expected, bad = content.acts[site], part_rows + chunk + 3
    for mode in ("first-touch", "always"):
        with open_store(content.path, verify=mode) as store:
            good = [0, part_rows, part_rows + chunk - 1, part_rows + 2 * chunk, len(expected) - 1]
            assert same(store[site].gather(good), expected[good])
            for _ in range(2):
                with pytest.raises(CorruptPartError, match=r"chunk 1 .*CRC-32C") as caught:
                    store[site].gather([0, bad + 5])
                assert (caught.value.part, caught.value.key) == (1, f"{site}/c.1.0")
            assert same(store[site].gather(good), expected[good])
            with pytest.raises(CorruptPartError):
                for _ in store[site].batches(1000, shuffle=True):
                    pass
            with pytest.raises(CorruptPartError):
                for _ in store[site].batches(1000, shuffle=True, window=3000):
                    pass
    with open_store(content.path, verify="never") as store:
        assert not same(store[site][bad], expected[bad])
        assert same(store[site][bad + 1], expected[bad + 1])


def test_damage_after_the_first_touch_is_met_by_always_alone(tmp_path):
    content = make_content(tmp_path / "a", samples=4, per_part=4)
    with open_store(content.path, verify="always") as always, open_store(content.path) as once:
        assert same(always["vision.0.x"][:], content.acts["vision.0.x"])
        assert same(once["vision.0.x"][:], content.acts["vision.0.x"])
        assert once.view.site_table("vision.0.x")._left == 0
        flip(content.path / "vision.0.x" / "c.0.0", 0)
        once["vision.0.x"][:]
        with pytest.raises(CorruptPartError):
            always["vision.0.x"][:]


@pytest.mark.parametrize("mode", ["first-touch", "always", "never"])
@pytest.mark.parametrize("damage", ["missing", "truncated"])
def test_missing_and_short_files(tmp_path, mode, damage):
    content = make_content(tmp_path / "a", samples=21, per_part=7)
    file = content.path / "vision.1.x" / "c.1.0"
    if damage == "missing":
        file.unlink()
    else:
        os.truncate(file, 10)
    sample = content.rows["vision"][:, 0]
    inside = torch.isin(sample, torch.from_numpy(content.plan.samples_of(1)).int())
    with open_store(content.path, verify=mode) as store:
        expected = content.acts["vision.1.x"]
        assert same(store["vision.1.x"][~inside], expected[~inside])
        with pytest.raises(
            CorruptPartError, match="missing" if damage == "missing" else "10 bytes"
        ) as caught:
            store["vision.1.x"][:]
        assert caught.value.part == 1
        with pytest.raises(CorruptPartError):
            list(store["vision.1.x"].batches(8, shuffle=True, window=16))
        assert same(store["vision.0.x"][:], content.acts["vision.0.x"])


def test_damaged_record_is_told(tmp_path):
    content = make_content(tmp_path / "a", samples=21, per_part=7)
    flip(content.path / "mmxai/commits/1.json", 30)
    with pytest.warns(UserWarning, match=r"parts \[1\] are damaged"), open_store(content.path) as store:
        assert store.parts == (2, 3) and list(store.damaged) == [1]
        assert "1 damaged" in repr(store)
        with pytest.raises(CorruptPartError, match="record of its part 1"):
            store.samples[int(content.plan.samples_of(1)[0])]


def test_read_only_directory_with_staged_files(tmp_path, monkeypatch):
    """What a crash left unrenamed is read under its staged name where nothing may be written."""
    content = make_content(tmp_path / "a", samples=14, per_part=7)
    with open_store(content.path) as store:
        attempt = store.view.snapshot.attempt(1)
    moved = []
    for directory in (
        "vision.0.x",
        "vision.1.x",
        "vision.2.x",
        "vision.embeds",
        "rows/vision",
        "mmxai/stats",
    ):
        for file in (content.path / directory).glob("*1.*"):
            if file.name in ("c.1.0", "1.safetensors"):
                moved.append(file)
                file.rename(file.with_name(f".{file.name}.{attempt}"))
    assert len(moved) == 6

    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr("mmxai.store.commit.os.rename", refuse)
        with open_store(content.path) as store:
            for name, expected in content.acts.items():
                assert same(store[name][:], expected)
            assert store.stats["vision.0.x"].count == len(content.acts["vision.0.x"])
    assert not any(f.exists() for f in moved)
    with open_store(content.path):
        pass
    assert all(f.exists() for f in moved)


def test_store_still_being_written(tmp_path):
    path = tmp_path / "a"
    first = make_content(path, samples=28, per_part=7, parts={0, 2})
    with open_store(path) as store:
        assert store.parts == (2, 4)
        assert same(store["vision.0.x"][:], first.acts["vision.0.x"])
        absent = int(first.plan.samples_of(1)[0])
        with pytest.raises(IndexError, match="not committed"):
            store.samples[absent]
        loader = store["vision.0.x"].batches(4)
        more = make_content(path, samples=28, per_part=7, parts={1})
        assert same(store["vision.0.x"][:], first.acts["vision.0.x"])
        assert store.refresh() == (3, 4)
        n0 = int(store.view.snapshot.rows["vision"][0])
        head, tail = first.acts["vision.0.x"][:n0], first.acts["vision.0.x"][n0:]
        assert same(store["vision.0.x"][:], torch.cat([head, more.acts["vision.0.x"], tail]))
        assert store.samples[absent].sample == absent
        assert store.stats["vision.0.x"].count == len(store["vision.0.x"])
        assert same(torch.cat([b.x for b in loader]), first.acts["vision.0.x"])


def test_refresh_keeps_what_is_verified(tmp_path):
    content = make_content(tmp_path / "a", samples=28, per_part=7, parts={0, 2})
    with open_store(content.path) as store:
        store["vision.0.x"][:]
        make_content(tmp_path / "a", samples=28, per_part=7, parts={1})
        store.refresh()
        done = store.view.site_table("vision.0.x").done
        assert done.tolist() == [True, False, True]


def test_many_groups_of_maps(tmp_path, monkeypatch):
    monkeypatch.setattr(table, "GROUP_PARTS", 2)
    content = make_content(tmp_path / "a", samples=30, per_part=4)
    with open_store(content.path) as store:
        store.view._maps._limit = 3
        for name, expected in content.acts.items():
            rows = torch.randperm(len(expected))
            assert same(store[name].gather(rows), expected[rows])
            assert store.view._maps._maps <= 3


def test_closing(content):
    store = open_store(content.path)
    kept = store["vision.0.x"][:]
    store.close()
    assert same(kept, content.acts["vision.0.x"])
    with pytest.raises(StoreError, match="closed"):
        store["vision.0.x"][0]
    before = Path("/proc/self/maps").read_text().count(str(content.path))
    assert before == 0


def test_maps_hold_no_descriptors(content):
    with open_store(content.path) as store:
        store["vision.0.x"][:]
        links = [os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if _is_open(fd)]
        assert not [link for link in links if link.endswith("c.0.0")]


def _is_open(fd: str) -> bool:
    return os.path.islink(f"/proc/self/fd/{fd}")


def test_opening_what_is_not_a_store(tmp_path):
    with pytest.raises(StoreNotFoundError):
        open_store(tmp_path / "nothing")
    with pytest.raises(ArgumentError, match="verify"):
        open_store(tmp_path, verify="sometimes")


def test_prints(content):
    with open_store(content.path) as store:
        assert "vision.0.x" in repr(store) and "6 of 6 parts" in repr(store)
        assert "<table>" in store._repr_html_()
        assert store.sites["vision.embeds"] == 3 and set(store) == set(store.sites)
        for thing in (store["vision.0.x"], store.rows["vision"], store.samples):
            assert repr(thing)
        with pytest.raises(UnknownSiteError, match=r"vision\.0\.x"):
            store["vision.0.y"]


def test_buffers_are_used_again_only_when_nobody_looks():
    pool = BufferPool(limit=1 << 20, most=3)
    a = pool.empty((100, 8), torch.bfloat16)
    address = a.data_ptr()
    assert address % 64 == 0
    view = a[3:5].T
    del a
    assert pool.empty((100, 8), torch.bfloat16).data_ptr() != address
    del view
    assert pool.empty((90, 8), torch.bfloat16).data_ptr() == address
    held = [pool.empty((100, 8), torch.float32) for _ in range(6)]
    assert len({h.data_ptr() for h in held}) == 6 and len(pool._buffers) <= 3
