"""How many threads an op may use."""

from __future__ import annotations

import os
import sys

from mmxai.errors import ArgumentError


def thread_count(threads: int | None) -> int:
    """`threads`, or as many as torch uses; if torch is not loaded, `OMP_NUM_THREADS` or one a processor."""
    if threads is not None:
        if threads < 1:
            raise ArgumentError(
                f"threads: got {threads}, expected at least 1 (or None: as many as torch uses)"
            )
        return threads
    if "torch" in sys.modules:
        return sys.modules["torch"].get_num_threads()
    wish = os.environ.get("OMP_NUM_THREADS", "")
    return int(wish) if wish.isdecimal() and int(wish) > 0 else os.cpu_count() or 1
