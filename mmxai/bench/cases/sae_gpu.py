"""Case `sae` on a CUDA GPU: 4096 wide, 131072 latents, bfloat16 products, beside sparsify with its Triton.

No model here is that wide, so rows are sparse sums of random directions (`_sae_data.planted_rows`).
"""

from __future__ import annotations

from dataclasses import replace

from mmxai.bench.cases._sae_data import planted_rows
from mmxai.bench.cases._sae_peers import best_variants
from mmxai.bench.cases._sae_sides import Work, measure
from mmxai.bench.figures import Figure
from mmxai.bench.options import Options
from mmxai.bench.peers import wanted

TESTS = ("tests/kernels", "tests/methods/sae/test_step.py", "tests/bench/test_sae.py")
GPU = True
BATCHES = 12
RIVAL = "sparsify"
FULL = (
    Work("", 8192, 131_072, 64, repeats=7, steps=100, prefix="gpu_"),
    Work("_aux", 8192, 131_072, 64, repeats=5, dead=0.1, prefix="gpu_"),
)
QUICK = (Work("", 128, 256, 8, repeats=2, steps=100, prefix="gpu_"),)


def run(options: Options, device: str = "cuda") -> list[Figure]:
    works, width = (QUICK, 32) if options.quick else (FULL, 4096)
    held = works[0].rows
    options = with_sparsify_alone(options)
    with options.warm() as folder:
        job = {
            "data": str(planted_rows(folder, width, works[0].rows, BATCHES, held, device)), "width": width,
            "held": held, "threads": 1, "device": device, "product": "bfloat16", "native": False,
            "variant": "plain",
        }  # fmt: skip
        variants = best_variants(options, job | works[0].job())
        return [f for work in works for f in measure(work, job, variants, {}, folder, options)]


def with_sparsify_alone(options: Options) -> Options:
    """Of the peers asked for this one, or none: the other trainers are dense."""
    asked = [peer.name for peer in wanted(options, "sae")]
    return replace(options, peers=(RIVAL,) if RIVAL in asked else None)
