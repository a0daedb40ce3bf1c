"""Advisory locks: the store lock (flock, shared by writers) and part claims (fcntl byte ranges)."""

from __future__ import annotations

import fcntl
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mmxai.errors import StoreInUseError
from mmxai.store.commit import CLAIMS, LOCK

_WAIT_SECONDS = 60.0
_POLL_SECONDS = 0.02
# Bytes of the claims file that stand for no part.
_GROW = 1 << 62
_APPEND = _GROW + 1
_grow_threads = threading.Lock()


class StoreLock:
    """The flock of a store; freed by the kernel when its holder dies."""

    def __init__(self, root: Path):
        self._root = root
        self._handle = os.open(root / LOCK, os.O_RDWR | os.O_CREAT, 0o666)

    def try_exclusive(self) -> bool:
        """Take the store for oneself if nobody else holds it."""
        return self._take(fcntl.LOCK_EX)

    def exclusive_or_shared(self) -> bool:
        """Wait until the lock can be had: True when it is exclusive, False when shared."""
        deadline = time.monotonic() + _WAIT_SECONDS
        while not (exclusive := self._take(fcntl.LOCK_EX)) and not self._take(fcntl.LOCK_SH):
            if time.monotonic() > deadline:
                self.close()
                raise StoreInUseError(
                    f"{self._root}: another process has had the store to itself for {_WAIT_SECONDS:.0f} s "
                    "(compaction?); wait for it to end and try again"
                )
            time.sleep(_POLL_SECONDS)
        return exclusive

    def to_shared(self) -> None:
        """Let other writers in."""
        fcntl.flock(self._handle, fcntl.LOCK_SH)

    def close(self) -> None:
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1

    def _take(self, kind: int) -> bool:
        try:
            fcntl.flock(self._handle, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


class Claims:
    """Parts being made by live processes. Only saves work: commits are what makes parts exactly-once."""

    def __init__(self, root: Path):
        self._handle = os.open(root / CLAIMS, os.O_RDWR | os.O_CREAT, 0o666)
        self._held: set[int] = set()

    def take(self, part: int) -> bool:
        """Claim a part: False when it is claimed already, by this writer or another process."""
        if part in self._held:
            return False
        try:
            fcntl.lockf(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, part)
        except (BlockingIOError, PermissionError):
            return False
        self._held.add(part)
        return True

    def take_append(self) -> bool:
        """Claim the right to append samples at the end."""
        return self.take(_APPEND)

    def drop(self, part: int) -> None:
        if part in self._held:
            self._held.discard(part)
            fcntl.lockf(self._handle, fcntl.LOCK_UN, 1, part)

    @contextmanager
    def growing(self) -> Iterator[None]:
        """Alone in changing the arrays' shapes, among processes and threads."""
        with _grow_threads:
            fcntl.lockf(self._handle, fcntl.LOCK_EX, 1, _GROW)
            try:
                yield
            finally:
                fcntl.lockf(self._handle, fcntl.LOCK_UN, 1, _GROW)

    def close(self) -> None:
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1
            self._held.clear()
