"""The directories and zarr.json documents of a store, growth, and removal of orphans."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from mmxai.errors import StoreFormatError
from mmxai.store import layout
from mmxai.store.commit import COMMITS, SAMPLES, SEGMENTS, STATS
from mmxai.store.files import STAGED, fsync_directory, replace_file
from mmxai.store.plan import Plan
from mmxai.store.snapshot import Snapshot

DOCUMENT = "zarr.json"
_PART_FILE = re.compile(r"(?:c\.)?(\d+)\.(?:0|jsonl|safetensors)")


def documents(plan: Plan, parts: int) -> dict[str, dict[str, Any]]:
    """Every zarr.json of a store, by directory relative to it; the root comes last."""
    out = {
        layout.STATE: layout.state_document(),
        **groups(plan),
        **{path: array.document(parts) for path, array in plan.arrays.items()},
    }
    summary = {
        "format": layout.FORMAT,
        "plan": plan.hash,
        "version": plan.notes.get("mmxai"),
        "samples": plan.samples,
        "sites": {s.name: s.space for s in plan.sites},
    }
    out["."] = layout.group_document({"mmxai": summary})
    return out


def groups(plan: Plan) -> dict[str, dict[str, Any]]:
    """The zarr.json of the groups inside the store, by directory: the row tables', and of encoded sites."""
    encoded = {s.name: s.group_document() for s in plan.sites if s.encoded}
    return {layout.ROWS_GROUP: layout.group_document(), **encoded}


def directories(root: Path) -> None:
    """Make the directories of the transactional state that are missing."""
    for name in (COMMITS, SAMPLES, STATS, SEGMENTS):
        (root / name).mkdir(parents=True, exist_ok=True)


def build(root: Path, plan: Plan, *, durable: bool) -> None:
    """Make whatever directories and documents are missing."""
    directories(root)
    for directory, document in documents(plan, plan.parts or 0).items():
        path = root / directory / DOCUMENT
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            replace_file(path, layout.document_bytes(document), durable=durable)
    if durable:
        for directory in (layout.STATE, *groups(plan), "."):
            fsync_directory(root / directory)
        fsync_directory(root.absolute().parent)


def grow(root: Path, plan: Plan, parts: int, *, durable: bool) -> None:
    """Make the arrays of a plan of unknown length at least `parts` parts long. The caller is alone in it."""
    for path, array in plan.arrays.items():
        document = root / path / DOCUMENT
        if document_parts(document, array.capacity) < parts:
            replace_file(document, layout.document_bytes(array.document(parts)), durable=durable)


def document_parts(path: Path, capacity: int) -> int:
    """Parts for which the array document at `path` has room."""
    try:
        return int(json.loads(path.read_bytes())["shape"][0]) // capacity
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise StoreFormatError(
            f"{path}: got a damaged array document ({error!r}); delete it and resume writing"
        ) from error


def part_directories(plan: Plan) -> Iterator[str]:
    """Directories that hold one file a part, relative to the store."""
    yield from plan.arrays
    yield SAMPLES
    yield STATS


def part_of(name: str) -> int | None:
    """The part to which a file of a part directory belongs, by its final name."""
    match = _PART_FILE.fullmatch(name)
    return int(match[1]) if match else None


def staged_files(root: Path, plan: Plan) -> Iterator[tuple[Path, int | None, str]]:
    """Hidden files in the store: (path, part or None, attempt)."""
    with_parts = list(part_directories(plan))
    for directory in (".", layout.STATE, COMMITS, SEGMENTS, *groups(plan), *with_parts):
        for entry in os.listdir(root / directory):
            match = STAGED.fullmatch(entry)
            if match:
                part = part_of(match["name"]) if directory in with_parts else None
                yield root / directory / entry, part, match["attempt"]


def clean(root: Path, snapshot: Snapshot) -> int:
    """Roll committed parts forward and remove orphans; how many. Only under the exclusive lock."""
    removed = 0
    for path, part, attempt in list(staged_files(root, snapshot.plan)):
        if part is not None and part in snapshot and snapshot.attempt(part) == attempt:
            # A reader may be rolling the part forward too.
            with suppress(FileNotFoundError):
                path.rename(path.with_name(path.name[1 : -len(attempt) - 1]))
        elif part is None or part not in snapshot.damaged:
            path.unlink(missing_ok=True)
            removed += 1
    return removed
