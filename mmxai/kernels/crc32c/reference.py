"""The specification: google_crc32c, an independent implementation (and a dependency of zarr)."""

from __future__ import annotations

import google_crc32c
import numpy as np


def supports() -> str | None:
    return None


def crc32c(data: np.ndarray, value: int) -> int:
    return google_crc32c.extend(value, data.tobytes())


def crc32c_chunks(data: np.ndarray, chunk_bytes: int, threads: int) -> np.ndarray:
    starts = range(0, len(data), chunk_bytes)
    return np.array([crc32c(data[s : s + chunk_bytes], 0) for s in starts], np.uint32)
