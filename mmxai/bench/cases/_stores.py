"""The same activations written by mmxai, as raw files and by zarr-python."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import ml_dtypes
import torch
import zarr
from zarr.codecs import Crc32cCodec

from mmxai.store import Plan, SiteSpec, StoreWriter
from mmxai.store.bfloat16 import BFloat16
from mmxai.types import Rows

WIDTH, SITE, SPACE = 768, "vision.0.resid_post", "vision"
PER_SAMPLE = 64  # rows of a picture
BATCH = 4_096
PER_CHUNK = 512  # rows of an inner chunk


@dataclass(frozen=True)
class Shape:
    """Rows of bfloat16 `[rows, 768]`."""

    rows: int
    per_part: int
    cold_rows: int
    cold_random: int
    cold_window: int


FULL = Shape(262_144, 65_536, 1_048_576, 4_096, 65_536)
"""403 MB warm, 1.6 GB cold, windows of 100 MB: filling the first and draining the last overlaps nothing."""
QUICK = Shape(16_384, 8_192, 16_384, 1_024, 4_096)


def data(rows: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Random activations, every row different, and their row table."""
    x = torch.randn(rows, WIDTH, generator=torch.Generator().manual_seed(0), dtype=torch.float32)
    place = torch.arange(rows, dtype=torch.int32)
    table = Rows.make(sample=place // PER_SAMPLE, position=place % PER_SAMPLE, token_type=1).table
    return x.to(torch.bfloat16), table


def write_store(path: Path, x: torch.Tensor, table: torch.Tensor, per_part: int) -> None:
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


def write_raw(path: Path, x: torch.Tensor, per_part: int) -> None:
    """The same bytes in files of the same size, written in the same pieces, each file fsynced."""
    path.mkdir()
    view = x.view(torch.int16).numpy()
    for first in range(0, len(view), per_part):
        with open(path / f"{first}", "wb", buffering=0) as file:
            for start in range(first, first + per_part, BATCH):
                file.write(view[start : start + BATCH].data.cast("B"))
            os.fsync(file.fileno())


def write_zarr(path: Path, x: torch.Tensor, per_part: int, *, plain: bool) -> None:
    """zarr-python, a whole shard at a time, which is its best (rows as they arrive cost ten times that).

    The same array: bfloat16, fill value NaN, the same shards and inner chunks, a CRC-32C a chunk. `plain`:
    as little as it can do, 16-bit integers without checksums.
    """
    view = x.view(torch.int16).numpy()
    dtype, fill = ("int16", 0) if plain else (BFloat16(), float("nan"))
    array = zarr.create_array(
        store=str(path), shape=view.shape, dtype=dtype, fill_value=fill, chunks=(PER_CHUNK, WIDTH),
        shards=(per_part, WIDTH), compressors=None if plain else [Crc32cCodec()], filters=None,
    )  # fmt: skip
    view = view if plain else view.view(ml_dtypes.bfloat16)
    for first in range(0, len(view), per_part):
        array[first : first + per_part] = view[first : first + per_part]
