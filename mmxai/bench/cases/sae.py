"""A TopK SAE's training step and its loss, against the bare encoder product and other trainers.

Rows are of a real harvest (`_sae_data`). A step is a trainer's whole step: selection, reconstruction,
gradients, projection, clipping, Adam, unit norm, and the count of latents that fire. All sides have Adam of
one rate; in `native` each has its own optimiser and rate, and all the same wall time.
"""

from __future__ import annotations

import time
from typing import Any

import torch

from mmxai.bench.cases._sae_data import harvest_rows
from mmxai.bench.cases._sae_ours import make
from mmxai.bench.cases._sae_peers import Variants, best_variants
from mmxai.bench.cases._sae_sides import OURS, Work, measure
from mmxai.bench.figures import Figure
from mmxai.bench.options import Options
from mmxai.bench.peers import running, wanted
from mmxai.bench.peers._sae_ import serve

TESTS = ("tests/methods/sae/test_step.py", "tests/kernels/test_topk_rows.py", "tests/bench/test_sae.py")
GPU = False
TARGETS = {
    "step_vs_sparsify": ">= 2.3",
    "step_vs_saelens": ">= 6",
    "step_vs_dictionary_learning": ">= 6",
    "encoder_product_share": ">= 0.8",
    "fvu_vs_best_peer": "<= 1.01",
    "peak_memory_vs_least_peer": "<= 1",
}
BATCHES, HELD, NATIVE_SECONDS = 40, 16_384, 40.0
_PACED = 20  # steps by which the pace is told
FULL = (
    Work("", 4096, 8192, 32, repeats=7, steps=BATCHES),
    Work("_aux", 4096, 8192, 32, repeats=3, dead=0.1),
    Work("_32k", 4096, 32_768, 32, repeats=2),
)
QUICK = (Work("", 128, 256, 8, repeats=2, steps=200), Work("_aux", 128, 256, 8, repeats=2, dead=0.1))


def run(options: Options) -> list[Figure]:
    works, batches, held = (QUICK, 6, 256) if options.quick else (FULL, BATCHES, HELD)
    with options.warm() as folder:
        path, width = harvest_rows(folder, works[0].rows, batches, held, quick=options.quick)
        job = {
            "data": str(path), "width": width, "held": held, "threads": torch.get_num_threads(),
            "device": "cpu", "product": "float32", "native": False, "variant": "plain",
        }  # fmt: skip
        variants = best_variants(options, job | works[0].job())
        figures: list[Figure] = []
        for work in works:
            targets = {} if work.suffix else TARGETS
            figures += measure(work, job, variants, targets, folder, options)
        seconds = 1.0 if options.quick else NATIVE_SECONDS
        return figures + _native(works[0], job, variants, seconds, options)


def _native(
    work: Work, job: dict[str, Any], variants: Variants, seconds: float, options: Options
) -> list[Figure]:
    """FVU of each trainer as its library sets it, after the same wall time; one after another.

    Ours takes a number of steps: as many as fit by the pace of the first.
    """
    if not wanted(options, "sae"):
        return []
    job = job | work.job() | {"native": True}
    steps = _steps_in(seconds, job)
    ours, answer = serve(job | {"steps": steps}, make)
    start = time.perf_counter()
    ours["finish"](steps)
    took = {OURS: time.perf_counter() - start}
    answers = {OURS: answer()}
    with running(options, "sae", job, variants) as rivals:
        for peer, rival in rivals.items():
            rival.run("train_for", seconds)
            answers[peer.key] = rival.answer()
    return [
        Figure(f"native_fvu_{name}", found["fvu"], None,
               f"{work}: {found['rows']:,.0f} rows in {took.get(name, seconds):.3g} s, "
               "its own optimiser and rate", "0")
        for name, found in answers.items()
    ]  # fmt: skip


def _steps_in(seconds: float, job: dict[str, Any]) -> int:
    ours, _ = serve(job, make)
    ours["finish"](2)
    start = time.perf_counter()
    ours["finish"](2 + _PACED)
    return max(1, round(seconds * _PACED / (time.perf_counter() - start)))
