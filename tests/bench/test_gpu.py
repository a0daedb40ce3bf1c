"""The GPU case, taken through its paces on the CPU: what it measures is only worth something on a GPU."""

import torch

from mmxai.bench import Options
from mmxai.bench.cases import gpu
from mmxai.bench.cases.stats import Work


def test_it_measures_every_side_and_their_answers_agree():
    figures = {f.name: f for f in gpu.measure(gpu.QUICK[0], Options(quick=True), ["numba"], "cpu")}
    named = {"gpu_fused_vs_copy", "gpu_numba_vs_copy", "gpu_fused_vs_torch", "gpu_fused_vs_torch_best"}
    assert named <= set(figures) and all(f.value > 0 for f in figures.values())
    assert figures["gpu_fused_vs_copy"].target == ">= 0.7" and figures["gpu_fused_vs_torch"].target == ">= 10"
    other = gpu.measure(Work("_k64", 300, 40, 64, torch.float32, 2), Options(quick=True), [], "cpu")
    assert all(f.name.endswith("_k64") and f.target is None for f in other)


def test_a_forward_with_and_without_capture():
    figure = gpu.against_forward(Options(quick=True), "cpu")
    assert figure.value > 0.5 and "forward" in figure.floor
