"""The cases. Each is a module here, imported when it runs."""

from __future__ import annotations

from importlib import import_module
from typing import Protocol, cast

from mmxai.bench.figures import Figure
from mmxai.bench.options import Options

CASES = {
    "stats": "packing with per-neuron statistics in one pass, against torch, numba and one copy",
    "store": "durable write, random rows, shuffled epochs, against a raw write, np.memmap and zarr-python",
    "profiles": "int8 and topk stores against bfloat16: bytes, random rows, and what is lost",
    "harvest": "packing and statistics, and a whole harvest, against the bare forward pass; peak memory",
    "sae": "a TopK SAE's training step and its loss, against the bare encoder product and other trainers",
    "sae_gpu": "the step of `sae` on a CUDA GPU, 4096 wide, 131072 latents, bfloat16, against sparsify",
    "probe": "linear probes of many sites, penalties, folds and tasks, against a fit each by scikit-learn",
    "dissect": "concepts under units' masks, and SoftWPMI, against dense torch and the field's loops",
    "dissect_gpu": "the same on a CUDA GPU, against dense torch there",
    "lens": "the logit lens of 12 blocks, against the bare product, dense torch and TransformerLens",
    "lens_gpu": "the same on a CUDA GPU, against dense torch there",
    "trace": "causal tracing of every layer and position, against one forward a cell and TransformerLens",
    "gpu": "the kernels on a CUDA GPU: packing with statistics against torch and one device copy",
    "shapes": "pictures, captions, twins and training batches of the shapes world a second, on one core",
}


class Case(Protocol):
    """What a case's module has."""

    TESTS: tuple[str, ...]
    """Paths of tests in a checkout that must be green before anything is timed."""

    GPU: bool
    """Is it a CUDA GPU that is measured? Without one the case says so and does nothing."""

    def run(self, options: Options) -> list[Figure]:
        """Measure. Raises `CannotRunError` where this machine lacks what is measured."""
        ...


def load(name: str) -> Case:
    return cast(Case, import_module(f"mmxai.bench.cases.{name}"))
