"""What figures were measured on, and the code that was measured."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import torch

PACKAGE = Path(__file__).parent.parent


def checkout() -> Path | None:
    """The root of the source tree this package is imported from; None for an installed package."""
    root = PACKAGE.parent
    return (
        root if (root / "pyproject.toml").is_file() and (root / "tests" / "conftest.py").is_file() else None
    )


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [
            line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if "model name" in line
        ]
        cpu = names[0] if names else cpu
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "system": platform.system(),
    }


def slug(machine: dict[str, Any]) -> str:
    """A file name for the machine: 'nvidia-h100-80gb-hbm3', 'amd-epyc-2-cores'."""
    name = machine["gpu"] or f"{machine['cpu']} {machine['cores']} cores"
    return re.sub(r"[^a-z0-9]+", "-", str(name).lower()).strip("-")


def commit() -> str | None:
    """The commit of the checkout, with '+changes' where its package differs from it; None without one."""
    root = checkout()
    if root is None:
        return None
    head = _git(root, "rev-parse", "HEAD")
    return f"{head}+changes" if head and _git(root, "status", "--porcelain", "mmxai", "csrc") else head


def _git(root: Path, *args: str) -> str | None:
    try:
        done = subprocess.run(["git", *args], cwd=root, capture_output=True, text=True)
    except FileNotFoundError:
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None
