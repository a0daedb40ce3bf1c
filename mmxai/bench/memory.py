"""How much memory a process takes, as Linux tells (/proc/self/status)."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

_LOOK = 0.002
"""Seconds between two looks."""


def growth(work: Callable[[], T]) -> tuple[T, int]:
    """What `work` returns, and the bytes by which this process grew at most meanwhile, less maps of files: a
    store's are the system's, to drop when it likes."""
    first = most = status("RssAnon")
    done = threading.Event()

    def look() -> None:
        nonlocal most
        while not done.wait(_LOOK):
            most = max(most, status("RssAnon"))

    looking = threading.Thread(target=look, daemon=True)
    looking.start()
    try:
        found = work()
    finally:
        done.set()
        looking.join()
    return found, most - first


def status(field: str) -> int:
    """Bytes of a field of /proc/self/status. (ru_maxrss would begin at the parent's peak.)"""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(field))
