"""The store against a raw write, np.memmap, zarr-python and a sequential read, warm and cold."""

from __future__ import annotations

import os
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import zarr

import mmxai
from mmxai.bench.cases._store_peers import against_peers
from mmxai.bench.cases._stores import (
    BATCH,
    FULL,
    QUICK,
    SITE,
    WIDTH,
    Shape,
    data,
    write_raw,
    write_store,
    write_zarr,
)  # fmt: skip
from mmxai.bench.figures import Figure, Timing, interleave, interleave_paths, ratio
from mmxai.bench.floors import bytes_floor, copy_bandwidth
from mmxai.bench.options import Options

TESTS = ("tests/store", "tests/kernels", "tests/stats")
GPU = False


def run(options: Options) -> list[Figure]:
    shape = QUICK if options.quick else FULL
    with options.warm() as warm, options.cold() as cold:
        return [
            *_writes(warm, shape, options),
            *_gathers(warm, shape, options),
            *_epochs(warm, shape, options),
            *against_peers(warm, shape, options),
            *_cold(cold, shape, options),
        ]


def _writes(folder: Path, shape: Shape, options: Options) -> list[Figure]:
    x, table = data(shape.rows)
    works = {
        "ours": lambda p: write_store(p, x, table, shape.per_part),
        "raw": lambda p: write_raw(p, x, shape.per_part),
        "zarr": lambda p: write_zarr(p, x, shape.per_part, plain=False),
        "plain zarr": lambda p: write_zarr(p, x, shape.per_part, plain=True),
    }
    timings = interleave_paths(folder, works, options.repeats(5))
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


def _gathers(folder: Path, shape: Shape, options: Options) -> list[Figure]:
    x, table = data(shape.rows)
    path = folder / "gather.zarr"
    write_store(path, x, table, shape.per_part)
    generator = np.random.default_rng(0)
    batches = [generator.integers(0, shape.rows, BATCH) for _ in range(32)]
    # np.memmap's best case: all rows in one plain file.
    plain = folder / "plain.bin"
    x.view(torch.int16).numpy().tofile(plain)
    mapped = np.memmap(plain, np.int16, "r", shape=(shape.rows, WIDTH))
    sites = {mode: mmxai.open_store(path, verify=mode)[SITE] for mode in ("never", "first-touch", "always")}
    sharded = zarr.open_array(str(path), path=SITE)

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
        {"memmap": memmap, "take": take, **{mode: partial(ours, mode) for mode in sites}},
        repeats=options.repeats(7),
        warmup=2,
    )
    slow = interleave(
        {"zarr": zarr_python, "ours": lambda: sites["first-touch"].gather(batches[0])},
        repeats=options.repeats(3),
    )
    count = BATCH * len(batches)
    bandwidth = copy_bandwidth()
    # One read: what is written stays in the cache.
    floor = bytes_floor(count * WIDTH * 2, bandwidth)
    one_batch = bytes_floor(BATCH * WIDTH * 2, bandwidth)

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
               f"zarr-python {BATCH / slow['zarr'].median / 1e3:.1f} k rows/s", one_batch),
    ]  # fmt: skip


def _epochs(folder: Path, shape: Shape, options: Options) -> list[Figure]:
    path = folder / "gather.zarr"
    plain = np.memmap(folder / "plain.bin", np.int16, "r", shape=(shape.rows, WIDTH))
    whole = torch.from_numpy(np.asarray(plain).copy())

    out = torch.empty(BATCH, WIDTH, dtype=whole.dtype)

    def sequential() -> None:
        for start in range(0, shape.rows, BATCH):
            out.copy_(whole[start : start + BATCH])

    with mmxai.open_store(path) as store:
        site, epoch = store[SITE], iter(range(1_000_000))

        def shuffled(**how: Any) -> None:
            seen = sum(b.x.shape[0] for b in site.batches(BATCH, shuffle=True, seed=next(epoch), **how))
            if seen != shape.rows:
                raise RuntimeError(f"an epoch had {seen} rows, expected {shape.rows}")

        works = {
            "sequential": sequential,
            "shuffled": shuffled,
            "windowed": lambda: shuffled(window=shape.rows // 4),
            "in order": lambda: sum(len(b.x) for b in site.batches(BATCH)),
        }
        timings = interleave(works, repeats=options.repeats(5), warmup=1)
    floor = f"contiguous copies into one buffer {timings['sequential']}"
    return [
        Figure("epoch_vs_sequential", ratio(timings["sequential"], timings["shuffled"]), ">= 0.3",
               f"{shape.rows / timings['shuffled'].median / 1e6:.2f} M rows/s, {timings['shuffled']}", floor),
        Figure("epoch_windowed_vs_sequential", ratio(timings["sequential"], timings["windowed"]), None,
               f"{shape.rows / timings['windowed'].median / 1e6:.2f} M rows/s", floor),
        Figure("epoch_in_order_vs_sequential", ratio(timings["sequential"], timings["in order"]), None,
               f"{shape.rows / timings['in order'].median / 1e6:.2f} M rows/s", floor),
    ]  # fmt: skip


def _cold(folder: Path, shape: Shape, options: Options) -> list[Figure]:
    x, table = data(shape.cold_rows // 4)
    path = folder / "cold.zarr"
    write_store(path, x.repeat(4, 1), table.repeat(4, 1), shape.per_part)
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
            for batch in store[SITE].batches(BATCH, shuffle=True, seed=seed, window=shape.cold_window):
                batch.x  # noqa: B018

    def random_rows() -> float:
        """Seconds of random rows, few enough that what the kernel reads around each helps no other."""
        rows = np.random.default_rng(0).choice(shape.cold_rows, shape.cold_random, replace=False)
        with mmxai.open_store(path, verify="never") as store:
            start = time.perf_counter()
            for first in range(0, shape.cold_random, 256):
                store[SITE].gather(rows[first : first + 256])
            return time.perf_counter() - start

    timings = {"sequential": Timing(), "windowed": Timing()}
    for turn in range(options.repeats(11)):  # disks of shared machines vary more than anything else here
        for name, work in (("sequential", sequential), ("windowed", lambda t=turn: windowed(t))):
            drop()
            start = time.perf_counter()
            work()
            timings[name].seconds.append(time.perf_counter() - start)
    drop()
    cold_random = shape.cold_random / random_rows()
    nbytes = sum(f.stat().st_size for f in shards)
    sequential_rows = shape.cold_rows / timings["sequential"].median
    floor = f"cold read {nbytes / timings['sequential'].median / 1e9:.2f} GB/s, {timings['sequential']}"
    return [
        Figure("epoch_cold_windowed", ratio(timings["sequential"], timings["windowed"]), ">= 0.8",
               f"windows of {shape.cold_window:,} rows, {timings['windowed']}", floor),
        Figure("random_cold_vs_sequential", cold_random / sequential_rows, None,
               f"{cold_random / 1e3:.1f} k rows/s over {shape.cold_random:,} rows", floor),
    ]  # fmt: skip
