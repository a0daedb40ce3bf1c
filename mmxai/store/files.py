"""Durable file operations and the names of staged files. All errors carry the path they happened at."""

from __future__ import annotations

import errno
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from mmxai.errors import DiskFullError, StoreError

STAGED = re.compile(r"\.(?P<name>.+)\.(?P<attempt>[0-9a-f]{16})")
_FULL = (errno.ENOSPC, errno.EDQUOT)
_NO_LINK = (errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP, errno.EMLINK, errno.EXDEV)


def new_attempt() -> str:
    """A name for an attempt, never used before: 16 hexadecimal digits."""
    return secrets.token_hex(8)


def staged(path: Path, attempt: str) -> Path:
    """Where the file that will be `path` lies until its part is committed and rolled forward."""
    return path.with_name(f".{path.name}.{attempt}")


@contextmanager
def disk_full(path: Path) -> Iterator[None]:
    """Turn ENOSPC and EDQUOT inside the block into DiskFullError."""
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise DiskFullError(
            f"{path}: no room left on its file system ({error.strerror}). Everything committed is safe: "
            "make room and run the same command again to resume"
        ) from error


def fsync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_file(path: Path, data: bytes, *, durable: bool) -> None:
    """Create `path`, which must not exist, with this content."""
    with disk_full(path), open(path, "xb", buffering=0) as handle:
        write_all(handle.fileno(), memoryview(data))
        if durable:
            os.fsync(handle.fileno())


def write_all(handle: int, data: memoryview) -> None:
    """os.write until everything is written; Linux takes at most 2 GiB a call."""
    while data.nbytes:
        data = data[os.write(handle, data) :]


def replace_file(path: Path, data: bytes, *, durable: bool) -> None:
    """Create or replace `path` atomically."""
    temporary = staged(path, new_attempt())
    try:
        write_file(temporary, data, durable=durable)
        os.rename(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if durable:
        fsync_directory(path.parent)


def link_if_absent(source: Path, target: Path) -> bool:
    """Publish `source` as `target`: True when this call did, False when `target` existed already."""
    try:
        os.link(source, target)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno in _NO_LINK:
            _no_link(target.parent, error.strerror or str(error))
        raise
    return True


def create_if_absent(path: Path, data: bytes, *, durable: bool) -> bool:
    """Create `path` whole or not at all: True when this call did, False when it existed already."""
    temporary = staged(path, new_attempt())
    try:
        write_file(temporary, data, durable=durable)
        created = link_if_absent(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    if durable:
        fsync_directory(path.parent)
    return created


def probe_link(directory: Path) -> None:
    """Refuse a file system whose link(2) is missing or does not refuse an existing target (StoreError)."""
    first, second = (staged(directory / "probe", new_attempt()) for _ in range(2))
    try:
        write_file(first, b"", durable=False)
        if not link_if_absent(first, second) or link_if_absent(first, second):
            _no_link(directory, "linking to an existing name did not fail")
    finally:
        first.unlink(missing_ok=True)
        second.unlink(missing_ok=True)


def _no_link(directory: Path, reason: str) -> NoReturn:
    raise StoreError(
        f"{directory}: its file system cannot create a file if absent by link(2) ({reason}), as commits "
        "must; put the store on a local file system such as ext4, xfs, btrfs or tmpfs"
    )
