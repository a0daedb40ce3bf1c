"""How much memory a loader may count on."""

from __future__ import annotations

import os
from pathlib import Path


def available_bytes() -> int:
    """Memory that can be had without swapping, counting the page cache as free, within the cgroup's limit."""
    found = [_meminfo(), *_cgroup()]
    return min(f for f in found if f is not None)


def _meminfo() -> int:
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass  # not Linux: half of the memory there is stands in for what is free
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def _cgroup() -> list[int]:
    """What the container's limit leaves, where there is one: its limit less what is not page cache."""
    root = Path("/sys/fs/cgroup")
    for limit, usage, stat in (
        ("memory.max", "memory.current", "memory.stat"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat"),
    ):
        try:
            most = (root / limit).read_text().strip()
            used = int((root / usage).read_text())
            stats = dict(line.split() for line in (root / stat).read_text().splitlines())
        except OSError:
            continue
        if most.isdigit():
            cached = int(stats.get("file", stats.get("total_cache", 0)))
            return [max(0, int(most) - used + cached)]
    return []
