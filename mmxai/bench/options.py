"""What a case is told."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Options:
    """quick: small shapes and two repeats, which show that a case runs and measure nothing.

    warm_folder, cold_folder: where files go that stay in memory and that must reach a disk; by default a
    tmpfs where there is one, and the current folder. peers: the names of peers wanted, () for all that a
    case has, None for none.
    """

    quick: bool = False
    warm_folder: str | None = None
    cold_folder: str | None = None
    peers: tuple[str, ...] | None = None

    def repeats(self, wanted: int) -> int:
        return min(wanted, 2) if self.quick else wanted

    @contextmanager
    def warm(self) -> Iterator[Path]:
        """A scratch folder in memory, removed at the end."""
        with _scratch(self.warm_folder or tmpfs()) as path:
            yield path

    @contextmanager
    def cold(self) -> Iterator[Path]:
        """A scratch folder on a disk, removed at the end."""
        with _scratch(self.cold_folder or ".") as path:
            yield path


def tmpfs() -> str | None:
    """A folder whose files live in memory, or None where there is none."""
    return "/dev/shm" if os.path.isdir("/dev/shm") else None


@contextmanager
def _scratch(parent: str | None) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="mmxai-bench-", dir=parent) as path:
        yield Path(path)
