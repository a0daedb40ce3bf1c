"""Commit records: publishing a part, rolling it forward, finding its files. FORMAT.md, "Commit"."""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mmxai.errors import StoreFormatError
from mmxai.store import layout, sealed
from mmxai.store.files import (
    disk_full,
    fsync_directory,
    link_if_absent,
    staged,
    write_file,
)

PLAN = "mmxai/plan.json"
END = "mmxai/end.json"
LOCK = "mmxai/lock"
CLAIMS = "mmxai/claims"
COMMITS = "mmxai/commits"
SAMPLES = "mmxai/samples"
STATS = "mmxai/stats"
SEGMENTS = "mmxai/segments"

RECORD_NAME = re.compile(r"(0|[1-9][0-9]*)\.json")


def record_key(part: int) -> str:
    return f"{COMMITS}/{part}.json"


def samples_key(part: int) -> str:
    return f"{SAMPLES}/{part}.jsonl"


def stats_key(part: int) -> str:
    return f"{STATS}/{part}.safetensors"


@dataclass(frozen=True)
class FileRecord:
    """One file of a part. `chunks`: uint32, CRC-32C of every present inner chunk; None unless a shard."""

    key: str
    size: int
    crc32c: int
    chunks: np.ndarray | None = None

    def to_json(self) -> dict[str, Any]:
        out: dict[str, Any] = {"key": self.key, "size": self.size, "crc32c": self.crc32c}
        if self.chunks is not None:
            out["chunks"] = base64.b64encode(self.chunks.astype("<u4").tobytes()).decode()
        return out

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> FileRecord:
        chunks = None
        if "chunks" in value:
            chunks = np.frombuffer(base64.b64decode(value["chunks"], validate=True), "<u4")
        return cls(value["key"], value["size"], value["crc32c"], chunks)


@dataclass(frozen=True)
class PartRecord:
    """What a commit record says; the fields are those of FORMAT.md."""

    part: int
    attempt: str
    plan: str
    first: int
    samples: int
    digest: str
    rows: Mapping[str, int]
    files: tuple[FileRecord, ...]
    producer: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        return {
            "format": layout.FORMAT,
            "part": self.part,
            "attempt": self.attempt,
            "plan": self.plan,
            "first": self.first,
            "samples": self.samples,
            "digest": self.digest,
            "rows": dict(self.rows),
            "files": [f.to_json() for f in self.files],
            "producer": dict(self.producer),
        }

    @classmethod
    def load(cls, path: Path) -> PartRecord:
        """Read a record; FileNotFoundError when there is none, StoreFormatError when it is damaged."""
        fields = sealed.load(path.read_bytes(), path)
        if fields.pop("format", None) != layout.FORMAT:
            raise StoreFormatError(f"{path}: got another format than {layout.FORMAT}; update mmxai")
        try:
            files = tuple(FileRecord.from_json(f) for f in fields.pop("files"))
            record = cls(files=files, **fields)
        except (KeyError, TypeError, ValueError) as error:
            raise StoreFormatError(f"{path}: got a damaged commit record ({error!r})") from error
        if f"{record.part}.json" != path.name:
            raise StoreFormatError(f"{path}: holds the record of part {record.part}; the file was moved")
        return record


def publish(root: Path, record: PartRecord, *, durable: bool) -> bool:
    """Commit a part whose staged files are complete: False when another attempt owns the part."""
    path = root / record_key(record.part)
    temporary = staged(path, record.attempt)
    try:
        write_file(temporary, sealed.dump(record.to_json()), durable=durable)
        with disk_full(path):
            created = link_if_absent(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    if created and durable:
        fsync_directory(path.parent)
    return created


def roll_forward(root: Path, record: PartRecord) -> None:
    """Give the files of a committed part their final names; safe to do twice, at once, or by anyone."""
    for file in record.files:
        path = root / file.key
        try:
            os.rename(staged(path, record.attempt), path)
        except FileNotFoundError:
            # Somebody else has done it, or the file is lost: then whoever reads or verifies it says so.
            continue


def is_rolled_forward(root: Path, record: PartRecord) -> bool:
    """Whether all files of a committed part have their final names (they get them in order)."""
    return not record.files or not staged(root / record.files[-1].key, record.attempt).exists()


def locate(root: Path, key: str, attempt: str) -> Path:
    """Where file `key` of a committed part lies now: its final name, else the staged one of `attempt`.

    The result may not exist if the file is lost.
    """
    path = root / key
    if path.exists():
        return path
    hidden = staged(path, attempt)
    return hidden if hidden.exists() else path
