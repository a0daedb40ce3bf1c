"""Timing, floors, the table and the JSON that every benchmark shares."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).parent.parent


@dataclass
class Figure:
    """One measured number. `target` reads '>= 2' or '<= 1.15'; None for a figure that is only reported."""

    name: str
    value: float
    target: str | None = None
    detail: str = ""
    floor: str = ""

    @property
    def verdict(self) -> str:
        if self.target is None:
            return "reported"
        sign, bound = self.target.split()
        met = self.value >= float(bound) if sign == ">=" else self.value <= float(bound)
        return "met" if met else "MISSED"


@dataclass
class Timing:
    """Seconds of every repeat of one piece of work."""

    seconds: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    def __str__(self) -> str:
        low, high = min(self.seconds), max(self.seconds)
        return f"{_seconds(self.median)} ({_seconds(low)}-{_seconds(high)})"


def interleave(works: dict[str, Callable[[], object]], repeats: int, warmup: int = 1) -> dict[str, Timing]:
    """Time several pieces of work in turn, A B C A B C, so that a drift of the machine falls on all alike."""
    timings = {name: Timing() for name in works}
    for turn in range(warmup + repeats):
        for name, work in works.items():
            start = time.perf_counter()
            work()
            seconds = time.perf_counter() - start
            if turn >= warmup:
                timings[name].seconds.append(seconds)
    return timings


def ratio(numerator: Timing, denominator: Timing) -> float:
    """Median over repeats of the pairwise ratio."""
    pairs = zip(numerator.seconds, denominator.seconds, strict=True)
    return statistics.median(a / b for a, b in pairs)


def copy_bandwidth(nbytes: int = 1 << 28) -> float:
    """Bytes a second of a large torch copy, counting bytes read and bytes written."""
    source = torch.ones(nbytes, dtype=torch.uint8)
    target = torch.empty_like(source)
    timing = interleave({"copy": lambda: target.copy_(source)}, repeats=5)["copy"]
    return 2 * nbytes / min(timing.seconds)


def run_tests(*paths: str) -> None:
    """The tests of what is about to be timed; a red test ends the benchmark."""
    print(f"tests first: {' '.join(paths)}", flush=True)
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-m", "not slow", "--no-header", *paths]
    if subprocess.run(command, cwd=ROOT, stdout=sys.stderr).returncode != 0:
        sys.exit("benchmarks: tests are red; nothing is timed on wrong code")


def machine() -> dict[str, object]:
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
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "system": platform.system(),
    }


def finish(case: str, figures: list[Figure], json_path: str | None) -> int:
    """Print the table, write the JSON; 1 when a figure misses its target."""
    rows = [("figure", "value", "target", "", "measured", "floor")]
    rows += [(f.name, f"{f.value:.3g}", f.target or "", f.verdict, f.detail, f.floor) for f in figures]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    if json_path:
        commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True)
        document = {
            "case": case,
            "figures": {f.name: f.value for f in figures},
            "details": {f.name: asdict(f) | {"verdict": f.verdict} for f in figures},
            "machine": machine(),
            "commit": commit.stdout.strip() or None,
        }
        Path(json_path).write_text(json.dumps(document, indent=2) + "\n")
    return int(any(f.verdict == "MISSED" for f in figures))


def _seconds(value: float) -> str:
    return f"{value:.2f} s" if value >= 1 else f"{value * 1e3:.3g} ms"
