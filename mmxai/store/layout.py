"""Where bytes lie: chunk sizes, zarr.json documents and shard indices (FORMAT.md, "Arrays").

Everything is written as plain JSON and bytes, so that nothing here needs Zarr, torch or ml_dtypes.
"""

from __future__ import annotations

import json
import re
from typing import Any

import numpy as np

from mmxai.errors import ArgumentError
from mmxai.kernels.crc32c import crc32c

FORMAT = 1
CHUNK_BYTES = 1 << 20
PAGE = 4096
INDEX_ENTRY_BYTES = 16
ABSENT = (1 << 64) - 1
ROWS_GROUP = "rows"
STATE = "mmxai"

ITEM_BYTES = {"bfloat16": 2, "float16": 2, "float32": 4, "int32": 4, "uint16": 2, "int8": 1}
# The fill value as an integer of the item's size: what padding rows hold.
FILL_BITS = {
    "bfloat16": 0x7FC0, "float16": 0x7E00, "float32": 0x7FC00000, "int32": 0xFFFFFFFF, "uint16": 0xFFFF,
    "int8": 0,
}  # fmt: skip
FILL_VALUES = {"int32": -1, "uint16": 0xFFFF, "int8": 0}  # in zarr.json; NaN for the others
FLOAT_DTYPES = ("bfloat16", "float16", "float32")
UINT16_COLUMNS = 0xFFFF
"""The widest site whose columns are numbered in uint16; 65,535 itself is the fill value."""

_NAME = re.compile(r"[^\x00-\x1f/\\]+")


def check_name(name: str, what: str) -> None:
    """Refuse names that cannot be a Zarr node and a directory at once (ArgumentError)."""
    bad = not _NAME.fullmatch(name) or name.startswith((".", "__")) or len(name.encode()) > 200
    if bad or (what == "site" and name in (ROWS_GROUP, STATE, "zarr.json")):
        raise ArgumentError(
            f"{what} name: got {name!r}, expected at most 200 bytes without '/', '\\' or control characters, "
            f"not beginning with '.' or '__', none of '{ROWS_GROUP}', '{STATE}', 'zarr.json'; choose another"
        )


def array_path(site: str, piece: str = "") -> str:
    """Array directory of a site (or of a piece of it), relative to the store."""
    return f"{site}/{piece}" if piece else site


def rows_path(space: str) -> str:
    """Array directory of a row space's row table, relative to the store."""
    return f"{ROWS_GROUP}/{space}"


def shard_key(array: str, part: int) -> str:
    """Relative path of the file that holds `part` of `array`."""
    return f"{array}/c.{part}.0"


def chunk_rows(row_bytes: int, part_rows: int, most: int | None = None) -> int:
    """R: rows of an inner chunk for rows of `row_bytes` in parts of at most `part_rows` rows.

    The power of two that brings a chunk nearest to 1 MiB, not above the part (nor `most`). Where a part
    has several chunks it is doubled until each is whole pages, unless that took more than 4 MiB (very wide
    rows of odd width).
    """
    near = 1
    while near * row_bytes * 3 < 2 * CHUNK_BYTES:
        near *= 2
    near = min(near, 1 << max(part_rows - 1, 0).bit_length(), most or near)
    aligned = near
    while aligned < part_rows and aligned * row_bytes % PAGE:
        aligned *= 2
        if aligned * row_bytes > 4 * CHUNK_BYTES:
            return near
    return aligned


def capacity(part_rows: int, chunks: list[int]) -> int:
    """C: rows of a shard that has room for `part_rows` rows, a multiple of every chunk size given."""
    largest = max(chunks)
    return max(1, -(-part_rows // largest)) * largest


def chunks_present(rows: int, chunk: int) -> int:
    """Inner chunks that exist in a shard of `rows` valid rows."""
    return -(-rows // chunk)


def shard_index(rows: int, chunk: int, shard_rows: int, row_bytes: int) -> bytes:
    """The index at the end of a shard: (offset, size) a chunk, uint64 little endian, then its CRC-32C."""
    entries = np.full((shard_rows // chunk, 2), ABSENT, "<u8")
    present = chunks_present(rows, chunk)
    entries[:present, 0] = np.arange(present, dtype=np.uint64) * np.uint64(chunk * row_bytes)
    entries[:present, 1] = chunk * row_bytes
    data = entries.tobytes()
    return data + crc32c(data).to_bytes(4, "little")


def shard_bytes(rows: int, chunk: int, shard_rows: int, row_bytes: int) -> int:
    """Size of a shard file with `rows` valid rows."""
    data = chunks_present(rows, chunk) * chunk * row_bytes
    return data + shard_rows // chunk * INDEX_ENTRY_BYTES + 4


def padding(rows: int, width: int, dtype: str) -> np.ndarray:
    """`rows` fill rows as unsigned integers `[rows, width]` of the item's size."""
    return np.full((rows, width), FILL_BITS[dtype], f"<u{ITEM_BYTES[dtype]}")


def array_document(
    *,
    parts: int,
    shard_rows: int,
    chunk: int,
    width: int,
    dtype: str,
    second: str,
    attributes: dict[str, Any],
) -> dict[str, Any]:
    """zarr.json of an array of `parts` shards."""
    little = {"name": "bytes", "configuration": {"endian": "little"}}
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": [parts * shard_rows, width],
        "data_type": dtype,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [shard_rows, width]}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "."}},
        "fill_value": FILL_VALUES.get(dtype, "NaN"),
        "codecs": [
            {
                "name": "sharding_indexed",
                "configuration": {
                    "chunk_shape": [chunk, width],
                    "codecs": [little],
                    "index_codecs": [little, {"name": "crc32c"}],
                    "index_location": "end",
                },
            }
        ],
        "attributes": attributes,
        "dimension_names": ["row", second],
    }


def state_document() -> dict[str, Any]:
    """zarr.json of `mmxai/`: an array without elements, so that no walker of the hierarchy looks inside."""
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": [0],
        "data_type": "uint8",
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [1]}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "."}},
        "fill_value": 0,
        "codecs": [{"name": "bytes"}],
        "attributes": {"mmxai": {"kind": "state"}},
    }


def group_document(attributes: dict[str, Any] | None = None) -> dict[str, Any]:
    """zarr.json of a group."""
    return {"zarr_format": 3, "node_type": "group", "attributes": attributes or {}}


def document_bytes(document: dict[str, Any]) -> bytes:
    """A zarr.json as stored."""
    return json.dumps(document, indent=2).encode() + b"\n"
