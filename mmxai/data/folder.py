"""A folder of images."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmxai.data.decode import IMAGE_SUFFIXES
from mmxai.data.sample import Sample
from mmxai.data.source import Source, checked, fingerprint
from mmxai.errors import DataError, UnreadableSampleError


class FolderSource(Source):
    """Every image below a folder, sorted by path; hidden files and folders are left out.

    Key: the path relative to the folder, with "/". Column `folder`: the subfolder (often the class), where
    there is one.
    """

    def __init__(self, root: str | Path):
        self._root = Path(root)
        kinds: Counter[str] = Counter()
        found: list[tuple[str, int]] = []
        for path, size in _walk(self._root, ""):
            suffix = os.path.splitext(path)[1].lower()
            if suffix in IMAGE_SUFFIXES:
                found.append((path, size))
            else:
                kinds[suffix or "no suffix"] += 1
        if not found:
            known = " ".join(IMAGE_SUFFIXES)
            others = ", ".join(f"{n} x {kind}" for kind, n in kinds.most_common(5)) or "nothing"
            raise DataError(
                f"{self._root}: got a folder that holds {others}, expected images ({known}); give a "
                "text, CSV, JSON lines or tar file by its own path, shards as 'folder/*.tar'"
            )
        found.sort()
        self._keys = [path for path, _ in found]
        self._fingerprint = fingerprint(f"{path}\t{size}" for path, size in found)

    @property
    def identity(self) -> dict[str, Any]:
        return {
            "kind": "folder",
            "name": self._root.resolve().name,
            "count": len(self),
            "fingerprint": self._fingerprint,
        }

    def __len__(self) -> int:
        return len(self._keys)

    def __getitem__(self, index: int) -> Sample:
        key = self._keys[checked(index, len(self))]
        folder = os.path.dirname(key)
        columns = {"folder": folder} if folder else {}
        return Sample(key, image=read_file(self._root / key, key), columns=columns)


def read_file(path: Path, key: str) -> bytes:
    """The bytes of a sample's file; what the file system refuses makes the sample unreadable."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise UnreadableSampleError(
            f"{key}: got no file that can be read ({error.strerror}), expected an image file at that path",
            key=key,
        ) from error


def _walk(root: Path, below: str) -> Iterator[tuple[str, int]]:
    with os.scandir(root / below) as entries:
        for entry in entries:
            path = f"{below}{entry.name}"
            if entry.name.startswith("."):
                continue
            if entry.is_dir(follow_symlinks=False):
                yield from _walk(root, path + "/")
            elif entry.is_file():
                yield path, entry.stat().st_size
