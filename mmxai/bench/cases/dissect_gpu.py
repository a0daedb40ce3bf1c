"""Case `dissect` on a CUDA GPU: label maps come from the CPU on every side."""

from __future__ import annotations

from dataclasses import replace

from mmxai.bench.cases import dissect
from mmxai.bench.figures import Figure
from mmxai.bench.options import Options

TESTS = dissect.TESTS
GPU = True


def run(options: Options, device: str = "cuda") -> list[Figure]:
    work = dissect.QUICK if options.quick else dissect.FULL
    labelling = dissect.QUICK_LABELLING if options.quick else dissect.LABELLING
    figures = dissect.counts(work, options, device, prefix="gpu_")
    return [*figures, *dissect.scores(replace(labelling, device=device), options, prefix="gpu_")]
