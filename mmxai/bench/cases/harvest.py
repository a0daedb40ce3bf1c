"""Packing and statistics, and a whole harvest, against the bare forward pass; peak memory.

The model is a ViT-B/32-sized CLIP vision tower with random weights, every `resid_post`, `mlp_post` and `z`;
`_small` is the tower of the shapes CLIP, whose forward is so short that everything beside it shows.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from mmxai.bench.cases._harvest_peers import against_peers
from mmxai.bench.cases._null import null_sink
from mmxai.bench.cases._vision import BATCH, SITES, Decoded, clip_base, clip_small, clip_tiny, harvest
from mmxai.bench.figures import Figure, interleave_paths, ratio
from mmxai.bench.floors import multiply_rate, operations_floor
from mmxai.bench.machine import PACKAGE
from mmxai.bench.memory import status
from mmxai.bench.options import Options
from mmxai.models import Model

TESTS = ("tests/harvesting", "tests/capture", "tests/models/test_clip.py")
GPU = False
PEAK_BOUND = 1 << 30
"""Bytes by which a harvest may grow the process, whatever the length of the data: the queue of 256 MiB, the
batch being packed, staging that is used again, a shard's index a site, decoded samples in flight."""


def run(options: Options) -> list[Figure]:
    with options.warm() as folder:
        if options.quick:
            model, count = clip_tiny(), 2 * BATCH
            figures = _against_forward(folder, "", model, count, options)
        else:
            model, count = clip_base(), 4 * BATCH
            figures = [
                *_against_forward(folder, "", model, count, options),
                *_against_forward(folder, "_small", clip_small(), 32 * BATCH, options),
            ]
        return [*figures, *against_peers(folder, model, count, options), *_memory(folder, options)]


def _against_forward(folder: Path, suffix: str, model: Model, count: int, options: Options) -> list[Figure]:
    data = Decoded(count, model.config.image_size)
    model.identity  # noqa: B018  hashing the weights is paid once a process, not once a harvest
    stored = 0

    def forward(path: Path) -> None:
        with torch.no_grad():
            for pixels in data.pixels.split(BATCH):
                model.module(pixel_values=pixels)

    def kept(path: Path) -> None:
        nonlocal stored
        harvest(model, data, path)
        stored = sum(f.stat().st_size for f in path.rglob("c.*"))

    works: dict[str, Callable[[Path], object]] = {
        "forward": forward,
        "packing": null_sink(model, data, SITES, stats=False),
        "capture": null_sink(model, data, SITES, stats=True),
        "plain": partial(harvest, model, data, stats=False),
        "harvest": kept,
    }
    timings = interleave_paths(folder, works, options.repeats(5))
    base = timings["forward"]
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model.module(pixel_values=data.pixels[:BATCH])
    floor = operations_floor(counter.get_total_flops() * (count // BATCH), multiply_rate())
    floor = f"forward {base} of {count} pictures, its floor {floor}"

    def figure(name: str, work: str, target: str | None, detail: str = "") -> Figure:
        timing = timings[work]
        return Figure(
            f"{name}_vs_forward{suffix}", ratio(timing, base), None if suffix else target,
            f"{timing}{detail}", floor,
        )  # fmt: skip

    rate = stored / timings["harvest"].median
    return [
        figure("capture", "capture", "<= 1.04", ", packing and statistics into a null sink"),
        figure("packing", "packing", None, ", no statistics"),
        figure("harvest", "harvest", "<= 1.15", f", statistics on, {rate / 1e6:.0f} MB/s stored"),
        figure("harvest_without_statistics", "plain", None),
    ]


def _memory(folder: Path, options: Options) -> list[Figure]:
    """Growth of a fresh process over its bare forward, for a short and a three times longer harvest."""
    if not Path("/proc/self/clear_refs").exists():
        return []
    growth = {}
    for count in (BATCH, 3 * BATCH) if options.quick else (3 * BATCH, 9 * BATCH):
        command = [
            sys.executable,
            "-m",
            "mmxai.bench.cases.harvest",
            "tiny" if options.quick else "base",
            str(count),
            str(folder),
        ]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, cwd=PACKAGE.parent)
        growth[count] = int(done.stdout.splitlines()[-1])
    return [
        Figure("peak_memory_gib", max(growth.values()) / 2**30, f"<= {PEAK_BOUND / 2**30:g}",
               ", ".join(f"{n} pictures {g / 2**20:.0f} MiB" for n, g in growth.items()),
               "0, the model and its bare forward"),
    ]  # fmt: skip


def _grown(which: str, count: int, folder: str) -> int:
    """In a process of its own: how many bytes the peak grew from the bare forward to the harvest's end."""
    model = clip_tiny() if which == "tiny" else clip_base()
    data = Decoded(count, model.config.image_size)
    with torch.no_grad():
        model.module(pixel_values=data.pixels[:BATCH])
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from what is resident now
    before = status("VmRSS")
    with tempfile.TemporaryDirectory(dir=folder) as path:
        harvest(model, data, Path(path) / "s.zarr")
    return status("VmHWM") - before


if __name__ == "__main__":
    print(_grown(sys.argv[1], int(sys.argv[2]), sys.argv[3]))
