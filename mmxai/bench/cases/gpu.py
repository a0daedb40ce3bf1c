"""The kernels on a CUDA GPU: packing with statistics against torch and one device copy of the same bytes.

The work is that of `stats`, on the device. The clock stops when the device has finished.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch

from mmxai.bench.cases._null import null_sink
from mmxai.bench.cases._rivals import Best, Plain
from mmxai.bench.cases._vision import BATCH, SITES, Decoded, clip_base, clip_tiny
from mmxai.bench.cases.stats import Work, agree, fused
from mmxai.bench.figures import Figure, Timing, interleave, ratio
from mmxai.bench.floors import bytes_floor
from mmxai.bench.options import Options
from mmxai.kernels._dispatch import unavailable
from mmxai.kernels.capture import OP, NeuronState

TESTS = ("tests/kernels", "tests/stats", "tests/capture")
GPU = True

FULL = (
    Work("", 65536, 4096, 16, torch.bfloat16, 4),
    Work("_k64", 65536, 4096, 64, torch.bfloat16, 4),
    Work("_8k", 32768, 8192, 16, torch.bfloat16, 4),
    Work("_f32", 32768, 4096, 16, torch.float32, 4),
)
QUICK = (Work("", 512, 96, 4, torch.bfloat16, 2),)

TARGETS = {"copy": ">= 0.7", "torch": ">= 10"}
"""For the work the issue names, on the backend that is chosen."""


def run(options: Options) -> list[Figure]:
    backends = [b for b in OP.backends("cuda") if b != "reference" and unavailable(b) is None]
    works = QUICK if options.quick else FULL
    return [*(f for work in works for f in measure(work, options, backends)), against_forward(options)]


def measure(work: Work, options: Options, backends: Sequence[str], device: str = "cuda") -> list[Figure]:
    batches = work.stream(device)
    out = torch.empty(work.rows, work.width, dtype=torch.bfloat16, device=device)
    copied = torch.empty_like(batches[0])
    ended: dict[str, NeuronState | Plain] = {}

    def ours(backend: str) -> Callable[[], None]:
        def run() -> None:
            ended[backend] = fused(batches, work.k, out, backend)

        return run

    def torch_way(name: str, kind: type[Plain]) -> Callable[[], None]:
        def run() -> None:
            with torch.device(device):
                rival = kind(work.width, work.k)
                for x in batches:
                    rival(x, out)
            ended[name] = rival

        return run

    def copy() -> None:
        for x in batches:
            copied.copy_(x)

    works = {"copy": copy, "auto": ours("auto"), "torch": torch_way("torch", Plain)}
    works["torch_best"] = torch_way("torch_best", Best)
    works |= {backend: ours(backend) for backend in backends}
    turns = {name: partial(_finished, device, work) for name, work in works.items()}
    timings = interleave(turns, options.repeats(7), warmup=2)
    for name, rival in ended.items():
        agree(name, rival, ended["auto"])
    return _figures(work, batches[0], out, {n: t.per(len(batches)) for n, t in timings.items()}, backends)


def _finished(device: str, work: Callable[[], None]) -> None:
    work()
    torch.get_device_module(device).synchronize()


def _figures(
    work: Work, x: torch.Tensor, out: torch.Tensor, timings: dict[str, Timing], backends: Sequence[str]
) -> list[Figure]:
    """`timings` are of one batch."""
    copy, moved = timings["copy"], x.nbytes + out.nbytes
    floor = bytes_floor(moved, 2 * x.nbytes / copy.median, "device copy")
    judged = work.suffix == ""

    def of_copy(side: str) -> tuple[float, str]:
        """Our bandwidth over the copy's: 1 is as fast as one read and one write can be."""
        timing = timings[side]
        return (
            ratio(copy, timing) * moved / (2 * x.nbytes),
            f"{work}: {side} {timing}, {moved / timing.median / 1e12:.3g} TB/s",
        )

    value, detail = of_copy("auto")
    figures = [
        Figure(f"gpu_fused_vs_copy{work.suffix}", value, TARGETS["copy"] if judged else None, detail, floor)
    ]
    for backend in backends:
        value, detail = of_copy(backend)
        figures.append(Figure(f"gpu_{backend}_vs_copy{work.suffix}", value, None, detail, floor))
    for rival in ("torch", "torch_best"):
        target = TARGETS["torch"] if judged and rival == "torch" else None
        value, detail = ratio(timings[rival], timings["auto"]), f"{rival} {timings[rival]}"
        figures.append(Figure(f"gpu_fused_vs_{rival}{work.suffix}", value, target, detail, floor))
    return figures


def against_forward(options: Options, device: str = "cuda") -> Figure:
    """A ViT-B/32-sized tower in bfloat16 whose sites are packed, summed up and copied to pinned memory."""
    model = clip_tiny() if options.quick else clip_base()
    model.module.to(device=device, dtype=torch.bfloat16)
    count = BATCH * (2 if options.quick else 64)
    data = Decoded(count, model.config.image_size)
    pixels = data.pixels.to(device, torch.bfloat16)

    def forward() -> None:
        with torch.no_grad():
            for _ in range(count // BATCH):
                model.module(pixel_values=pixels)

    sink = null_sink(model, data, SITES, stats=True)
    works = {"forward": forward, "capture": lambda: sink(Path())}
    timings = interleave(
        {n: partial(_finished, device, w) for n, w in works.items()}, options.repeats(7), warmup=2
    )
    return Figure(
        "gpu_capture_vs_forward", ratio(timings["capture"], timings["forward"]), None,
        f"{count} pictures, {len(model.resolve(SITES))} sites: {timings['capture']}, into pinned memory",
        f"forward {timings['forward']}",
    )  # fmt: skip
