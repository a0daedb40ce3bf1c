"""Threads of our own over work that is independent, each with BLAS on one thread."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from typing import TypeVar

import numpy as np  # noqa: F401  (its BLAS has to be there when libraries are looked for)
import scipy.linalg  # noqa: F401  (and so has scipy's)
from threadpoolctl import ThreadpoolController

from mmxai.kernels._threads import thread_count

Item = TypeVar("Item")
Result = TypeVar("Result")

_lock = threading.Lock()
_inside = 0  # how many are in `one_blas_thread`
_limit = None
_worker = threading.local()


def spread(work: Callable[[Item], Result], items: Iterable[Item], threads: int | None = None) -> list[Result]:
    """`work` of each item, in order, on `threads` threads (None: as many as kernels use).

    BLAS runs on one thread meanwhile, so that results do not hang on how many there are, and threads of
    BLAS, which wait for each other by spinning, do not take the place of those that work. Called by `work`
    itself it runs there and then: whoever is outermost has the threads. The first error is raised, and what
    has not begun by then is left.
    """
    items = list(items)
    count = min(thread_count(threads), len(items))
    with one_blas_thread():
        if count <= 1 or getattr(_worker, "busy", False):
            return [work(item) for item in items]
        with ThreadPoolExecutor(count, "mmxai", lambda: setattr(_worker, "busy", True)) as pool:
            return list(pool.map(work, items))


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """BLAS on one thread inside. It is a setting of the process: the first in makes it, the last out undoes
    it."""
    global _inside, _limit
    with _lock:
        if not _inside:
            _limit = _libraries().limit(limits=1, user_api="blas")
        _inside += 1
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if not _inside and _limit is not None:
                _limit.restore_original_limits()


@cache
def _libraries() -> ThreadpoolController:
    return ThreadpoolController()
