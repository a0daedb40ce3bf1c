"""Streaming one shard to its staged file, checksummed chunk by chunk while the bytes are warm."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from mmxai.kernels.crc32c import crc32c
from mmxai.store import layout
from mmxai.store.commit import FileRecord
from mmxai.store.files import disk_full, staged, write_all
from mmxai.store.spec import ArraySpec


class ShardWriter:
    """The shard of one part of one array; rows are appended, then `finish` pads and indexes it."""

    def __init__(self, root: Path, array: ArraySpec, part: int, attempt: str):
        self.key = layout.shard_key(array.path, part)
        self.path = staged(root / self.key, attempt)
        self.rows = 0
        self._array = array
        self._chunk_bytes = array.chunk * array.row_bytes
        self._filled = 0
        self._crc = 0
        self._chunks: list[int] = []
        with disk_full(self.path):
            self._handle = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)

    def append(self, data: np.ndarray) -> None:
        """Append rows, C-contiguous `[N, width]` of the array's item size."""
        flat = data.reshape(-1).view(np.uint8)
        with disk_full(self.path):
            at = 0
            while at < flat.size:
                piece = flat[at : at + self._chunk_bytes - self._filled]
                # A chunk at a time: the checksum brings it into the cache, the write finds it there.
                self._crc = crc32c(piece, self._crc)
                write_all(self._handle, piece.data)
                at += piece.size
                self._filled += piece.size
                if self._filled == self._chunk_bytes:
                    self._chunks.append(self._crc)
                    self._filled = self._crc = 0
        self.rows += data.shape[0]

    def finish(self, *, durable: bool) -> FileRecord:
        """Pad the last chunk, write the index, make the file durable and close it."""
        array, rows = self._array, self.rows
        if self._filled:
            missing = (self._chunk_bytes - self._filled) // array.row_bytes
            self.append(layout.padding(missing, array.width, array.dtype))
        index = array.index(rows)
        with disk_full(self.path):
            write_all(self._handle, memoryview(index))
            if durable:
                os.fsync(self._handle)
        self.close()
        chunks = np.array(self._chunks, np.uint32)
        return FileRecord(self.key, array.file_bytes(rows), int.from_bytes(index[-4:], "little"), chunks)

    def close(self) -> None:
        if self._handle >= 0:
            handle, self._handle = self._handle, -1
            os.close(handle)
