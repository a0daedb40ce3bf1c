"""create_store: for tools that already hold tensors."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import zarr

from mmxai.errors import (
    ArgumentError,
    StorageOverflowError,
    StoreError,
    StoreExistsError,
    StoreInUseError,
)
from mmxai.store import create_store, read_commits
from mmxai.store.verify import verify
from mmxai.types import Rows


def logical(path: Path, array: str) -> np.ndarray:
    """The valid rows of an array, in order."""
    snapshot = read_commits(path)
    spec = snapshot.plan.arrays[array]
    x = zarr.open_array(path / array, mode="r")[:]
    pieces = [
        x[p * spec.capacity :][:n] for p, n in zip(snapshot.parts, snapshot.rows[spec.space], strict=True)
    ]
    return np.concatenate([x[:0], *pieces]).astype(np.float32)


def samples(path: Path) -> list[dict]:
    snapshot = read_commits(path)
    text = b"".join(snapshot.samples_text(p) for p in snapshot.parts.tolist())
    return [json.loads(line) for line in text.split(b"\n")[:-1]]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
@pytest.mark.parametrize("given", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_rows_and_grids_of_any_float(tmp_path: Path, dtype: str, given: torch.dtype) -> None:
    x = torch.randn(10, 5, 6).to(given)
    with create_store(tmp_path / "s", {"a": 6}, dtype=dtype, samples_per_part=4) as store:
        for i in range(0, 10, 3):
            store.write(list(range(i, min(i + 3, 10))), {"a": x[i : i + 3]})
        assert store.committed_samples == 8 and store.num_samples == 10
    expected = x.to(getattr(torch, dtype)).float().reshape(-1, 6).numpy()
    np.testing.assert_array_equal(logical(tmp_path / "s", "a"), expected)
    rows = logical(tmp_path / "s", "rows/rows")
    assert rows[:, 0].tolist() == np.repeat(np.arange(10), 5).tolist()
    assert rows[:, 1].tolist() == list(range(5)) * 10
    report = verify(tmp_path / "s")
    assert report.ok and report.parts == 3


def test_ragged_samples_in_several_spaces(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    expected: dict[str, list[torch.Tensor]] = {"t": [], "u": [], "p": []}
    owners: list[int] = []
    with create_store(
        tmp_path / "s", {"text": {"t": 3, "u": 2}, "pooled": {"p": 4}}, samples_per_part=7
    ) as store:
        for call in range(9):
            n = int(rng.integers(1, 12))
            index = torch.from_numpy(rng.integers(0, n, int(rng.integers(0, 3 * n))))
            order = torch.argsort(index, stable=True)
            acts = {k: torch.randn(len(index), w).bfloat16() for k, w in (("t", 3), ("u", 2))}
            acts["p"] = torch.randn(n, 4).bfloat16()
            first = store.num_samples
            store.write([f"{call}.{i}" for i in range(n)], acts, rows={"text": Rows.make(sample=index)})
            owners += (first + index[order]).tolist()
            for k in ("t", "u"):
                expected[k].append(acts[k][order])
            expected["p"].append(acts["p"])
    for k, pieces in expected.items():
        np.testing.assert_array_equal(logical(tmp_path / "s", k), torch.cat(pieces).float().numpy())
    assert logical(tmp_path / "s", "rows/text")[:, 0].tolist() == owners
    found = samples(tmp_path / "s")
    assert [s["sample"] for s in found] == list(range(len(found)))
    assert verify(tmp_path / "s").ok


def test_append_goes_on_after_an_interruption(tmp_path: Path) -> None:
    x = torch.randn(30, 4)
    with (
        pytest.raises(KeyboardInterrupt),
        create_store(tmp_path / "s", {"a": 4}, dtype="float32", samples_per_part=8) as store,
    ):
        store.write(range(20), {"a": x[:20]})  # type: ignore[arg-type]
        raise KeyboardInterrupt
    with create_store(tmp_path / "s", {"a": 4}, dtype="float32", append=True) as store:
        done = store.committed_samples
        assert done == 16
        store.write(list(range(done, 25)), {"a": x[done:25]})
    with create_store(tmp_path / "s", {"a": 4}, dtype="float32", append=True) as store:
        assert store.committed_samples == 25
        store.write(list(range(25, 30)), {"a": x[25:]})
    np.testing.assert_array_equal(logical(tmp_path / "s", "a"), x.numpy())
    snapshot = read_commits(tmp_path / "s")
    assert snapshot.first.tolist() == [0, 8, 16, 24, 25] and snapshot.samples.tolist() == [8, 8, 8, 1, 5]
    assert [s["key"] for s in samples(tmp_path / "s")] == [str(i) for i in range(30)]
    assert verify(tmp_path / "s").ok


def test_sample_objects(tmp_path: Path) -> None:
    with create_store(tmp_path / "s", {"a": 2}) as store:
        store.write(
            [{"key": "cat.png", "label": 3, "size": [4, 5]}, {"text": "hi", "hash": "given"}, "x"],
            {"a": torch.zeros(3, 2)},
        )
        with pytest.raises(ArgumentError, match="sample 7"):
            store.write([{"sample": 7}], {"a": torch.zeros(1, 2)})
    first, second, third = samples(tmp_path / "s")
    assert first["columns"] == {"label": 3} and first["size"] == [4, 5] and len(first["hash"]) == 32
    assert second["key"] == "1" and second["hash"] == "given" and second["text"] == "hi"
    assert third["key"] == "x" and third["sample"] == 2


def test_an_overflow_refuses_the_whole_call(tmp_path: Path) -> None:
    with create_store(tmp_path / "s", {"a": 2, "b": 2}, dtype="float16") as store:
        bad = torch.tensor([[1.0, 7e4]])
        with pytest.raises(StorageOverflowError, match="write to b"):
            store.write(["x"], {"a": torch.ones(1, 2), "b": bad})
        store.write(["y"], {"a": torch.tensor([[torch.inf, torch.nan]]), "b": torch.ones(1, 2)})
        assert store.num_samples == 1
    assert [s["key"] for s in samples(tmp_path / "s")] == ["y"]
    assert np.isinf(logical(tmp_path / "s", "a")[0, 0])


def test_a_part_is_cut_early_where_rows_run_out(tmp_path: Path) -> None:
    with create_store(tmp_path / "s", {"a": 2}, samples_per_part=4, rows_per_sample=2) as store:
        capacity = 8
        for n in (7, 1, 3, 8, 5, 4):
            store.write(["k"], {"a": torch.ones(1, n, 2)})
        with pytest.raises(ArgumentError, match="rows_per_sample"):
            store.write(["k"], {"a": torch.ones(1, capacity + 1, 2)})
    assert read_commits(tmp_path / "s").rows["rows"].tolist() == [8, 3, 8, 5, 4]
    assert verify(tmp_path / "s").ok


@pytest.mark.parametrize(
    ("acts", "rows"),
    [
        ({}, None),
        ({"a": torch.ones(2, 3)}, None),
        ({"a": torch.ones(3, 4)}, None),
        ({"a": torch.ones(2, 4, dtype=torch.int32)}, None),
        ({"a": torch.ones(4)}, None),
        ({"a": torch.ones(5, 4)}, Rows.make(sample=torch.tensor([0, 1, 1, 1]))),
        ({"a": torch.ones(4, 4)}, Rows.make(sample=torch.tensor([0, 1, 2, 1]))),
        ({"a": torch.ones(4, 4)}, Rows.make(sample=torch.tensor([0, 1, -1, 1]))),
    ],
)
def test_wrong_calls_are_refused(tmp_path: Path, acts: dict, rows: Rows | None) -> None:
    with create_store(tmp_path / "s", {"a": 4}) as store:
        with pytest.raises(ArgumentError):
            store.write(["x", "y"], acts, rows)
        assert store.num_samples == 0


def test_what_is_there_is_not_overwritten(tmp_path: Path) -> None:
    with create_store(tmp_path / "s", {"a": 4}):
        pass
    assert verify(tmp_path / "s").ok and read_commits(tmp_path / "s").total_parts is None
    with pytest.raises(StoreExistsError, match="append=True"):
        create_store(tmp_path / "s", {"a": 4})
    with pytest.raises(StoreError, match="same sites"):
        create_store(tmp_path / "s", {"a": 5}, append=True)


def test_two_appenders_do_not_lose_rows(tmp_path: Path) -> None:
    with create_store(tmp_path / "s", {"a": 4}):
        pass
    first = create_store(tmp_path / "s", {"a": 4}, append=True)
    second = create_store(tmp_path / "s", {"a": 4}, append=True)  # the same process: claims do not tell
    first.write(["x"], {"a": torch.ones(1, 4)})
    second.write(["y"], {"a": torch.ones(1, 4)})
    first.close()
    with pytest.raises(StoreInUseError, match="committed_samples"):
        second.close()
    assert [s["key"] for s in samples(tmp_path / "s")] == ["x"]
