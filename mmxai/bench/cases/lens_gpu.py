"""Case `lens` on a CUDA GPU, in float32 and in bfloat16."""

from __future__ import annotations

import torch

from mmxai.bench.cases import lens
from mmxai.bench.figures import Figure
from mmxai.bench.options import Options

TESTS = lens.TESTS
GPU = True


def run(options: Options, device: str = "cuda") -> list[Figure]:
    figures = lens.on_gpu(options, device, torch.float32, "")
    return figures + lens.on_gpu(options, device, torch.bfloat16, "_bf16")
