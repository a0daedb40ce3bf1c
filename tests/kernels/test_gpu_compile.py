"""The GPU kernels compiled for GPUs that need not be here: they compile, and nothing leaves registers."""

import os
import re
import shutil
import subprocess
import sys

import pytest

from mmxai.kernels._dispatch import unavailable
from mmxai.kernels._resources import ARCHITECTURES


def resources(arch, tool):
    """Lines (kernel, registers, stack), from a process in which Triton compiles and does not interpret."""
    shown = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "mmxai.kernels._resources", str(arch), tool],
        env=os.environ | {"TRITON_INTERPRET": "0"},
        capture_output=True,
        text=True,
    )
    assert shown.returncode == 0, shown.stderr[-3000:]
    print(shown.stdout)
    found = re.findall(r"^sm_\d+ (.*): (\d+) registers, (\d+) stack$", shown.stdout, re.M)
    return [(name, int(registers), int(stack)) for name, registers, stack in found]


@pytest.mark.skipif(unavailable("triton") is not None, reason="Triton is not installed")
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_triton(arch):
    found = resources(arch, "triton")
    kernels = {name.split()[0] for name, _, _ in found}
    assert kernels == {
        "capture_tiles", "mend", "fold", "select", "row_scales", "best", "decode", "error_rows",
        "latent_gradients", "adam", "above", "count_cells", "count_entries", "count_blocks", "log_sums",
        "lens_rows",
    }  # fmt: skip
    assert [line for line in found if line[2]] == []
    assert all(registers <= 255 for _, registers, _ in found)


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not here")
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_nvcc(arch):
    found = resources(arch, "nvcc")
    kernels = " ".join(name for name, _, _ in found)
    assert all(part in kernels for part in ("capture_tiles", "mend", "fold", "select", "row_scales", "pack_"))
    assert [line for line in found if line[2]] == []
    tiles = [registers for name, registers, _ in found if "capture_tiles" in name]
    assert max(tiles) <= 128  # two blocks of 256 threads on a multiprocessor
