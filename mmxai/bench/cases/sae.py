"""A TopK SAE's training step and its loss, against the bare encoder product and other trainers.

Rows are of a real harvest (`_sae_data`). A step is a trainer's whole step: selection, reconstruction,
gradients, projection, clipping, Adam, unit norm, and the count of latents that fire. All sides have Adam of
one rate; in `native` each has its own optimiser and rate, and all the same wall time.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from mmxai.bench.cases._sae_data import write_rows
from mmxai.bench.cases._sae_ours import make
from mmxai.bench.cases._sae_peers import best_variants
from mmxai.bench.figures import Figure, Timing, UnequalWorkError, interleave, ratio
from mmxai.bench.floors import multiply_rate, operations_floor
from mmxai.bench.machine import PACKAGE
from mmxai.bench.options import Options
from mmxai.bench.peers import running, wanted
from mmxai.bench.peers._sae_ import serve

TESTS = ("tests/methods/sae/test_step.py", "tests/kernels/test_topk_rows.py", "tests/bench/test_sae.py")
GPU = False
OURS, PRODUCT = "ours", "product"
STEP_TARGETS = {"sparsify": ">= 2.3", "saelens": ">= 6", "dictionary_learning": ">= 6"}
WORST_FVU = 0.9
"""A side that leaves more than this share of the variance has not trained."""


@dataclass(frozen=True)
class Work:
    """`steps` until the loss is compared, 0 for not; `dead`: share of latents that AuxK revives."""

    suffix: str
    rows: int
    latents: int
    k: int
    repeats: int
    steps: int = 0
    dead: float = 0.0

    def __str__(self) -> str:
        aux = f", AuxK on {self.dead:.0%} dead" if self.dead else ""
        return f"{self.rows} rows, {self.latents} latents, k = {self.k}{aux}"


BATCHES, HELD, NATIVE_SECONDS = 100, 16_384, 120.0
FULL = (
    Work("", 4096, 8192, 32, repeats=7, steps=BATCHES),
    Work("_aux", 4096, 8192, 32, repeats=5, dead=0.1),
    Work("_32k", 4096, 32_768, 32, repeats=3),
)
QUICK = (Work("", 128, 256, 8, repeats=2, steps=200), Work("_aux", 128, 256, 8, repeats=2, dead=0.1))


def run(options: Options) -> list[Figure]:
    works, batches, held = (QUICK, 6, 256) if options.quick else (FULL, BATCHES, HELD)
    with options.warm() as folder:
        path, width = write_rows(folder, works[0].rows, batches, held, quick=options.quick)
        base = {
            "data": str(path), "width": width, "held": held, "threads": torch.get_num_threads(), "dead": 0.0,
            "native": False, "variant": "plain",
        }  # fmt: skip
        figures: list[Figure] = []
        rate = multiply_rate()
        for work in works:
            job = base | {
                "rows": work.rows, "latents": work.latents, "k": work.k, "dead": work.dead,
                "preload": work.repeats + 1,
            }  # fmt: skip
            variants = {name: {"variant": v} for name, v in best_variants(options, job).items()}
            figures += _measure(work, job, variants, rate, folder, options)
            if work is works[0]:
                seconds = 1.0 if options.quick else NATIVE_SECONDS
                figures += _native(work, job, variants, seconds, options)
        return figures


def _measure(
    work: Work,
    job: dict[str, Any],
    variants: Mapping[str, Mapping[str, str]],
    rate: float,
    folder: Path,
    options: Options,
) -> list[Figure]:
    ours, answer = serve(job, make)
    product = _product(job)
    with running(options, "sae", job, variants) as rivals:
        works: dict[str, Callable[[], object]] = {PRODUCT: product, OURS: ours["step"]}
        works |= {peer.key: partial(rival.run, "step") for peer, rival in rivals.items()}
        timings = interleave(works, options.repeats(work.repeats))
        answers: dict[str, dict[str, float]] = {}
        if work.steps:
            ours["finish"](work.steps)
            for rival in rivals.values():
                rival.run("finish", work.steps)
            answers = {OURS: answer()} | {peer.key: rival.answer() for peer, rival in rivals.items()}
    # What no step can be without: the product, once, and its part in the gradients of k latents a row.
    operations = 2 * work.rows * job["width"] * (work.latents + 4 * work.k)
    floor = operations_floor(operations, rate)
    mine, plain = timings[OURS], timings[PRODUCT]
    figures = [
        Figure(f"encoder_product_share{work.suffix}", ratio(plain, mine), None if work.suffix else ">= 0.8",
               f"{work}: product {plain} of a step's {mine}", floor),
        Figure(f"step_rows_per_second{work.suffix}", work.rows / mine.median, None, f"{work}: {mine}", floor),
    ]  # fmt: skip
    for peer in rivals:
        target = None if work.suffix else STEP_TARGETS[peer.key]
        theirs = timings[peer.key]
        how = f"{peer.does}, {variants[peer.name]['variant']}"
        detail = f"{how}: {theirs}, {_rate(work, theirs)}; ours {_rate(work, mine)}"
        figures.append(Figure(f"step_vs_{peer.key}{work.suffix}", ratio(theirs, mine), target, detail, floor))
    if len(answers) > 1:
        figures += [_loss(answers), _memory(work, job, answers, folder)]
    return figures


def _rate(work: Work, timing: Timing) -> str:
    return f"{work.rows / timing.median:,.0f} rows/s"


def _loss(answers: Mapping[str, Mapping[str, float]]) -> Figure:
    """FVU on held-out pictures after equal rows."""
    for name, answer in answers.items():
        if not answer["fvu"] < WORST_FVU or answer["rows"] != answers[OURS]["rows"]:
            raise UnequalWorkError(
                f"sae: {name} came to FVU {answer['fvu']:.3g} after {answer['rows']:,.0f} rows"
            )
    losses = {name: answer["fvu"] for name, answer in answers.items()}
    best = min(v for name, v in losses.items() if name != OURS)
    shown = ", ".join(f"{name} {value:.4f}" for name, value in losses.items())
    return Figure(
        "fvu_vs_best_peer", losses[OURS] / best, "<= 1.01",
        f"on other pictures, after {answers[OURS]['rows']:,.0f} rows: {shown}",
        "FVU of the best trainer at equal rows",
    )  # fmt: skip


def _memory(
    work: Work, job: Mapping[str, Any], answers: Mapping[str, Mapping[str, float]], folder: Path
) -> Figure:
    """Growth of a process from before the SAE is made to the end of training."""
    file = folder / "job.json"
    file.write_text(json.dumps(job))
    command = [sys.executable, "-m", "mmxai.bench.cases._sae_ours", str(file), str(job["preload"] + 2)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, cwd=PACKAGE.parent)
    mine = json.loads(done.stdout.splitlines()[-1])["memory"]
    theirs = {name: answer["memory"] for name, answer in answers.items() if name != OURS}
    shown = ", ".join(f"{name} {value / 2**20:,.0f} MiB" for name, value in theirs.items())
    weights = 4 * 2 * job["width"] * work.latents
    return Figure(
        "peak_memory_vs_least_peer", mine / min(theirs.values()), "<= 1",
        f"ours {mine / 2**20:,.0f} MiB; {shown}",
        f"{4 * weights / 2**20:,.0f} MiB: both matrices, their gradients and Adam's two moments",
    )  # fmt: skip


def _native(
    work: Work,
    job: dict[str, Any],
    variants: Mapping[str, Mapping[str, str]],
    seconds: float,
    options: Options,
) -> list[Figure]:
    """FVU of each trainer as its library sets it, after the same wall time; one after another."""
    if not wanted(options, "sae"):
        return []
    job = job | {"native": True}
    ours, answer = serve(job, make)
    ours["train_for"](seconds)
    answers = {OURS: answer()}
    with running(options, "sae", job, variants) as rivals:
        for peer, rival in rivals.items():
            rival.run("train_for", seconds)
            answers[peer.key] = rival.answer()
    return [
        Figure(f"native_fvu_{name}", found["fvu"], None,
               f"{work}: {found['rows']:,.0f} rows in {seconds:g} s, its own optimiser and rate", "0")
        for name, found in answers.items()
    ]  # fmt: skip


def _product(job: Mapping[str, Any]) -> Callable[[], None]:
    """The encoder's product alone, into memory that is there already."""
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(job["rows"], job["width"], generator=draw)
    W_enc = torch.randn(job["latents"], job["width"], generator=draw)
    out = torch.empty(job["rows"], job["latents"])

    def product() -> None:
        torch.mm(x, W_enc.T, out=out)

    return product
