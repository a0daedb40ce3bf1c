"""The build itself: what happens where there is no compiler."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def tree(tmp_path):
    """A copy of what the build reads."""
    for name in ("setup.py", "pyproject.toml", "README.md"):
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / "csrc", tmp_path / "csrc")
    (tmp_path / "mmxai").mkdir()
    (tmp_path / "mmxai" / "__init__.py").touch()
    return tmp_path


def build(tree: Path, **environment: str) -> subprocess.CompletedProcess:
    pytest.importorskip("pybind11")
    pytest.importorskip("setuptools")
    return subprocess.run(
        [sys.executable, "setup.py", "-q", "build_ext", "--build-lib", "out"],
        cwd=tree,
        env=os.environ | {"MMXAI_CUDA": "0", "MMXAI_REQUIRE_NATIVE": "0"} | environment,
        capture_output=True,
        text=True,
    )


def test_without_a_compiler_it_goes_on_and_says_so(tree):
    result = build(tree, CC="/nowhere/cc", CXX="/nowhere/c++")
    assert result.returncode == 0, result.stderr
    report = json.loads((tree / "out" / "mmxai" / "_build.json").read_text())
    assert "it did not compile" in report["_cpu_base"]
    assert "nvcc" in report["_cuda"]
    assert not list((tree / "out").rglob("*.so"))


def test_a_failure_is_fatal_on_demand(tree):
    result = build(tree, CC="/nowhere/cc", CXX="/nowhere/c++", MMXAI_REQUIRE_NATIVE="1")
    assert result.returncode != 0
    assert "MMXAI_REQUIRE_NATIVE=1" in result.stderr


def test_a_broken_nvcc(tree):
    fake = tree / "bin" / "nvcc"
    fake.parent.mkdir()
    fake.write_text("#!/bin/sh\necho no such architecture >&2\nexit 1\n")
    fake.chmod(0o755)
    result = build(tree, CC="/nowhere/cc", CXX="/nowhere/c++", MMXAI_CUDA="1", CUDA_HOME=str(tree))
    assert result.returncode == 0, result.stderr
    report = json.loads((tree / "out" / "mmxai" / "_build.json").read_text())
    assert "no such architecture" in report["_cuda"]
