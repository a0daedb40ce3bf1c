"""Plans and layout: what goes where, as properties over shapes, dtypes and part sizes."""

from __future__ import annotations

import dataclasses
import json
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from mmxai.errors import ArgumentError, PlanMismatchError, StoreFormatError
from mmxai.store import Plan, SiteSpec, StoreWriter, layout, read_commits, sealed
from mmxai.store.plan import differences
from mmxai.store.verify import verify
from tests.store.fake import make_plan

DTYPES = st.sampled_from(layout.FLOAT_DTYPES)


@st.composite
def plans(draw: st.DrawFn, most_rows: int = 200, most_samples: int = 60) -> Plan:
    spaces = draw(
        st.lists(st.sampled_from(["vision", "text", "module.4x4"]), min_size=1, max_size=3, unique=True)
    )
    sites = []
    for space in spaces:
        for i in range(draw(st.integers(1, 2))):
            sites.append(SiteSpec(f"{space}.{i}", draw(st.integers(1, 700)), draw(DTYPES), space))
    return Plan(
        samples=draw(st.integers(0, most_samples)),
        samples_per_part=draw(st.integers(1, 20)),
        order=draw(st.sampled_from(["permuted", "sequential"])),
        seed=draw(st.integers(0, 1 << 40)),
        sites=tuple(sites),
        rows_per_sample={space: draw(st.integers(1, most_rows)) for space in spaces},
        identity={"model": {"id": draw(st.text(max_size=5))}},
    )


@given(plans(most_samples=100_000))
def test_every_sample_is_in_one_part(plan: Plan) -> None:
    assert plan.samples is not None and plan.parts is not None
    if plan.samples <= 2000:
        order = [int(s) for part in range(plan.parts) for s in plan.samples_of(part)]
        assert sorted(order) == list(range(plan.samples))
        assert [plan.position_of(s) for s in order] == list(range(plan.samples))
    with pytest.raises(IndexError):
        plan.samples_of(plan.parts)


@given(plans())
def test_a_plan_reads_back_equal(plan: Plan) -> None:
    again = Plan.from_json(sealed.load(plan.dump(), Path("plan.json")))
    assert again == plan and again.hash == plan.hash
    assert plan.differences(again) == []


@given(st.integers(1, 1 << 20), st.integers(1, 1 << 22))
def test_chunks_are_pages_near_a_mebibyte(row_bytes: int, part_rows: int) -> None:
    chunk = layout.chunk_rows(row_bytes, part_rows)
    assert chunk & (chunk - 1) == 0
    size = chunk * row_bytes
    assert size <= 4 << 20
    if chunk < part_rows:
        assert size >= 0.66 * layout.CHUNK_BYTES
        assert size % layout.PAGE == 0 or layout.PAGE // (row_bytes & -row_bytes) * row_bytes > 4 << 20
    else:
        assert chunk < 2 * part_rows


@given(plans())
def test_capacities_fit_every_chunk(plan: Plan) -> None:
    for array in plan.arrays.values():
        assert array.capacity % array.chunk == 0
        assert array.capacity >= plan.rows_per_sample[array.space] * plan.samples_per_part
        assert array.capacity == plan.capacity(array.space)
        for rows in (0, 1, array.chunk, array.capacity):
            present = -(-rows // array.chunk)
            assert array.file_bytes(rows) == present * array.chunk * array.row_bytes + len(array.index(rows))


@settings(max_examples=40, deadline=None)
@given(plans(most_samples=25), st.randoms(use_true_random=False))
def test_a_store_holds_what_was_written(plan: Plan, random: object) -> None:
    """Against arrays in memory, however the rows were split into writes."""
    assert plan.samples is not None
    rng = np.random.default_rng(plan.seed)
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "s"
        kept: dict[str, list[np.ndarray]] = {name: [] for name in plan.arrays}
        with StoreWriter.open(path, plan, durable=False) as writer:
            for part in writer.todo():
                with writer.part(part) as attempt:
                    samples = plan.samples_of(part).tolist()
                    for _ in samples:
                        for space in plan.spaces:
                            n = int(rng.integers(0, plan.rows_per_sample[space] + 1))
                            table = torch.from_numpy(rng.integers(-1, 9, (n, 8), np.int32))
                            acts = {
                                s.name: torch.from_numpy(rng.normal(size=(n, s.width))).to(
                                    getattr(torch, s.dtype)
                                )
                                for s in plan.sites_of(space)
                            }
                            for begin, end in ((0, n // 3), (n // 3, n)):
                                attempt.write(
                                    space, table[begin:end], {k: v[begin:end] for k, v in acts.items()}
                                )
                            for name, x in [*acts.items(), (f"rows/{space}", table)]:
                                kept[name].append(x.float().numpy().astype(np.float64))
                    assert attempt.commit([{"sample": s, "key": str(s), "hash": "h"} for s in samples])
        assert verify(path).ok
        snapshot = read_commits(path)
        for name, array in plan.arrays.items():
            valid = np.concatenate(
                [np.arange(p * array.capacity, p * array.capacity + n) for p, n in zip(
                    snapshot.parts, snapshot.rows[array.space], strict=True)] or [np.empty(0, np.int64)]
            )  # fmt: skip
            found = zarr.open_array(path / name, mode="r")
            assert found.shape == (plan.parts * array.capacity, array.width)
            expected = np.concatenate([np.empty((0, array.width)), *kept[name]])
            np.testing.assert_array_equal(np.asarray(found[:][valid], np.float64), expected)


def test_differences_are_told_leaf_by_leaf(tmp_path: Path) -> None:
    stored = make_plan(selection={"per_sample": 32, "tokens": ["patch", "cls"]})
    asked = make_plan(selection={"per_sample": 64, "tokens": ["patch"], "seed": 1})
    assert differences(stored.identity_json, asked.identity_json) == [
        "selection.per_sample: store has 32, this run asks 64",
        'selection.tokens[1]: store has "cls", this run asks nothing',
        "selection.seed: store has nothing, this run asks 1",
    ]
    StoreWriter.open(tmp_path / "s", stored).close()
    before = {p: p.read_bytes() for p in (tmp_path / "s").rglob("*") if p.is_file()}
    with pytest.raises(PlanMismatchError, match=r"selection\.per_sample: store has 32, this run asks 64"):
        StoreWriter.open(tmp_path / "s", asked)
    assert before == {p: p.read_bytes() for p in (tmp_path / "s").rglob("*") if p.is_file()}
    noted = dataclasses.replace(stored, notes={"batch_size": 7})
    StoreWriter.open(tmp_path / "s", noted).close()


@pytest.mark.parametrize(
    "change",
    [
        {"samples": -1},
        {"samples_per_part": 0},
        {"order": "random"},
        {"samples": None, "order": "permuted"},
        {"sites": ()},
        {"rows_per_sample": {"vision": 1}},
        {"identity": {"samples": 3}},
        {"identity": {"x": float("nan")}},
        {"identity": {"x": object()}},
    ],
)
def test_bad_plans_are_refused(change: dict) -> None:
    with pytest.raises(ArgumentError):
        dataclasses.replace(make_plan(), **change)


@pytest.mark.parametrize("name", ["", "rows", "mmxai", "a/b", ".hidden", "__x", "a\nb", "x" * 201])
def test_bad_site_names_are_refused(name: str) -> None:
    with pytest.raises(ArgumentError, match="site name"):
        SiteSpec(name, 1, "float32", "s")


def test_a_plan_laid_out_otherwise_is_refused() -> None:
    document = json.loads(json.dumps(make_plan().to_json()))
    document["identity"]["spaces"]["vision"]["capacity"] *= 2
    with pytest.raises(StoreFormatError, match="capacity"):
        Plan.from_json(document)
    with pytest.raises(StoreFormatError, match="format"):
        Plan.from_json({**document, "format": 2})
