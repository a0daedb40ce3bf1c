"""Network dissection against dense torch and NetDissect's loop, and SoftWPMI against CLIP-Dissect's.

Ours does all pictures, and all neurons; rivals go picture by picture and neuron by neuron: they do some, and
their time is scaled. Label maps, activations and thresholds are in memory on every side.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch

from mmxai.bench.cases import _softwpmi
from mmxai.bench.cases._dissect_data import Work
from mmxai.bench.cases._dissect_sides import Dense, Loop, Ours, brute_force
from mmxai.bench.cases._softwpmi import Labelling
from mmxai.bench.figures import Figure, Timing, UnequalWorkError, interleave, ratio
from mmxai.bench.floors import bytes_floor, copy_bandwidth, multiply_rate, operations_floor
from mmxai.bench.machine import PACKAGE
from mmxai.bench.options import Options

TESTS = (
    "tests/kernels/test_cell_labels.py", "tests/kernels/test_mask_counts.py",
    "tests/kernels/test_bilinear_counts.py", "tests/kernels/test_log_products.py",
    "tests/bench/test_dissect.py",
)  # fmt: skip
GPU = False
TARGETS = {
    "nearest_vs_dense_torch": ">= 30",
    "bilinear_vs_dense_torch": ">= 10",
    "nearest_vs_netdissect_loop": ">= 80",
    "counts_equal": ">= 1",
    "softwpmi_vs_loop": ">= 20",
    "softwpmi_error": "<= 1e-4",
    "softwpmi_peak_gb": "<= 4",
}
FULL = Work(pictures=1000, units=768, grid=14, size=112, concepts=600, categories=4, present=30)
QUICK = Work(pictures=12, units=24, grid=7, size=28, concepts=20, categories=2, present=6)
LABELLING = Labelling(neurons=2048, pictures=10_000, words=20_000)
QUICK_LABELLING = Labelling(neurons=20, pictures=150, words=80, top=20)
REPEATS = 5
_DENSE, _LOOP, _BRUTE, _NEURONS, _WORDS = 20, 10, 3, 64, 200
"""Pictures of the rivals a turn, and of brute force; neurons of the loop a turn, and words compared."""


def run(options: Options) -> list[Figure]:
    work, labelling = (QUICK, QUICK_LABELLING) if options.quick else (FULL, LABELLING)
    print(f"dissect: {work}; {labelling}", file=sys.stderr, flush=True)
    figures = [*counts(work, options), *scores(labelling, options)]
    return [*figures, _memory(labelling)]


def counts(work: Work, options: Options, device: str = "cpu", prefix: str = "") -> list[Figure]:
    """Both modes against dense torch, and on the CPU against the loop; and whether all agree."""
    ours, dense, every = Ours(work, device), Dense(work, device), slice(0, work.pictures)
    some, few = slice(0, min(_DENSE, work.pictures)), slice(0, min(_LOOP, work.pictures))
    works = {
        "nearest": partial(ours.nearest, every), "bilinear": partial(ours.bilinear, every),
        "dense nearest": partial(dense.nearest, some), "dense bilinear": partial(dense.bilinear, some),
    }  # fmt: skip
    sizes = {"nearest": work.pictures, "bilinear": work.pictures, "loop": few.stop}
    if device == "cpu":
        works["loop"] = partial(Loop(work).bilinear, few)
    finished = {name: partial(_finished, device, side) for name, side in works.items()}
    raw = interleave(finished, options.repeats(REPEATS))
    times = {name: timing.per(sizes.get(name, some.stop)) for name, timing in raw.items()}
    found = [_agree(work, ours, dense, device)]
    moved = 4 * (work.grid**2 * work.units + work.categories * work.size**2)
    floor = bytes_floor(moved, copy_bandwidth(device=device)) + ": a picture's activations and label maps"
    pairs = {f"{mode}_vs_dense_torch": (mode, f"dense {mode}") for mode in ("nearest", "bilinear")}
    if device == "cpu":
        pairs["nearest_vs_netdissect_loop"] = ("nearest", "loop")
    for name, (mine, theirs) in pairs.items():
        detail = f"{work}: a picture {times[mine]}, theirs {times[theirs]}"
        found.append(Figure(name, ratio(times[theirs], times[mine]), TARGETS[name], detail, floor))
    return [replace(f, name=prefix + f.name) for f in found]


def _finished(device: str, work: Callable[[], object]) -> None:
    work()
    if device != "cpu":
        torch.get_device_module(device).synchronize()


def _agree(work: Work, ours: Ours, dense: Dense, device: str) -> Figure:
    """1 if every count of ours is that of brute force; rivals that count otherwise are no rivals."""
    few = slice(0, min(_BRUTE, work.pictures))
    equal = True
    for mode, spelt in (("nearest", "nearest-exact"), ("bilinear", "bilinear")):
        mine = getattr(ours, mode)(few).cpu()
        equal &= torch.equal(mine, brute_force(work, few, spelt))
        rivals = {"dense torch": getattr(dense, mode)(few).cpu()}
        if mode == "bilinear" and device == "cpu":
            rivals["the loop"] = Loop(work).bilinear(few)
        for rival, theirs in rivals.items():
            if not torch.equal(mine, theirs):
                raise UnequalWorkError(f"dissect: {rival} counts other pixels than we do, {mode}")
    detail = (
        f"pixels of {work.columns:,} labels under {work.units} masks of {few.stop} pictures, both modes, one "
        "by one in float64; 1 is equal, all of them, and so the unions; dense torch's and the loop's too"
    )
    return Figure("counts_equal", float(equal), TARGETS["counts_equal"], detail, "1")


def scores(work: Labelling, options: Options, prefix: str = "") -> list[Figure]:
    """SoftWPMI of all neurons against all that CLIP-Dissect does: softmax and top-k, its loop over some of
    the neurons, scaled, and the marginal of all."""
    neurons = min(_NEURONS, work.neurons)
    work.similarities, work.activations  # noqa: B018  made before the clock runs
    begun, ended = _softwpmi.once(work), torch.zeros(work.neurons, work.words, device=work.device)
    works: dict[str, Callable[[], object]] = {
        "ours": partial(_softwpmi.ours, work), "once": partial(_softwpmi.once, work),
        "loop": partial(_softwpmi.given, *begun, work, neurons),
        "by_rows": partial(_softwpmi.given_by_rows, *begun, work, neurons),
        "after": partial(_softwpmi.less_marginal, ended),
    }  # fmt: skip
    finished = {name: partial(_finished, work.device, side) for name, side in works.items()}
    times = interleave(finished, options.repeats(REPEATS))
    terms = work.neurons * work.top * work.words
    floor = f"{3 * terms / 1e9:.3g} G operations"
    if work.device == "cpu":
        floor = operations_floor(3 * terms, multiply_rate())
    floor += ": a term is p w + c, and times the rest"
    figures = []
    for name, loop, how in (
        ("softwpmi_vs_loop", "loop", "as published"),
        ("softwpmi_vs_loop_by_rows", "by_rows", "with an index a row in place of one a number"),
    ):
        parts = zip(*(times[part].seconds for part in ("once", loop, "after")), strict=True)
        whole = Timing([once + some * work.neurons / neurons + after for once, some, after in parts])
        detail = f"{work}: {times['ours']}; the loop {how} {whole}, {neurons} neurons a turn, scaled"
        figures.append(Figure(name, ratio(whole, times["ours"]), TARGETS.get(name), detail, floor))
    words = min(_WORDS, work.words)
    exact, single = (_softwpmi.of_words(work, words, dtype) for dtype in (torch.float64, torch.float32))
    apart = (_softwpmi.ours(work)[:, :words] - exact).abs().max()
    text = (
        f"largest |difference| of scores to the loop in float64, all neurons, {words} words; that of the "
        f"loop in float32 is {float((single - exact).abs().max()):.2g}"
    )
    figures.append(Figure("softwpmi_error", float(apart), TARGETS["softwpmi_error"], text, "0"))
    return [replace(f, name=prefix + f.name) for f in figures]


def _memory(work: Labelling) -> Figure:
    """The most memory of a fresh process that makes the similarities and scores all."""
    sizes = (work.neurons, work.pictures, work.words, work.top, torch.get_num_threads())
    command = [sys.executable, "-m", "mmxai.bench.cases._softwpmi", *map(str, sizes)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, cwd=PACKAGE.parent)
    held = 4 * (work.pictures * work.words + work.neurons * (work.pictures + work.words))
    return Figure(
        "softwpmi_peak_gb", int(done.stdout.splitlines()[-1]) / 1e9, TARGETS["softwpmi_peak_gb"],
        f"{work}: peak of a process of its own, torch and the similarities included",
        f"{held / 1e9:.3g} GB: similarities, activations and scores",
    )  # fmt: skip
