"""JSON documents that carry their own checksum: plan, commit records, end marker.

A sealed document is a JSON object whose field `seal` is the CRC-32C (8 hex digits) of the canonical
JSON of all its other fields: keys sorted, no spaces, ASCII only, numbers as Python prints them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmxai.errors import ArgumentError, StoreFormatError
from mmxai.kernels.crc32c import crc32c


def canonical(value: Any) -> bytes:
    """Canonical JSON of `value`, as hashed and sealed."""
    try:
        return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
    except (TypeError, ValueError) as error:
        raise ArgumentError(f"store metadata: got a value JSON cannot hold ({error})") from error


def dump(fields: Mapping[str, Any], *, indent: int | None = None) -> bytes:
    """The bytes of a sealed document with these fields."""
    seal = f"{crc32c(canonical(fields)):08x}"
    separators = (",", ":") if indent is None else None
    return json.dumps({**fields, "seal": seal}, indent=indent, separators=separators).encode()


def load(data: bytes, path: Path) -> dict[str, Any]:
    """The fields of the sealed document `data`, read from `path`; StoreFormatError when damaged."""
    try:
        fields = json.loads(data)
    except ValueError as error:
        raise StoreFormatError(
            f"{path}: got bytes that are not JSON ({error}); the file is damaged"
        ) from error
    seal = fields.pop("seal", None) if isinstance(fields, dict) else None
    if seal is None:
        raise StoreFormatError(f"{path}: got no seal, expected a sealed JSON object; the file is damaged")
    found = f"{crc32c(canonical(fields)):08x}"
    if seal != found:
        raise StoreFormatError(f"{path}: got seal {seal}, the content hashes to {found}; the file is damaged")
    return fields
