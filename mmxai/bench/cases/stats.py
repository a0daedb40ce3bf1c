"""Packing with per-neuron statistics in one pass, against torch and one copy of the same bytes.

The work: a stream of batches from an empty state, as a part of a harvest is: rows packed as bfloat16, and of
every neuron mean, M2, least, largest and the k largest values with their rows.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from mmxai.bench.cases._rivals import Best, Compiled, Plain
from mmxai.bench.cases._stats_peers import against_peers
from mmxai.bench.figures import Figure, Timing, UnequalWorkError, interleave, ratio
from mmxai.bench.floors import bytes_floor
from mmxai.bench.options import Options
from mmxai.kernels._dispatch import unavailable
from mmxai.kernels.capture import OP, NeuronState, capture

TESTS = ("tests/kernels", "tests/stats")
GPU = False

DRIFT = 0.3
"""Neurons differ in scale and in mean, as a model's do."""


@dataclass(frozen=True)
class Work:
    """`batches` batches `[rows, width]` of `dtype`."""

    suffix: str
    rows: int
    width: int
    k: int
    dtype: torch.dtype
    batches: int

    def stream(self, device: str = "cpu") -> list[torch.Tensor]:
        made: dict[str, Any] = {"generator": torch.Generator(device).manual_seed(0), "device": device}
        scale = torch.rand(self.width, **made) + 0.5
        shift = torch.randn(self.width, **made) * DRIFT
        return [
            torch.randn(self.rows, self.width, **made).mul_(scale).add_(shift).to(self.dtype)
            for _ in range(self.batches)
        ]

    def __str__(self) -> str:
        return f"{self.rows} x {self.width} {str(self.dtype).removeprefix('torch.')}, k = {self.k}"


FULL = (
    Work("", 8192, 3072, 16, torch.float32, 8),
    Work("_bf16", 8192, 3072, 16, torch.bfloat16, 8),
    Work("_k64", 8192, 3072, 64, torch.float32, 4),
    Work("_8k", 8192, 8192, 16, torch.float32, 3),
)
QUICK = (Work("", 512, 96, 4, torch.float32, 2), Work("_bf16", 512, 96, 4, torch.bfloat16, 2))

TARGETS = {"torch": ">= 15", "torch_best": ">= 6", "floor": "<= 2.5", "numba": ">= 5"}
"""For the two works the issue names; the floor for float32 alone."""


def run(options: Options) -> list[Figure]:
    figures: list[Figure] = []
    for work in QUICK if options.quick else FULL:
        batches = work.stream()
        figures += _measure(work, batches, options)
        if work.suffix == "":
            figures += against_peers(batches, work.k, partial(fused, batches, work.k), options)
    return figures


def fused(
    batches: Sequence[torch.Tensor], k: int, out: torch.Tensor | None = None, backend: str = "auto"
) -> NeuronState:
    """Ours: every batch packed into `out` and taken into one state."""
    device = batches[0].device
    state = NeuronState(batches[0].shape[1], k, device=device)
    out = torch.empty(batches[0].shape, dtype=torch.bfloat16, device=device) if out is None else out
    for i, x in enumerate(batches):
        capture(x[None], None, out, state, i * len(x), backend=backend)
    return state


def _measure(work: Work, batches: Sequence[torch.Tensor], options: Options) -> list[Figure]:
    out = torch.empty(work.rows, work.width, dtype=torch.bfloat16)
    copied = torch.empty_like(batches[0])
    ended: dict[str, NeuronState | Plain] = {}

    def ours(backend: str) -> Callable[[], None]:
        def run() -> None:
            ended[backend] = fused(batches, work.k, out, backend)

        return run

    def torch_way(name: str, make: Callable[[], Plain]) -> Callable[[], None]:
        def run() -> None:
            rival = make()
            for x in batches:
                rival(x, out)
            ended[name] = rival

        return run

    def copy() -> None:
        for x in batches:
            copied.copy_(x)

    def pack() -> None:
        for x in batches:
            capture(x[None], None, out, None, 0)

    works: dict[str, Callable[[], None]] = {
        "copy": copy,
        "pack": pack,
        "auto": ours("auto"),
        "torch": torch_way("torch", lambda: Plain(work.width, work.k)),
        "blocked": torch_way("blocked", lambda: Best(work.width, work.k)),
    }
    if "numba" in OP.backends("cpu") and unavailable("numba") is None:
        works["numba"] = ours("numba")
    if shutil.which("c++") and not options.quick:  # torch.compile needs a compiler, and half a minute
        works["compiled"] = torch_way("compiled", lambda: Compiled(work.width, work.k))
    timings = interleave(works, options.repeats(5))
    for name, rival in ended.items():
        agree(name, rival, ended["auto"])
    return _figures(work, batches[0], out, {n: t.per(len(batches)) for n, t in timings.items()})


def _figures(work: Work, x: torch.Tensor, out: torch.Tensor, timings: dict[str, Timing]) -> list[Figure]:
    """`timings` are of one batch."""
    ours, copy = timings["auto"], timings["copy"]
    moved = x.nbytes + out.nbytes
    floor = bytes_floor(moved, 2 * x.nbytes / copy.median)
    best = min((n for n in ("blocked", "compiled") if n in timings), key=lambda n: timings[n].median)
    judged = work.suffix in ("", "_bf16")
    what = f"{work}: {ours}"

    def figure(name: str, value: float, target: str | None, detail: str) -> Figure:
        return Figure(name + work.suffix, value, target, detail, floor)

    figures = [
        figure("fused_vs_torch", ratio(timings["torch"], ours), TARGETS["torch"] if judged else None,
               f"{what}; torch {timings['torch']}"),
        figure("fused_vs_torch_best", ratio(timings[best], ours), TARGETS["torch_best"] if judged else None,
               f"torch, {best} {timings[best]}"),
        figure("fused_vs_floor", ratio(ours, copy) * 2 * x.nbytes / moved,
               TARGETS["floor"] if work.suffix == "" else None,
               f"{what}, {moved / ours.median / 1e9:.3g} GB/s"),
        figure("fused_vs_pack", ratio(ours, timings["pack"]), None, f"packing alone {timings['pack']}"),
    ]  # fmt: skip
    if "numba" in timings:
        value, target = ratio(timings["torch"], timings["numba"]), TARGETS["numba"] if judged else None
        figures.append(figure("numba_vs_torch", value, target, f"numba {timings['numba']}"))
    return figures


def agree(name: str, rival: NeuronState | Plain, ours: NeuronState | Plain) -> None:
    """Raise unless a rival found what we did."""
    if not torch.equal(_lists(ours), _lists(rival)):
        raise UnequalWorkError(f"stats: {name} found other largest values than capture did")
    for mine, theirs in zip(_moments(ours), _moments(rival), strict=True):
        if not torch.allclose(mine, theirs, rtol=1e-2, atol=1e-2):
            raise UnequalWorkError(f"stats: {name} found other moments than capture did")


def _lists(side: NeuronState | Plain) -> torch.Tensor:
    """Least, largest and top-k values as bfloat16: rounding keeps order, so equal lists stay equal."""
    if isinstance(side, NeuronState):
        found = [side.extremes, side.top_values]
    else:
        found = [side.low[None], side.high[None], side.values]
    return torch.cat(found).bfloat16()


def _moments(side: NeuronState | Plain) -> tuple[torch.Tensor, torch.Tensor]:
    if isinstance(side, NeuronState):
        mean, m2 = side.moments
    else:
        mean, m2 = side.mean.double(), side.m2.double()
    return mean, (m2 / side.count).sqrt()
