"""`crc32c` by slicing by 8 (Kounavis and Berry 2005) under numba. One thread."""

from __future__ import annotations

import numpy as np

from mmxai.kernels._jit import jit


def supports() -> str | None:
    return None


def _tables() -> np.ndarray:
    """uint64 `[8, 256]`: the remainder of a byte followed by 0 to 7 zero bytes."""
    tables = np.zeros((8, 256), np.uint64)
    tables[0] = np.arange(256)
    one, polynomial = np.uint64(1), np.uint64(0x82F63B78)
    for _ in range(8):
        tables[0] = (tables[0] >> one) ^ (tables[0] & one) * polynomial
    for k in range(1, 8):
        tables[k] = (tables[k - 1] >> np.uint64(8)) ^ tables[0][tables[k - 1] & np.uint64(255)]
    return tables


_TABLES = _tables()


@jit
def _extend(value: np.uint64, words: np.ndarray, tail: np.ndarray, t: np.ndarray) -> np.uint64:
    byte = np.uint64(255)
    r = value ^ np.uint64(0xFFFFFFFF)
    for word in words:
        x = word ^ r
        r = t[0, x >> np.uint64(56)]
        for k in range(7):
            r ^= t[7 - k, (x >> np.uint64(8 * k)) & byte]
    for x in tail:
        r = t[0, (r ^ np.uint64(x)) & byte] ^ (r >> np.uint64(8))
    return r ^ np.uint64(0xFFFFFFFF)


def crc32c(data: np.ndarray, value: int) -> int:
    whole = len(data) // 8 * 8
    return int(_extend(np.uint64(value), data[:whole].view("<u8"), data[whole:], _TABLES))


def crc32c_chunks(data: np.ndarray, chunk_bytes: int, threads: int) -> np.ndarray:
    starts = range(0, len(data), chunk_bytes)
    return np.array([crc32c(data[s : s + chunk_bytes], 0) for s in starts], np.uint32)
