"""Read-only memory maps that hold no file descriptor, and a bound on how many there are."""

from __future__ import annotations

import ctypes
import mmap
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

import numpy as np

from mmxai.errors import StoreError

T = TypeVar("T")

MAX_MAPS = 30_000
"""Maps a store keeps: Linux allows a process 65,530 (vm.max_map_count)."""

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [
    ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long,
]  # fmt: skip
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_FAILED = ctypes.c_void_p(-1).value


class _Map:
    """A mapped file. Arrays made of it keep it; it is unmapped when the last of them goes."""

    def __init__(self, fd: int, size: int):
        # np.memmap and mmap.mmap keep a descriptor each, and a process often has no more than 1,024.
        address = _libc.mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, fd, 0)
        if address is None or address == _FAILED:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        self._munmap, self._address, self._size = _libc.munmap, address, size
        self.__array_interface__ = {
            "data": (address, True), "shape": (size,), "typestr": "|u1", "version": 3,
        }  # fmt: skip

    def __del__(self) -> None:
        if hasattr(self, "_address"):
            self._munmap(self._address, self._size)


def map_file(fd: int, size: int) -> np.ndarray:
    """The first `size` bytes of the open file `fd`, read only: uint8 `[size]`."""
    return np.asarray(_Map(fd, size)) if size else np.empty(0, np.uint8)


class MapCache(Generic[T]):
    """Groups of maps by key; the least recently used groups go when there are more than `limit` maps."""

    def __init__(self, name: str, limit: int = MAX_MAPS):
        self._name, self._limit, self._maps = name, limit, 0
        self._closed = False
        self._groups: OrderedDict[Hashable, tuple[T, int]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable, maps: int, make: Callable[[], T]) -> T:
        """The group `key`; made by `make`, which opens `maps` maps, where it is not at hand."""
        with self._lock:
            if self._closed:
                raise StoreError(f"{self._name}: has been closed; open it again")
            if key in self._groups:
                self._groups.move_to_end(key)
                return self._groups[key][0]
            while self._groups and self._maps + maps > self._limit:
                self._maps -= self._groups.popitem(last=False)[1][1]
            group = make()
            self._groups[key] = group, maps
            self._maps += maps
            return group

    def close(self) -> None:
        """Let go of all groups, for good."""
        with self._lock:
            self._groups.clear()
            self._closed = True
