"""One size of case `sae`: all sides step in turn, then train on to equal rows. The device is the job's."""

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

from mmxai.bench.cases._sae_ours import make
from mmxai.bench.cases._sae_peers import Variants
from mmxai.bench.figures import Figure, Timing, UnequalWorkError, interleave, ratio, seconds_text
from mmxai.bench.machine import PACKAGE
from mmxai.bench.options import Options
from mmxai.bench.peers import running
from mmxai.bench.peers._sae_ import serve
from mmxai.kernels.topk_product import quicker

OURS, PRODUCT, HALF = "ours", "product", "product in bfloat16"
MEMORY_STEPS = 3
WORST_FVU = 0.9
"""A side that leaves more than this share of the variance has not trained."""

Answers = Mapping[str, Mapping[str, float]]


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
    prefix: str = ""

    def __str__(self) -> str:
        aux = f", AuxK on {self.dead:.0%} dead" if self.dead else ""
        return f"{self.rows} rows, {self.latents} latents, k = {self.k}{aux}"

    def job(self) -> dict[str, Any]:
        """Its part of what a side is told; so many batches are in memory before the clock runs."""
        return {
            "rows": self.rows, "latents": self.latents, "k": self.k, "dead": self.dead,
            "preload": self.repeats + 1,
        }  # fmt: skip


def measure(
    work: Work,
    job: dict[str, Any],
    variants: Variants,
    targets: Mapping[str, str],
    folder: Path,
    options: Options,
) -> list[Figure]:
    """`targets`: by the figures' names without prefix and suffix."""
    print(f"sae: {work}", file=sys.stderr, flush=True)
    job = job | work.job()
    ours, answer = serve(job, make)
    with running(options, "sae", job, variants) as rivals:
        works: dict[str, Callable[[], object]] = {
            PRODUCT: _product(job, job["product"]), HALF: _product(job, "bfloat16"), OURS: ours["step"],
        }  # fmt: skip
        works |= {peer.key: partial(rival.run, "step") for peer, rival in rivals.items()}
        timings = interleave(works, options.repeats(work.repeats))
        answers: Answers = {}
        if work.steps and rivals:
            ours["finish"](work.steps)
            for rival in rivals.values():
                rival.run("finish", work.steps)
            answers = {OURS: answer()} | {peer.key: rival.answer() for peer, rival in rivals.items()}
    mine, plain = timings[OURS], timings[PRODUCT]
    # Choosing latents takes a product, which need not be float32 (`topk_product`). Reconstruction, the codes'
    # gradient and those of both matrices take k latents a row each.
    quick = HALF if timings[HALF].median < plain.median else PRODUCT
    least = timings[quick].median + plain.median * 4 * work.k / work.latents
    floor = f"{seconds_text(least)}: the encoder's {quick}, four sparse ones of k latents a row"

    def figure(name: str, value: float, detail: str, floor: str = floor) -> Figure:
        return Figure(f"{work.prefix}{name}{work.suffix}", value, targets.get(name), detail, floor)

    def rate(timing: Timing) -> str:
        return f"{timing}, {work.rows / timing.median:,.0f} rows/s"

    shape = torch.empty(1).expand(work.latents, job["width"])
    rows = shape[:1].to(job["device"]).expand(work.rows, -1)
    direct = job["product"] == "float32" and quicker(rows, shape, work.k)
    without = ", which does without it (topk_product)" if direct else ""
    figures = [
        figure(
            "encoder_product_share",
            ratio(plain, mine),
            f"{work}: product {plain} of a step's {mine}{without}",
        ),
        figure("step_rows_per_second", work.rows / mine.median, f"{work}: {mine}"),
    ]
    for peer in rivals:
        theirs, how = timings[peer.key], variants[peer.name]["variant"]
        detail = f"{peer.does}, {how}: {rate(theirs)}; ours {rate(mine)}"
        figures.append(figure(f"step_vs_{peer.key}", ratio(theirs, mine), detail))
    if answers:
        figures.append(figure("fvu_vs_best_peer", *_loss(answers), "FVU of the best trainer at equal rows"))
        figures.append(figure("peak_memory_vs_least_peer", *_memory(job, folder, options)))
    return figures


def _loss(answers: Answers) -> tuple[float, str]:
    """FVU on held-out rows over the best peer's, after equal rows."""
    for name, answer in answers.items():
        if not answer["fvu"] < WORST_FVU or answer["rows"] != answers[OURS]["rows"]:
            raise UnequalWorkError(
                f"sae: {name} came to FVU {answer['fvu']:.3g} after {answer['rows']:,.0f} rows"
            )
    losses = {name: answer["fvu"] for name, answer in answers.items()}
    best = min(v for name, v in losses.items() if name != OURS)
    shown = ", ".join(f"{name} {value:.4f}" for name, value in losses.items())
    return losses[OURS] / best, f"on held-out rows, after {answers[OURS]['rows']:,.0f}: {shown}"


def _memory(job: Mapping[str, Any], folder: Path, options: Options) -> tuple[float, str, str]:
    """Growth of a fresh process from before the SAE is made to the end of a few steps, over the least peer's.

    Peers run as they are: a compiler's memory is none of theirs.
    """
    file = folder / "job.json"
    file.write_text(json.dumps(job))
    command = [sys.executable, "-m", "mmxai.bench.cases._sae_ours", str(file), str(MEMORY_STEPS)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, cwd=PACKAGE.parent)
    mine = json.loads(done.stdout.splitlines()[-1])["memory"]
    theirs = {}
    with running(options, "sae", job) as rivals:
        for peer, rival in rivals.items():
            rival.run("finish", MEMORY_STEPS)
            theirs[peer.key] = rival.answer()["memory"]
    shown = ", ".join(f"{name} {value / 2**20:,.0f} MiB" for name, value in theirs.items())
    both = 4 * 2 * job["width"] * job["latents"]
    return (
        mine / min(theirs.values()),
        f"ours {mine / 2**20:,.0f} MiB; {shown}",
        f"{4 * both / 2**20:,.0f} MiB: both matrices, their gradients and Adam's two moments",
    )


def _product(job: Mapping[str, Any], name: str) -> Callable[[], None]:
    """The encoder's product alone in that data type, into memory that is there already."""
    device, dtype = job["device"], getattr(torch, name)
    torch.manual_seed(0)
    x = torch.randn(job["rows"], job["width"], device=device, dtype=dtype)
    W_enc = torch.randn(job["latents"], job["width"], device=device, dtype=dtype)
    out = torch.empty(job["rows"], job["latents"], device=device, dtype=dtype)

    def product() -> None:
        torch.mm(x, W_enc.T, out=out)
        if device != "cpu":
            torch.get_device_module(device).synchronize()

    return product
