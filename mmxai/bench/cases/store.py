"""The store against a raw write, np.memmap, zarr-python and a sequential read, warm and cold."""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import time
from pathlib import Path

import ml_dtypes
import numpy as np
import torch
import zarr
from zarr.codecs import Crc32cCodec

import mmxai
from benchmarks.harness import Figure, Timing, copy_bandwidth, finish, interleave, ratio, run_tests
from mmxai.store import Plan, SiteSpec, StoreWriter
from mmxai.store.bfloat16 import BFloat16
from mmxai.types import Rows

WIDTH, SITE, SPACE = 768, "vision.0.resid_post", "vision"
ROWS = 262_144  # 403 MB of bfloat16
PER_SAMPLE = 64  # rows of a picture
PER_PART, BATCH = 65_536, 4_096
COLD_ROWS, COLD_RANDOM = 1_048_576, 4_096  # 1.6 GB
COLD_WINDOW = 65_536  # 100 MB: filling the first and draining the last overlap with nothing


def main(args: argparse.Namespace) -> int:
    run_tests("tests/store", "tests/kernels", "tests/stats")
    warm = Path(tempfile.mkdtemp(prefix="mmxai-bench-", dir=args.dir or tmpfs()))
    cold = Path(tempfile.mkdtemp(prefix="mmxai-bench-", dir=args.disk or "."))
    try:
        figures = [*_writes(warm), *_gathers(warm), *_epochs(warm), *_cold(cold)]
    finally:
        shutil.rmtree(warm)
        shutil.rmtree(cold)
    return finish("store", figures, args.json)


def tmpfs() -> str | None:
    return "/dev/shm" if os.path.isdir("/dev/shm") else None


def _data(rows: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Random activations, every row different, and their row table."""
    x = torch.randn(rows, WIDTH, generator=torch.Generator().manual_seed(0), dtype=torch.float32)
    place = torch.arange(rows, dtype=torch.int32)
    table = Rows.make(sample=place // PER_SAMPLE, position=place % PER_SAMPLE, token_type=1).table
    return x.to(torch.bfloat16), table


def _write_store(path: Path, x: torch.Tensor, table: torch.Tensor, per_part: int) -> None:
    """Our durable write: staged files, checksums, fsync, commit records; statistics off."""
    plan = Plan(
        samples=len(x) // PER_SAMPLE, samples_per_part=per_part // PER_SAMPLE, order="sequential", seed=0,
        sites=(SiteSpec(SITE, WIDTH, "bfloat16", SPACE),), rows_per_sample={SPACE: PER_SAMPLE}, identity={},
        notes={},
    )  # fmt: skip
    with StoreWriter.open(path, plan) as store:
        for part in store.todo():
            first = part * per_part
            with store.part(part) as writer:
                for start in range(first, min(first + per_part, len(x)), BATCH):
                    writer.write(SPACE, table[start : start + BATCH], {SITE: x[start : start + BATCH]})
                samples = [{"sample": i, "key": "k", "hash": "h"} for i in plan.samples_of(part).tolist()]
                writer.commit(samples, {}, {})


def _write_raw(path: Path, x: torch.Tensor, per_part: int) -> None:
    """The same bytes in files of the same size, written in the same pieces, each file fsynced."""
    path.mkdir()
    view = x.view(torch.int16).numpy()
    for first in range(0, len(view), per_part):
        with open(path / f"{first}", "wb", buffering=0) as file:
            for start in range(first, first + per_part, BATCH):
                file.write(view[start : start + BATCH].data.cast("B"))
            os.fsync(file.fileno())


def _write_zarr(path: Path, x: torch.Tensor, per_part: int, *, plain: bool) -> None:
    """zarr-python, a whole shard at a time, which is its best (rows as they arrive cost ten times that).

    The same array: bfloat16, fill value NaN, the same shards and inner chunks, a CRC-32C a chunk. `plain`:
    as little as it can do, 16-bit integers without checksums.
    """
    view = x.view(torch.int16).numpy()
    dtype, fill = ("int16", 0) if plain else (BFloat16(), float("nan"))
    array = zarr.create_array(
        store=str(path), shape=view.shape, dtype=dtype, fill_value=fill, chunks=(512, WIDTH),
        shards=(per_part, WIDTH), compressors=None if plain else [Crc32cCodec()], filters=None,
    )  # fmt: skip
    view = view if plain else view.view(ml_dtypes.bfloat16)
    for first in range(0, len(view), per_part):
        array[first : first + per_part] = view[first : first + per_part]


def _writes(folder: Path) -> list[Figure]:
    x, table = _data(ROWS)
    works = {
        "ours": lambda p: _write_store(p, x, table, PER_PART),
        "raw": lambda p: _write_raw(p, x, PER_PART),
        "zarr": lambda p: _write_zarr(p, x, PER_PART, plain=False),
        "plain zarr": lambda p: _write_zarr(p, x, PER_PART, plain=True),
    }
    timings = {name: Timing() for name in works}
    for turn in range(6):
        for name, work in works.items():
            path = folder / f"{name}-{turn}"
            start = time.perf_counter()
            work(path)
            seconds = time.perf_counter() - start
            shutil.rmtree(path)
            if turn:
                timings[name].seconds.append(seconds)
    rate = x.nbytes / timings["ours"].median / 1e9
    floor = f"raw {timings['raw']}"
    return [
        Figure("write_vs_raw", ratio(timings["raw"], timings["ours"]), ">= 0.7",
               f"{timings['ours']}, {rate:.2f} GB/s", floor),
        Figure("write_vs_zarr_python", ratio(timings["zarr"], timings["ours"]), ">= 3",
               f"the same array by zarr-python {timings['zarr']}", floor),
        Figure("write_vs_zarr_python_plain", ratio(timings["plain zarr"], timings["ours"]), None,
               f"int16, no checksums, no fsync {timings['plain zarr']}", floor),
    ]  # fmt: skip


def _gathers(folder: Path) -> list[Figure]:
    x, table = _data(ROWS)
    path = folder / "gather.zarr"
    _write_store(path, x, table, PER_PART)
    generator = np.random.default_rng(0)
    batches = [generator.integers(0, ROWS, BATCH) for _ in range(32)]
    # np.memmap's best case: all rows in one plain file.
    plain = folder / "plain.bin"
    x.view(torch.int16).numpy().tofile(plain)
    mapped = np.memmap(plain, np.int16, "r", shape=(ROWS, WIDTH))
    sites = {mode: mmxai.open_store(path, verify=mode)[SITE] for mode in ("never", "first-touch", "always")}
    sharded = zarr.open(str(path))[SITE]

    def ours(mode: str) -> None:
        for rows in batches:
            sites[mode].gather(rows)

    def memmap() -> None:
        for rows in batches:
            mapped[rows]

    taken = np.empty((BATCH, WIDTH), np.int16)

    def take() -> None:
        """numpy's fastest: into one buffer, bounds not checked one by one."""
        for rows in batches:
            np.take(mapped, rows, axis=0, out=taken, mode="clip")

    def zarr_python() -> None:
        sharded.oindex[np.sort(np.unique(batches[0])), :]

    timings = interleave(
        {"memmap": memmap, "take": take, **{mode: (lambda mode=mode: ours(mode)) for mode in sites}},
        repeats=7,
        warmup=2,
    )
    slow = interleave(
        {"zarr": zarr_python, "ours": lambda: sites["first-touch"].gather(batches[0])}, repeats=3
    )
    count = BATCH * len(batches)
    bandwidth = copy_bandwidth()
    floor = f"{2 * count * WIDTH * 2 / bandwidth * 1e3:.3g} ms (copy {bandwidth / 1e9:.1f} GB/s)"

    def rate(mode: str) -> str:
        return f"{count / timings[mode].median / 1e6:.2f} M rows/s, {timings[mode]}"

    return [
        Figure("gather_vs_memmap", ratio(timings["memmap"], timings["first-touch"]), ">= 2",
               f"first-touch {rate('first-touch')}; memmap {rate('memmap')}", floor),
        Figure("gather_vs_take", ratio(timings["take"], timings["first-touch"]), None, rate("take"), floor),
        *(
            Figure(f"gather_vs_memmap_{m}", ratio(timings["memmap"], timings[m]), None, rate(m), floor)
            for m in ("never", "always")
        ),
        Figure("gather_vs_zarr_python", ratio(slow["zarr"], slow["ours"]), ">= 100",
               f"zarr-python {BATCH / slow['zarr'].median / 1e3:.1f} k rows/s", floor),
    ]  # fmt: skip


def _epochs(folder: Path) -> list[Figure]:
    path = folder / "gather.zarr"
    plain = np.memmap(folder / "plain.bin", np.int16, "r", shape=(ROWS, WIDTH))
    whole = torch.from_numpy(np.asarray(plain).copy())

    out = torch.empty(BATCH, WIDTH, dtype=whole.dtype)

    def sequential() -> None:
        for start in range(0, ROWS, BATCH):
            out.copy_(whole[start : start + BATCH])

    with mmxai.open_store(path) as store:
        site, epoch = store[SITE], iter(range(1_000_000))

        def shuffled(**options: object) -> None:
            seen = sum(b.x.shape[0] for b in site.batches(BATCH, shuffle=True, seed=next(epoch), **options))
            if seen != ROWS:
                raise RuntimeError(f"an epoch had {seen} rows, expected {ROWS}")

        works = {
            "sequential": sequential,
            "shuffled": shuffled,
            "windowed": lambda: shuffled(window=ROWS // 4),
            "in order": lambda: sum(len(b.x) for b in site.batches(BATCH)),
        }
        timings = interleave(works, repeats=5, warmup=1)
    floor = f"contiguous copies into one buffer {timings['sequential']}"
    return [
        Figure("epoch_vs_sequential", ratio(timings["sequential"], timings["shuffled"]), ">= 0.3",
               f"{ROWS / timings['shuffled'].median / 1e6:.2f} M rows/s, {timings['shuffled']}", floor),
        Figure("epoch_windowed_vs_sequential", ratio(timings["sequential"], timings["windowed"]), None,
               f"{ROWS / timings['windowed'].median / 1e6:.2f} M rows/s", floor),
        Figure("epoch_in_order_vs_sequential", ratio(timings["sequential"], timings["in order"]), None,
               f"{ROWS / timings['in order'].median / 1e6:.2f} M rows/s", floor),
    ]  # fmt: skip


def _cold(folder: Path) -> list[Figure]:
    x, table = _data(COLD_ROWS // 4)
    path = folder / "cold.zarr"
    _write_store(path, x.repeat(4, 1), table.repeat(4, 1), PER_PART)
    del x
    shards = sorted(path.glob(f"{SITE}/c.*"))

    def drop() -> None:
        for file in path.rglob("c.*"):
            descriptor = os.open(file, os.O_RDONLY)
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)

    buffer = bytearray(8 << 20)

    def sequential() -> None:
        for file in shards:
            with open(file, "rb", buffering=0) as f:
                while f.readinto(buffer):
                    pass

    def windowed(seed: int) -> None:
        with mmxai.open_store(path) as store:
            for batch in store[SITE].batches(BATCH, shuffle=True, seed=seed, window=COLD_WINDOW):
                batch.x  # noqa: B018

    def random_rows() -> float:
        """Seconds of random rows, few enough that what the kernel reads around each helps no other."""
        rows = np.random.default_rng(0).choice(COLD_ROWS, COLD_RANDOM, replace=False)
        with mmxai.open_store(path, verify="never") as store:
            start = time.perf_counter()
            for first in range(0, COLD_RANDOM, 256):
                store[SITE].gather(rows[first : first + 256])
            return time.perf_counter() - start

    timings = {"sequential": Timing(), "windowed": Timing()}
    for turn in range(11):  # disks of shared machines vary more than anything else here
        for name, work in (("sequential", sequential), ("windowed", lambda t=turn: windowed(t))):
            drop()
            start = time.perf_counter()
            work()
            timings[name].seconds.append(time.perf_counter() - start)
    drop()
    cold_random = COLD_RANDOM / random_rows()
    nbytes = sum(f.stat().st_size for f in shards)
    sequential_rows = COLD_ROWS / timings["sequential"].median
    floor = f"cold read {nbytes / timings['sequential'].median / 1e9:.2f} GB/s, {timings['sequential']}"
    return [
        Figure("epoch_cold_windowed", ratio(timings["sequential"], timings["windowed"]), ">= 0.8",
               f"windows of {COLD_WINDOW:,} rows, {timings['windowed']}", floor),
        Figure("random_cold_vs_sequential", cold_random / sequential_rows, None,
               f"{cold_random / 1e3:.1f} k rows/s over {COLD_RANDOM:,} rows", floor),
    ]  # fmt: skip
