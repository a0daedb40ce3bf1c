"""Sites stored as int8 and topk: what comes back, what other Zarr readers see, what damage does."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from mmxai.errors import ArgumentError, CorruptPartError, StorageOverflowError, StoreError
from mmxai.store import Plan, SiteSpec, create_store, open_store, read_commits
from mmxai.store.compact import compact
from mmxai.store.profiles import largest_of, outlier_columns
from mmxai.store.verify import verify
from tests.store.fake import FLOAT_SITES, make_plan

WIDTH, K = 96, 9


def rows(count: int, width: int = WIDTH, seed: int = 0, planted: tuple[int, ...] = ()) -> torch.Tensor:
    x = torch.randn(count, width, generator=torch.Generator().manual_seed(seed))
    x[:, list(planted)] *= 100
    return x.bfloat16()


def write(path: Path, x: torch.Tensor, dtype: str, per_part: int = 100, **options) -> None:
    options |= {"topk": K} if dtype == "topk" else {}
    with create_store(path, {"a": x.shape[1]}, dtype=dtype, samples_per_part=per_part, **options) as store:
        for start in range(0, len(x), 70):
            some = x[start : start + 70]
            store.write(list(range(start, start + len(some))), {"a": some})


def read_by_zarr(path: Path, site: str) -> np.ndarray:
    """Float32 rows by FORMAT.md alone: zarr-python and NumPy."""
    snapshot, group = read_commits(path), zarr.open(path, mode="r")[site]
    capacity = group["values"].shards[0]
    where = np.concatenate([
        np.arange(p * capacity, p * capacity + n)
        for p, n in zip(snapshot.parts, snapshot.rows[group.attrs["mmxai"]["space"]], strict=True)
    ])  # fmt: skip
    values = group["values"][:][where].astype(np.float32)
    about = group.attrs["mmxai"]
    if about["dtype"] == "topk":
        out = np.zeros((len(where), about["width"]), np.float32)
        np.put_along_axis(out, group["indices"][:][where].astype(np.int64), values, 1)
        return out
    out = values * group["scale"][:][where]
    if about["outliers"]:
        assert group["outliers"].attrs["mmxai"]["columns"] == about["outliers"]
        out[:, about["outliers"]] = group["outliers"][:][where].astype(np.float32)
    return out


@pytest.mark.parametrize("planted", [(), (5, 60)])
def test_int8_is_within_half_a_step(tmp_path: Path, planted: tuple[int, ...]) -> None:
    x = rows(250, planted=planted)
    write(tmp_path / "s", x, "int8")
    with open_store(tmp_path / "s") as store:
        wide, kept = store["a"].gather(range(250), torch.float32), list(planted)
        assert store["a"].dtype == torch.bfloat16 and torch.equal(store["a"][:], wide.bfloat16())
        assert store.plan.site("a").outliers == planted
    assert torch.equal(wide[:, kept], x[:, kept].float())
    np.testing.assert_array_equal(wide.numpy(), read_by_zarr(tmp_path / "s", "a"))
    rest = x.float().index_fill(1, torch.tensor(kept, dtype=torch.int64), 0)
    step = rest.abs().amax(1, keepdim=True) / 127
    others = [c for c in range(WIDTH) if c not in kept]
    assert ((wide - x.float()).abs() <= step * 0.50001)[:, others].all()


def test_planted_outliers_cost_the_others_nothing(tmp_path: Path) -> None:
    planted = (3, 17, 90)
    quiet, loud = rows(400), rows(400, planted=planted)
    others = [c for c in range(WIDTH) if c not in planted]
    error = {}
    for name, x, options in (
        ("none planted", quiet, {}),
        ("kept apart", loud, {}),
        ("not kept apart", loud, {"outliers": {"a": ()}}),
    ):
        write(tmp_path / name, x, "int8", **options)
        with open_store(tmp_path / name) as store:
            error[name] = (
                (store["a"].gather(range(400), torch.float32) - x.float())[:, others].square().mean()
            )
    assert error["kept apart"] <= 1.02 * error["none planted"]
    assert error["not kept apart"] > 1000 * error["kept apart"]


def test_topk_is_the_largest_of_each_row(tmp_path: Path) -> None:
    x = rows(250)
    write(tmp_path / "s", x, "topk")
    with open_store(tmp_path / "s") as store:
        found = store["a"][:]
        values, columns = store["a"].entries([7, 3])
        assert repr(store["a"]) == "Site('a', 250 x 96 top 9, space 'rows')"
    kept = x.float().abs().argsort(dim=1, descending=True, stable=True)[:, :K]
    assert torch.equal(found, torch.zeros_like(x).scatter(1, kept, x.gather(1, kept)))
    assert torch.equal(columns, kept[[7, 3]]) and torch.equal(values, x.gather(1, kept)[[7, 3]])
    np.testing.assert_array_equal(found.float().numpy(), read_by_zarr(tmp_path / "s", "a"))


@settings(max_examples=25, deadline=None)
@given(
    count=st.integers(1, 60), width=st.sampled_from([1, 2, 33, 300]), per_part=st.integers(1, 40),
    dtype=st.sampled_from(["int8", "topk"]), seed=st.integers(0, 99), data=st.data(),
)  # fmt: skip
def test_reading_is_indexing_what_came_back(
    tmp_path_factory, count, width, per_part, dtype, seed, data
) -> None:
    path = tmp_path_factory.mktemp("s") / "a"
    options = {"topk": data.draw(st.integers(1, width))} if dtype == "topk" else {}
    columns = data.draw(st.none() | st.sets(st.integers(0, width - 1))) if dtype == "int8" else None
    options |= {} if columns is None else {"outliers": {"a": sorted(columns)}}
    x = rows(count, width, seed)
    with create_store(path, {"a": width}, dtype=dtype, samples_per_part=per_part, **options) as store:
        store.write(list(range(count)), {"a": x})
    with open_store(path, verify=data.draw(st.sampled_from(["first-touch", "always", "never"]))) as store:
        site, expected = store["a"], torch.from_numpy(read_by_zarr(path, "a"))
        assert site.shape == (count, width)
        some = data.draw(st.lists(st.integers(0, count - 1), max_size=20))
        assert torch.equal(site.gather(some, torch.float32), expected[some])
        assert torch.equal(site[some], expected.bfloat16()[some])
        assert torch.equal(site.gather(some, torch.float16), expected.bfloat16()[some].half())
        for window in (None, data.draw(st.integers(1, count))):
            kind = data.draw(st.sampled_from([None, torch.float32, torch.bfloat16]))
            for batch in site.batches(7, shuffle=True, seed=seed, window=window, dtype=kind, epochs=2):
                assert torch.equal(batch.x, expected[batch.rows.sample].to(kind or torch.bfloat16))


def test_profiles_beside_floats_in_one_batch(tmp_path: Path) -> None:
    x = rows(300)
    kinds = {"a": "int8", "b": "topk", "c": "bfloat16"}
    with create_store(tmp_path / "s", dict.fromkeys(kinds, WIDTH), dtype=kinds, topk=K) as store:
        store.write(list(range(300)), dict.fromkeys(kinds, x))
    with open_store(tmp_path / "s") as store:
        whole = {site: store[site][:] for site in kinds}
        for batch in store.batches(64, shuffle=True, seed=3, window=128):
            for site in kinds:
                assert torch.equal(batch[site], whole[site][batch.rows.sample])
        sizes = {site: store[site].nbytes for site in kinds}
        assert sizes == {"a": 300 * (WIDTH + 4), "b": 300 * 4 * K, "c": 300 * 2 * WIDTH}
        text = repr(store)
        assert "int8" in text and "top 9" in text
        # Statistics are of the rows as they were written, whatever is kept of them.
        stats = {site: store.stats[site] for site in kinds}
        for field in ("mean", "var", "min", "max", "topk_values", "topk_rows"):
            for site in "ab":
                assert torch.equal(getattr(stats[site], field), getattr(stats["c"], field))


@pytest.mark.parametrize(
    "pipeline", ["zarr.core.codec_pipeline.BatchedCodecPipeline", "zarrs.ZarrsCodecPipeline"]
)
def test_other_readers_open_the_arrays(tmp_path: Path, pipeline: str) -> None:
    if pipeline.startswith("zarrs"):
        pytest.importorskip("zarrs")
    x, path = rows(250, planted=(4,)), tmp_path / "s"
    kinds = {"a": "int8", "b": "topk"}
    with create_store(path, dict.fromkeys(kinds, WIDTH), dtype=kinds, topk=K, samples_per_part=100) as store:
        store.write(list(range(250)), dict.fromkeys(kinds, x))
    with zarr.config.set({"codec_pipeline.path": pipeline}), warnings.catch_warnings():
        warnings.simplefilter("error")
        group = zarr.open(path, mode="r")
        expected = {"a", "a/values", "a/scale", "a/outliers", "b", "b/values", "b/indices"}
        assert dict(group.members(max_depth=None)).keys() == {*expected, "rows", "rows/rows", "mmxai"}
        with open_store(path) as store:
            for site in kinds:
                wide = store[site].gather(range(250), torch.float32).numpy()
                np.testing.assert_array_equal(wide, read_by_zarr(path, site))
    for name, array in read_commits(path).plan.arrays.items():
        found = zarr.open_array(path / name, mode="r")[:]
        assert found.dtype.name == array.dtype
        for part, n in enumerate((100, 100, 50)):  # and the files are memory maps
            raw = np.memmap(path / name / f"c.{part}.0", np.uint8, "r")[: n * array.row_bytes]
            assert found[part * array.capacity :][:n].tobytes() == raw.tobytes()


def test_tensorstore_opens_the_arrays(tmp_path: Path) -> None:
    tensorstore = pytest.importorskip("tensorstore")
    x, path = rows(250, planted=(4,)), tmp_path / "s"
    for dtype in ("int8", "topk"):
        write(path / dtype, x, dtype)
        for name in read_commits(path / dtype).plan.arrays:
            spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(path / dtype / name)}}
            array = tensorstore.open(spec, read=True, open=True).result()
            mine = zarr.open_array(path / dtype / name, mode="r")[:]
            assert array.read().result().tobytes() == mine.tobytes()


def test_values_that_are_not_finite(tmp_path: Path) -> None:
    x = rows(4, 8)
    x[0, 0], x[1, 1], x[2, 2], x[:, 7], x[3, :7] = torch.nan, torch.inf, -torch.inf, torch.inf, 0
    write(tmp_path / "s", x, "int8", outliers={"a": [7]})
    write(tmp_path / "t", x[:, :6].repeat(1, 2), "topk")
    with open_store(tmp_path / "s") as store, open_store(tmp_path / "t") as sparse:
        found = store["a"].gather(range(4), torch.float32)
        rest = torch.where(x.float().isfinite(), x.float(), 0)[:, :7].abs().amax(1)
        assert found[0, 0] == 0 and (found[:, 7] == torch.inf).all() and (found[3, :7] == 0).all()
        torch.testing.assert_close(found[[1, 2], [1, 2]], rest[1:3] * torch.tensor([1, -1]))
        assert store.stats["a"].nan.sum() == 1 and store.stats["a"].posinf.sum() == 5
        kept = sparse["a"][:]
        assert kept[0, 0].isnan() and kept[1, 1] == torch.inf and kept[2, 2] == -torch.inf


def test_appending_goes_on_with_the_same_columns(tmp_path: Path) -> None:
    path, x = tmp_path / "s", rows(60, planted=(8,))
    open_ = {"dtype": "int8", "samples_per_part": 20}
    with (
        pytest.raises(KeyboardInterrupt),
        create_store(path, {"a": WIDTH}, rows_per_sample=1, **open_) as store,
    ):
        store.write(list(range(30)), {"a": x[:30]})
        raise KeyboardInterrupt
    with create_store(path, {"a": WIDTH}, append=True, **open_) as store:
        assert store.committed_samples == 20
        store.write(list(range(20, 60)), {"a": rows(60, planted=(9,))[20:]})
    with open_store(path) as store:
        assert store.plan.site("a").outliers == (8,) and len(store["a"]) == 60
    assert verify(path).ok
    with pytest.raises(StoreError, match="same sites"):
        create_store(path, {"a": WIDTH}, append=True, outliers={"a": [9]}, **open_)


def test_an_empty_store_and_an_overflow(tmp_path: Path) -> None:
    kinds, huge = {"a": "int8", "b": "topk"}, torch.full((1, 4), 3.4e38)
    made = create_store(tmp_path / "s", dict.fromkeys(kinds, 4), dtype=kinds, topk=2)
    with made as store, pytest.raises(StorageOverflowError, match="bfloat16"):
        store.write(["x"], {"a": huge, "b": huge})
    with open_store(tmp_path / "s") as store:
        assert store["a"][:].shape == (0, 4) and store["b"].gather([]).shape == (0, 4)
    assert verify(tmp_path / "s").ok


@pytest.mark.parametrize("piece", ["a/values", "a/scale", "a/outliers", "b/values", "b/indices"])
@pytest.mark.parametrize("compacted", [False, True])
def test_damage_in_any_array_is_found(tmp_path: Path, piece: str, compacted: bool) -> None:
    path, x = tmp_path / "s", rows(40, planted=(4,))
    kinds = {"a": "int8", "b": "topk"}
    with create_store(path, dict.fromkeys(kinds, WIDTH), dtype=kinds, topk=K, samples_per_part=20) as store:
        store.write(list(range(40)), dict.fromkeys(kinds, x))
    if compacted:
        assert compact(path) == 2
    assert verify(path).ok
    file = path / piece / "c.1.0"
    data = bytearray(file.read_bytes())
    data[0] ^= 1
    file.write_bytes(data)
    report = verify(path)
    assert [(p.part, p.key) for p in report.problems] == [(1, f"{piece}/c.1.0")]
    with open_store(path) as store:
        assert len(store[piece[0]][:20]) == 20
        with pytest.raises(CorruptPartError, match=piece):
            store[piece[0]][:]
    (path / piece.split("/")[0] / "zarr.json").write_text("{}")
    assert any(p.key == f"{piece.split('/')[0]}/zarr.json" for p in verify(path).problems)


def test_outlier_columns() -> None:
    x = rows(500, planted=(7, 40))
    assert outlier_columns(largest_of(x)) == (7, 40)
    x[3, 8] = torch.inf
    assert outlier_columns(largest_of(x)) == (7, 40)
    assert outlier_columns(torch.ones(5)) == () and outlier_columns(torch.zeros(5)) == ()
    assert outlier_columns(largest_of(x[:0])) == ()
    sparse = torch.zeros(64)
    sparse[10:20] = torch.arange(10.0, 20)  # most columns never fire: the largest 64 / 16
    assert outlier_columns(sparse) == (16, 17, 18, 19)


@pytest.mark.parametrize(
    "wrong",
    [
        {"dtype": "int4"},
        {"dtype": "topk"},
        {"dtype": "topk", "k": 9},
        {"dtype": "topk", "k": 0},
        {"dtype": "bfloat16", "k": 3},
        {"dtype": "topk", "k": 3, "outliers": (1,)},
        {"dtype": "int8", "outliers": (8,)},
        {"dtype": "int8", "outliers": (2, 1)},
        {"dtype": "int8", "outliers": (-1,)},
    ],
)
def test_wrong_sites_are_refused(wrong: dict) -> None:
    with pytest.raises(ArgumentError, match="site a"):
        SiteSpec("a", 8, space="s", **wrong)


def test_a_plan_needs_its_columns() -> None:
    with pytest.raises(ArgumentError, match="outlier columns"):
        Plan(1, 1, "sequential", 0, (SiteSpec("a", 8, "int8", "s"),), {"s": 1})


def test_plans_and_stores_of_floats_are_what_they_were() -> None:
    """The hash of a plan made before there were profiles: stores of then go on opening."""
    plan = make_plan(sites=FLOAT_SITES)
    assert plan.hash == "fd2ba0b9583b2a2582210fdc736f5ffe494c1db69846fc4629bdfc51cf3c70da"
    mark = plan.arrays["vision.embeds"].document(3)
    assert mark["attributes"] == {"mmxai": {"kind": "site", "space": "vision.pooled"}}


def test_exact_quantiles_are_of_what_was_kept(tmp_path: Path) -> None:
    x = rows(200)
    x[::2, 0], x[:10, 1] = torch.nan, torch.inf
    write(tmp_path / "s", x, "int8", outliers={"a": []})
    with open_store(tmp_path / "s") as store:
        kept = store["a"][:].float().numpy()
        for exact in (False, True):
            got = store.stats["a"].quantile([0.0, 0.3, 1.0], exact=exact).numpy()
            np.testing.assert_allclose(got, np.quantile(kept, [0.0, 0.3, 1.0], axis=0), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "bfloat16", "topk": 4}, "got topk=4"),
        ({"dtype": "int8", "outliers": {"typo": [1]}}, "got outliers of typo"),
        ({"dtype": "bfloat16", "outliers": {"a": [1]}}, "got outlier columns with dtype"),
    ],
)
def test_options_that_nothing_takes(tmp_path: Path, options, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        create_store(tmp_path / "s", {"a": 8}, **options)
