"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

if not torch.cuda.is_available():
    # Triton's kernels then run under its interpreter, on the CPU; Triton looks when it is first imported.
    os.environ.setdefault("TRITON_INTERPRET", "1")

_SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data that lies beside the repository; without it the test is skipped."""
    if not _SHARED.is_dir():
        pytest.skip("no ../shared/data beside the repository")
    return _SHARED


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Every test draws the same numbers whichever tests ran before, so that what fails once fails again."""
    torch.manual_seed(0)
