"""Tests first: a case whose tests are red is not timed."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Sequence

from mmxai.bench.figures import RedTestsError
from mmxai.bench.machine import checkout

GREEN = "green"
INSTALLED = "not run: an installed package carries no tests"


def run_tests(paths: Sequence[str]) -> str:
    """Run the tests at `paths`, relative to the checkout. Returns `GREEN` or `INSTALLED`; red raises."""
    root = checkout()
    if root is None:
        return INSTALLED
    if importlib.util.find_spec("pytest") is None:
        raise RedTestsError(
            "pytest is not installed, and nothing is timed untested; pip install 'mmxai[test]'"
        )
    print(f"tests first: {' '.join(paths)}", flush=True)
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-m", "not slow", "--no-header", *paths]
    if subprocess.run(command, cwd=root, stdout=sys.stderr).returncode != 0:
        raise RedTestsError(f"the tests of {' '.join(paths)} are red; nothing is timed on wrong code")
    return GREEN
