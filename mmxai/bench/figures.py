"""A measured number, and timing in turns."""

from __future__ import annotations

import shutil
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmxai.errors import MmxaiError


class CannotRunError(MmxaiError):
    """This machine lacks what a case measures (a GPU, say). Said plainly; not a failure."""


class RedTestsError(MmxaiError):
    """The tests of what was to be timed fail: nothing is timed on wrong code."""


class UnequalWorkError(MmxaiError):
    """Two sides of a ratio gave different answers, so they did different work."""


@dataclass(frozen=True)
class Figure:
    """One measured number. `target` reads '>= 2' or '<= 1.15'; None for a figure that is only reported.

    `floor` says what no code could beat here: bytes over bandwidth, operations over rate, or the bare work
    that the figure is a ratio to. `detail` is what was measured, with its spread.
    """

    name: str
    value: float
    target: str | None
    detail: str
    floor: str

    def __post_init__(self) -> None:
        if not self.floor:
            raise ValueError(f"figure {self.name} has no floor")
        if self.target is not None:
            sign, bound = self.target.split()
            if sign not in (">=", "<="):
                raise ValueError(f"figure {self.name}: target {self.target!r}, expected '>= x' or '<= x'")
            float(bound)

    @property
    def verdict(self) -> str:
        """'met', 'MISSED' or 'reported'; a NaN misses."""
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

    def per(self, count: float) -> Timing:
        """The same timing, of one of `count` equal pieces."""
        return Timing([s / count for s in self.seconds])

    def __str__(self) -> str:
        low, high = min(self.seconds), max(self.seconds)
        return f"{seconds_text(self.median)} ({seconds_text(low)}-{seconds_text(high)})"


def interleave(works: Mapping[str, Callable[[], Any]], repeats: int, warmup: int = 1) -> dict[str, Timing]:
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


def interleave_paths(
    folder: Path, works: Mapping[str, Callable[[Path], Any]], repeats: int, warmup: int = 1
) -> dict[str, Timing]:
    """`interleave` for work that writes: each turn gets a path of its own, removed while no clock runs."""
    timings = {name: Timing() for name in works}
    for turn in range(warmup + repeats):
        for name, work in works.items():
            path = folder / f"{name}-{turn}"
            start = time.perf_counter()
            work(path)
            seconds = time.perf_counter() - start
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
            if turn >= warmup:
                timings[name].seconds.append(seconds)
    return timings


def ratio(numerator: Timing, denominator: Timing) -> float:
    """Median over repeats of the pairwise ratio."""
    pairs = zip(numerator.seconds, denominator.seconds, strict=True)
    return statistics.median(a / b for a, b in pairs)


def seconds_text(value: float) -> str:
    return f"{value:.2f} s" if value >= 1 else f"{value * 1e3:.3g} ms"
