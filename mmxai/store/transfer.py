"""Where a loader's batches are put together and how they reach the device asked for."""

from __future__ import annotations

from collections import deque
from typing import Any

import torch

from mmxai.store.buffers import BufferPool
from mmxai.store.table import Matrix
from mmxai.types import Batch


class Transfer:
    """Buffers to gather into, and the last step to `device` and `dtype` in the consumer's thread.

    For the CPU buffers are recycled once nobody holds the batch. For CUDA they are pinned; the copy goes on
    the consumer's current stream, so whatever it enqueues next sees the data, and a buffer is filled again
    only after the event that its copy recorded. Conversion happens in the gather on the CPU, and on the GPU
    otherwise, for the bus carries the stored dtype faster.
    """

    def __init__(self, device: torch.device | str | None, dtype: torch.dtype | None, pool: BufferPool):
        self._device = torch.device("cpu" if device is None else device)
        self._dtype = dtype
        self._pool = pool
        self._pinned: deque[tuple[torch.Tensor, Any]] = deque()

    def empty(self, rows: int, table: Matrix) -> torch.Tensor:
        """A CPU tensor `[rows, width]` to gather into."""
        if self._device.type == "cuda":
            return self._take_pinned(rows, table)
        fused = self._dtype == torch.float32
        return self._pool.empty((rows, table.width), torch.float32 if fused else table.dtype)

    def deliver(self, batch: Batch) -> Batch:
        """The batch as the consumer asked for it."""
        if self._device.type != "cuda":
            if self._device.type == "cpu" and (self._dtype is None or self._dtype == torch.float32):
                return batch
            return batch.to(self._device, self._dtype)
        moved = batch.to(self._device, non_blocking=True)
        event = torch.cuda.Event()
        event.record(torch.cuda.current_stream(self._device))
        self._pinned.extend((host, event) for host in batch.values())
        return moved if self._dtype is None else moved.to(dtype=self._dtype)

    def _take_pinned(self, rows: int, table: Matrix) -> torch.Tensor:
        for _ in range(len(self._pinned)):
            host, event = self._pinned.popleft()
            if host.dtype == table.dtype and tuple(host.shape) == (rows, table.width):
                event.synchronize()
                return host
            self._pinned.append((host, event))
        return torch.empty((rows, table.width), dtype=table.dtype, pin_memory=True)
