"""Stores made from another's rows, part by part: whose rows, in which order, shared with other workers."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import mmxai
from mmxai.methods.decompose import Dictionary, encode_store
from mmxai.share import share
from mmxai.store import StoreWriter
from mmxai.store.derived import parts_to_make, rows_of_part, samples_of_part
from mmxai.store.select import RowFilter
from mmxai.types import TOKEN_CODES, Rows

ROOT = Path(__file__).resolve().parents[2]
SITE, WIDTH, PARTS, PART = "vision.0.resid_post", 6, 6, 4
EVERY = RowFilter.parse(None, None, (0.8, 0.1, 0.1))
PATCHES = RowFilter.parse("patch", None, (0.8, 0.1, 0.1))

WORKER = """
import sys, time
from pathlib import Path
from mmxai.methods.decompose import encode_store, load_dictionary
from mmxai.store import StoreWriter, open_store
kind, source, out, dictionary, share = sys.argv[1:]
if kind == "hold":
    from mmxai.store.snapshot import load_plan
    with StoreWriter.open(out, load_plan(Path(out))) as writer:
        writer.claim(int(share))
        print("held", flush=True)
        time.sleep(600)
with open_store(source) as store:
    print("ready", flush=True)
    sys.stdin.readline()
    encode_store([load_dictionary(dictionary)], store, out, part_of=share)
"""


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Six parts of four samples of a class token and two patches each; part 2 has samples and no rows, and
    part 3 was never committed."""
    path = tmp_path_factory.mktemp("derived") / "acts.zarr"
    draw = torch.Generator().manual_seed(0)
    with mmxai.create_store(
        path, {SITE: WIDTH}, dtype="float32", space="vision", samples_per_part=PART
    ) as writer:
        for part in range(PARTS):
            n = 0 if part == 2 else 3 * PART
            number = torch.arange(n, dtype=torch.int32)
            rows = Rows.make(
                sample=number // 3, position=number % 3,
                token_type=torch.where(number % 3 == 0, TOKEN_CODES["cls"], TOKEN_CODES["patch"]).int(),
            )  # fmt: skip
            samples = [{"key": f"s{PART * part + i}", "text": f"{part}, {i}"} for i in range(PART)]
            writer.write(samples, {SITE: torch.randn(n, WIDTH, generator=draw)}, rows=rows)
    (path / "mmxai/commits/3.json").unlink()
    with mmxai.open_store(path) as store:
        yield store


@pytest.fixture(scope="module")
def dictionary(tmp_path_factory):
    directions = torch.randn(3, WIDTH, generator=torch.Generator().manual_seed(1))
    made = Dictionary("kmeans", SITE, directions, torch.zeros(WIDTH), tokens="patch")
    return made, made.save(tmp_path_factory.mktemp("dictionary"))


def arrays(path):
    """What a store says: codes, row table, statistics and samples."""
    with mmxai.open_store(path) as store:
        (site,) = store.sites
        stats = store.stats[site]
        return (
            store.view.snapshot.parts.tolist(), store[site][:], store[site].rows.read().table,
            stats.topk_values, stats.topk_rows, [(s.sample, s.key, s.text) for s in store.samples],
        )  # fmt: skip


def same(one, two):
    assert one[0] == two[0] and one[-1] == two[-1]
    for a, b in zip(one[1:-1], two[1:-1], strict=True):
        assert np.array_equal(np.asarray(a.float()), np.asarray(b.float()))


def worker(*arguments):
    return subprocess.Popen(
        [sys.executable, "-c", WORKER, *map(str, arguments)], stdin=subprocess.PIPE, text=True,
        stdout=subprocess.PIPE, env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip


def test_rows_of_parts_are_all_rows_in_order(source):
    found = [rows_of_part(source, "vision", part, EVERY) for part in (0, 1, 2, 4, 5)]
    assert np.concatenate([rows for rows, _ in found]).tolist() == list(range(4 * 3 * PART))
    every = source[SITE].rows.read().table
    assert torch.equal(torch.cat([who for _, who in found]), every)
    assert len(found[2][0]) == 0 and found[2][1].shape == (0, every.shape[1])
    rows, who = rows_of_part(source, "vision", 4, PATCHES)  # behind the one that is not there
    assert set(who[:, 0].tolist()) == {16, 17, 18, 19} and len(rows) == 2 * PART
    assert torch.equal(who, every[rows]) and (who[:, 4] == TOKEN_CODES["patch"]).all() and who.is_contiguous()


def test_samples_are_those_of_the_source(source):
    lines = samples_of_part(source, 4)
    assert [(line["sample"], line["key"], line["text"]) for line in lines] == [
        (16 + i, f"s{16 + i}", f"4, {i}") for i in range(PART)
    ]
    assert len(samples_of_part(source, 2)) == PART


def test_a_worker_makes_its_own_share_first_and_then_helps(source, dictionary, tmp_path):
    encode_store([dictionary[0]], source, tmp_path / "all")
    with mmxai.open_store(tmp_path / "all") as made:
        plan = made.plan
    for rank, expected in ((0, [0, 2, 4, 1, 5]), (1, [1, 5, 0, 2, 4])):
        with StoreWriter.open(tmp_path / f"{rank}", plan) as writer:
            assert list(parts_to_make(writer, source, rank, 2)) == expected  # 3 is not in the source
            assert list(parts_to_make(writer, source, rank, 2)) == []  # all are claimed
    with StoreWriter.open(tmp_path / "all", plan) as writer:
        assert list(parts_to_make(writer, source, *share("1/2"))) == []  # all are committed


def test_two_workers_at_once_make_what_one_makes(source, dictionary, tmp_path):
    encode_store([dictionary[0]], source, tmp_path / "one")
    both = [worker("encode", source.path, tmp_path / "two", dictionary[1], f"{rank}/2") for rank in range(2)]
    for process in both:
        assert process.stdout.readline() == "ready\n"
    for process in both:
        process.stdin.write("go\n")
        process.stdin.flush()
    assert [process.wait(120) for process in both] == [0, 0]
    same(arrays(tmp_path / "one"), arrays(tmp_path / "two"))
    assert len(arrays(tmp_path / "two")[1]) == 4 * 2 * PART


def test_what_another_worker_holds_is_left_to_it_until_it_dies(source, dictionary, tmp_path):
    out = tmp_path / "codes"
    encode_store([dictionary[0]], source, tmp_path / "one")
    with mmxai.open_store(tmp_path / "one") as made:
        plan = made.plan
    StoreWriter.open(out, plan).close()
    other = worker("hold", source.path, out, dictionary[1], 4)
    assert other.stdout.readline() == "held\n"
    encode_store([dictionary[0]], source, out)
    assert arrays(out)[0] == [0, 1, 2, 5]
    other.send_signal(signal.SIGKILL)
    other.wait(30)
    before = {p: p.stat().st_mtime_ns for p in (out / "mmxai/commits").glob("*.json")}
    assert len(before) == 4
    encode_store([dictionary[0]], source, out, part_of="1/2")
    assert {p: p.stat().st_mtime_ns for p in before} == before  # what was there is not made again
    same(arrays(tmp_path / "one"), arrays(out))
