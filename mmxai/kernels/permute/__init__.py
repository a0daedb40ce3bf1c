"""The walk of a keyed permutation of range(n): a balanced Feistel network with cycle walking.

Cycle walking: Black and Rogaway 2002, "Ciphers with arbitrary finite domains". Round function: the finaliser
of SplitMix64 (Steele et al. 2014).
"""

from __future__ import annotations

import numpy as np

from mmxai.errors import ArgumentError
from mmxai.kernels._dispatch import Op
from mmxai.kernels._threads import thread_count

OP = Op("permute")


def feistel(
    values: np.ndarray,
    n: int,
    half: int,
    keys: np.ndarray,
    forward: bool,
    *,
    threads: int | None = None,
    backend: str = "auto",
) -> np.ndarray:
    """Where `values` (uint64 `[N]`, each below `n`) go: int64 `[N]`, each below `n`.

    The network works on `2 * half` bits, the fewest that hold `n - 1`; `keys`: uint64 `[4]`, one a round.
    `forward=False` is the inverse. `threads`: None takes as many as torch does.
    """
    if values.dtype != np.uint64 or values.ndim != 1 or keys.dtype != np.uint64 or keys.shape != (4,):
        raise ArgumentError(
            f"feistel: got values {values.dtype}{values.shape}, keys {keys.dtype}{keys.shape}, "
            "expected uint64(N,) and uint64(4,)"
        )
    if not 1 <= half <= 31 or not 0 <= n <= 1 << (2 * half):
        raise ArgumentError(f"feistel: got n {n}, half {half}; expected 1 <= half <= 31 and n <= 4**half")
    if values.size and int(values.max()) >= n:
        raise ArgumentError(f"feistel: got value {values.max()}, expected values below {n}")
    run = OP.pick(backend, "cpu").feistel
    return run(
        np.ascontiguousarray(values), n, half, np.ascontiguousarray(keys), forward, thread_count(threads)
    )
