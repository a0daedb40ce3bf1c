"""The logit lens of all blocks and positions, against the bare product, dense torch and TransformerLens.

Ours does all blocks; the others go block by block: they do some, and their time is scaled. States, weights
and targets are in memory on every side, and every side has the same number of threads.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from mmxai.bench.cases._lens_sides import Found, Sides, Work, write
from mmxai.bench.figures import Figure, Timing, UnequalWorkError, interleave, ratio
from mmxai.bench.floors import multiply_rate, operations_floor
from mmxai.bench.machine import PACKAGE
from mmxai.bench.options import Options
from mmxai.bench.peers import running

TESTS = ("tests/kernels/test_unembed_topk.py", "tests/bench/test_lens.py")
GPU = False
TARGETS = {
    "lens_product_share": ">= 0.85",
    "lens_vs_naive": ">= 1.15",
    "lens_vs_transformer_lens": ">= 1.35",
    "lens_memory_share": "<= 0.1",
    "lens_error": "<= 1e-4",
}
FULL = Work(blocks=12, positions=512, width=768, vocabulary=50_257, k=5)
QUICK = Work(blocks=3, positions=8, width=16, vocabulary=90, k=3)
REPEATS = 5
SOME = 3
"""Blocks that the others do a turn."""
EXACT = 8
"""Positions of every block that are done in float64."""

ROUNDING = 0.1
"""What logits of some 15 lose in bfloat16, in which dense torch has them, and we have not."""


def run(options: Options) -> list[Figure]:
    work = QUICK if options.quick else FULL
    print(f"lens: {work}", file=sys.stderr, flush=True)
    with options.warm() as folder:
        write(folder, work)
        some = min(SOME, work.blocks)
        job = {
            "folder": str(folder), "blocks": some, "k": work.k, "threads": torch.get_num_threads(),
            "work": asdict(work),
        }  # fmt: skip
        rate = multiply_rate()
        floor = operations_floor(2 * work.rows * work.width * work.vocabulary, rate) + ": the product"
        with running(options, "lens", job) as rivals:
            sides = Sides(folder, work)
            works = _works(sides, some)
            for peer, rival in rivals.items():
                works |= {f"{peer.key} {what}": partial(rival.run, what) for what in ("top", "both")}
            times = _timed(works, work, some, options)
            figures = _figures(sides, times, floor)
            for peer, rival in rivals.items():
                answer = rival.answer()
                with np.load(answer["found"]) as found:
                    theirs = {name: torch.from_numpy(x) for name, x in found.items()}
                _agree(peer.name, sides.found["ours"], theirs, work)
                chunk = f"chunks of {answer['chunk']}, the quicker of two sizes; outputs equal"
                for suffix, what, does in (
                    ("", "top", "largest and entropies alone"),
                    ("_with_targets", "both", "called again for the targets"),
                ):
                    name = f"lens_vs_{peer.key}{suffix}"
                    how = f"{peer.does}, {does}, {chunk}"
                    figures.append(_against(name, work, times, f"{peer.key} {what}", floor, how))
        return [*figures, _memory(job, folder, work)]


def _works(sides: Sides, some: int) -> dict[str, Callable[[], object]]:
    return {"product": sides.product, "ours": sides.ours, "naive": partial(sides.naive, some)}


def _timed(
    works: Mapping[str, Callable[[], object]], work: Work, some: int, options: Options
) -> dict[str, Timing]:
    raw = interleave(works, options.repeats(REPEATS))
    whole = ("product", "ours")
    return {name: t if name in whole else t.per(some / work.blocks) for name, t in raw.items()}


def _figures(sides: Sides, times: dict[str, Timing], floor: str) -> list[Figure]:
    work, ours, naive = sides.work, sides.found["ours"], sides.found["naive"]
    _agree("dense torch", ours, naive, work)
    share = ratio(times["product"], times["ours"])
    detail = (
        f"{work}: {times['ours']} for norm, product, largest, ranks, entropies and divergences; the bare "
        f"float32 product alone, into memory that is there, {times['product']}"
    )
    figures = [Figure("lens_product_share", share, TARGETS["lens_product_share"], detail, floor)]
    does = "dense logits a block, log_softmax, topk, entropy, ranks, divergence; outputs equal"
    figures.append(_against("lens_vs_naive", work, times, "naive", floor, does))
    exact = sides.exact(min(EXACT, work.positions))
    apart = {
        name: float((ours[name][:, : x.shape[1]].double() - x).abs().max())
        for name, x in exact.items() if name not in ("ids", "ranks")
    }  # fmt: skip
    said = ", ".join(f"{name} {value:.2g}" for name, value in apart.items())
    detail = f"largest difference to float64, nats: {said}"
    return [*figures, Figure("lens_error", max(apart.values()), TARGETS["lens_error"], detail, "0")]


def _against(name: str, work: Work, times: dict[str, Timing], side: str, floor: str, does: str) -> Figure:
    detail = f"{work}: ours {times['ours']}; {does}: {times[side]}, some blocks a turn, scaled"
    return Figure(name, ratio(times[side], times["ours"]), TARGETS.get(name), detail, floor)


def _agree(name: str, ours: Found, theirs: Found, work: Work, rounding: float = 0.0) -> None:
    """Raise unless what both have is the same, of the last blocks that they did: a rank, or an id, may be the
    neighbour's where logits are as near as float32 rounds. `rounding`: what theirs lose, if more."""
    blocks = len(theirs["ids"])
    for key, x in theirs.items():
        mine, x = ours[key][-blocks:].cpu(), x.cpu()
        if key not in ("ids", "ranks"):
            same = torch.allclose(mine, x, rtol=1e-4, atol=2e-4 + rounding)
        elif rounding:
            continue
        elif key == "ids":
            same = float((mine == x).double().mean()) > 0.999
        else:
            same = int((mine - x).abs().max()) <= 1 + work.vocabulary // 10_000
        if not same:
            raise UnequalWorkError(f"lens: {key} of {name} are not ours")


def _memory(job: dict[str, object], folder: Path, work: Work) -> Figure:
    """Growth of fresh processes that do all blocks."""
    file = folder / "job.json"
    file.write_text(json.dumps(job))
    grown = {}
    for side in ("ours", "naive"):
        command = [sys.executable, "-m", "mmxai.bench.cases._lens_sides", str(file), side]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, cwd=PACKAGE.parent)
        grown[side] = int(done.stdout.splitlines()[-1])
    mib = {side: f"{n / 2**20:,.1f} MiB" for side, n in grown.items()}
    detail = (
        f"{work}: growth of a process that does all blocks, ours {mib['ours']}, dense torch {mib['naive']}"
    )
    floor = f"{4 * work.rows * work.width / 2**20:,.1f} MiB: the states after the norm"
    value = grown["ours"] / max(1, grown["naive"])
    return Figure("lens_memory_share", value, TARGETS["lens_memory_share"], detail, floor)


def on_gpu(options: Options, device: str, dtype: torch.dtype, suffix: str) -> list[Figure]:
    """The same on a device, beside dense torch there."""
    work = QUICK if options.quick else FULL
    with options.warm() as folder:
        write(folder, work)
        sides, some = Sides(folder, work, device, dtype), min(SOME, work.blocks)
    works = {name: partial(_finished, device, side) for name, side in _works(sides, some).items()}
    times = _timed(works, work, some, options)
    floor = f"{times['product']}: the bare product in {str(dtype)[6:]}"
    rounding = 0.0 if dtype == torch.float32 else ROUNDING
    _agree("dense torch", sides.found["ours"], sides.found["naive"], work, rounding)
    share = ratio(times["product"], times["ours"])
    figures = [
        Figure("lens_product_share", share, None, f"{work}: {times['ours']}", floor),
        _against("lens_vs_naive", work, times, "naive", floor, "dense logits a block; outputs equal"),
    ]
    return [replace(f, name=f"gpu_{f.name}{suffix}") for f in figures]


def _finished(device: str, side: Callable[[], object]) -> None:
    side()
    if device != "cpu":
        torch.get_device_module(device).synchronize()
