"""A harvest against the bare forward pass on the same batches, and its peak memory."""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

import mmxai
from benchmarks.harness import ROOT, Figure, Timing, finish, ratio, run_tests
from benchmarks.store import tmpfs
from mmxai.data import Sample, Source
from mmxai.models import Model
from mmxai.models.load import build

SITES = ("vision.*.resid_post", "vision.*.mlp_post", "vision.*.z")
BATCH = 32
PEAK_BOUND = 1 << 30
"""Bytes by which a harvest may grow the process, whatever the length of the data: the queue of 256 MiB, the
batch being packed, staging that is used again, a shard's index a site, decoded samples in flight."""


def main(args: argparse.Namespace) -> int:
    if args.child is not None:
        return child(args.child, args.dir)
    run_tests("tests/harvesting", "tests/capture", "tests/models/test_clip.py")
    folder = Path(tempfile.mkdtemp(prefix="mmxai-bench-", dir=args.dir or tmpfs()))
    try:
        figures = [
            *_against_forward(folder, "", clip_base(), 128),
            *_against_forward(folder, "_small", clip_small(), 1024),
            *_memory(folder),
        ]
    finally:
        shutil.rmtree(folder)
    return finish("harvest", figures, args.json)


def clip_base() -> Model:
    """The vision tower of CLIP ViT-B/32 (88M parameters), random weights."""
    from transformers import CLIPVisionConfig

    return _random(CLIPVisionConfig(image_size=224, patch_size=32))  # the class's defaults are ViT-B's widths


def clip_small() -> Model:
    """The 64-pixel vision tower of the shapes CLIP, random weights."""
    from mmxai.shapes.model import clip_config

    return _random(clip_config(64).vision_config)


def _random(config: Any) -> Model:
    from transformers import CLIPImageProcessorPil, CLIPVisionModelWithProjection

    torch.manual_seed(0)
    module = CLIPVisionModelWithProjection(config).eval()
    return build(module, name="random", config=config, processor=CLIPImageProcessorPil(), tokenizer=None)


class Decoded(Source):
    """Pictures that are tensors already, so that decoding is in neither side of the ratio."""

    def __init__(self, count: int, size: int):
        self._count = count
        self.pixels = torch.randn(BATCH, 3, size, size, generator=torch.Generator().manual_seed(0))

    @property
    def identity(self) -> dict[str, Any]:
        return {"kind": "random pixels", "count": self._count}

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Sample:
        return Sample(str(index), tensors={"pixel_values": self.pixels[index % BATCH]}, digest="0")


def _run(model: Model, data: Decoded, path: Path, stats: bool) -> None:
    mmxai.harvest(
        model, data, sites=list(SITES), store=path, batch_size=BATCH, stats=stats, progress=False,
        order="sequential",
    )  # fmt: skip


def _against_forward(folder: Path, suffix: str, model: Model, count: int) -> list[Figure]:
    size = model.config.image_size
    data = Decoded(count, size)
    model.identity  # noqa: B018  hashing the weights is paid once a process, not once a harvest

    def forward(path: Path) -> None:
        with torch.no_grad():
            for _ in range(count // BATCH):
                model.module(pixel_values=data.pixels)

    works = {
        "forward": forward,
        "harvest": lambda path: _run(model, data, path, stats=False),
        "statistics": lambda path: _run(model, data, path, stats=True),
    }
    timings = {name: Timing() for name in works}
    for turn in range(6):
        for name, work in works.items():
            path = folder / f"{name}-{turn}"
            start = time.perf_counter()
            work(path)
            seconds = time.perf_counter() - start
            nbytes = sum(f.stat().st_size for f in path.rglob("c.*"))
            shutil.rmtree(path, ignore_errors=True)
            if turn:
                timings[name].seconds.append(seconds)
            if name == "harvest":
                stored = nbytes
    rate = stored / timings["harvest"].median
    floor = f"forward {timings['forward']}, {count} pictures"
    return [
        Figure(f"harvest_vs_forward{suffix}", ratio(timings["harvest"], timings["forward"]),
               None if suffix else "<= 1.15", f"{timings['harvest']}, {rate / 1e6:.0f} MB/s stored", floor),
        Figure(f"harvest_with_statistics_vs_forward{suffix}",
               ratio(timings["statistics"], timings["forward"]), None, str(timings["statistics"]), floor),
    ]  # fmt: skip


def _memory(folder: Path) -> list[Figure]:
    """Growth of a fresh process over its bare forward, for a short and a three times longer harvest."""
    growth = {}
    for count in (96, 288):
        command = [sys.executable, "-m", "benchmarks", "harvest", "--child", str(count), "--dir", str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
        growth[count] = int(done.stdout.splitlines()[-1])
    return [
        Figure("peak_memory_gib", max(growth.values()) / 2**30, f"<= {PEAK_BOUND / 2**30:g}",
               ", ".join(f"{n} pictures {g / 2**20:.0f} MiB" for n, g in growth.items()),
               "over model and bare forward"),
    ]  # fmt: skip


def child(count: int, folder: str | None) -> int:
    """In a process of its own: how many bytes the peak grew from the bare forward to the harvest's end."""
    model = clip_base()
    data = Decoded(count, model.config.image_size)
    with torch.no_grad():
        model.module(pixel_values=data.pixels)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from what is resident now
    before = _status("VmRSS")
    with tempfile.TemporaryDirectory(dir=folder or tmpfs()) as path:
        _run(model, data, Path(path) / "s.zarr", stats=True)
    print(_status("VmHWM") - before)
    return 0


def _status(field: str) -> int:
    """Bytes of a field of /proc/self/status; ru_maxrss would begin at the parent's peak."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))
