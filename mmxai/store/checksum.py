"""CRC-32C, the store's only checksum."""

from __future__ import annotations

from google_crc32c import extend
from google_crc32c import value as _value


def crc32c(data, value: int = 0) -> int:
    import numpy as np

    data = np.frombuffer(data, np.uint8).tobytes()
    return extend(value, data) if value else _value(data)
