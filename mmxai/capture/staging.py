"""From a GPU to the writer beside the forward pass: pinned memory, a stream of its own, two slots a site.

A hook writes a site's rows to a slot on the device; a side stream copies the slot to pinned memory while the
forward goes on; the slot's next user waits on the device, not on the host, until its copy is done. With two
slots the copy of a batch has all of the next batch's forward to hide in. The host first waits in
`Transfer.wait`, which is for the writer thread. On the CPU, where there is nothing to overlap, the same calls
copy at once.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import torch

from mmxai.errors import ArgumentError

SLOTS = 2


class Staging:
    """The copies of one extractor, from `device` to pinned memory.

    For every batch: `slot` and `copy` a site, then `flush`, which gives the batch's `Transfer`.
    """

    def __init__(self, device: torch.device | str):
        self.device = torch.device(device)
        if self.device.type not in ("cuda", "cpu"):
            raise ArgumentError(f"staging: got device {self.device}, expected cuda or cpu")
        self._torch = torch.get_device_module(self.device)
        # Made on the device it serves, whichever is the current one.
        self._side = self._torch.Stream(self.device) if self.device.type == "cuda" else self._torch.Stream()
        self._slots: dict[str, list[_Slot]] = defaultdict(lambda: [_Slot() for _ in range(SLOTS)])
        self._batch = 0
        self._begun: Any = None

    def pinned(self, size: int, dtype: torch.dtype) -> torch.Tensor:
        """Memory on the host that the device can copy to by itself; keep it, for it is slow to get."""
        return torch.empty(size, dtype=dtype, pin_memory=self.device.type == "cuda")

    def slot(self, site: str, rows: int, width: int, dtype: torch.dtype) -> torch.Tensor:
        """Undefined contiguous `[rows, width]` on the device, to be written on the current stream."""
        slot = self._slots[site][self._batch % SLOTS]
        size = rows * width
        if slot.flat is None or slot.flat.numel() < size or slot.flat.dtype != dtype:
            if slot.flat is not None and slot.flat.is_cuda:
                slot.flat.record_stream(self._side)  # its memory is not given away before its copy is done
            slot.flat = torch.empty(size, dtype=dtype, device=self.device)
        elif slot.copied is not None:
            self._torch.current_stream(self.device).wait_event(slot.copied)
        return slot.flat[:size].view(rows, width)

    def copy(self, site: str, source: torch.Tensor, out: torch.Tensor) -> None:
        """Copy what the current stream has written to `source`, the site's slot, to pinned `out`, later."""
        slot = self._slots[site][self._batch % SLOTS]
        written = self._event()
        written.record(self._torch.current_stream(self.device))
        with self._torch.stream(self._side):
            self._side.wait_event(written)
            if self._begun is None:
                self._begun = self._event(timing=True)
                self._begun.record(self._side)
            out.copy_(source, non_blocking=True)
            slot.copied = self._event()
            slot.copied.record(self._side)

    def flush(self) -> Transfer:
        """Ends a batch: what was copied since the last call."""
        done = self._event(timing=True)
        with self._torch.stream(self._side):
            done.record(self._side)
        transfer = Transfer(self._begun, done)
        self._begun = None
        self._batch += 1
        return transfer

    def _event(self, timing: bool = False) -> Any:
        return self._torch.Event(enable_timing=timing) if self.device.type == "cuda" else self._torch.Event()


class Transfer:
    """The copies of one batch; `wait` before the bytes are used."""

    def __init__(self, begun: Any, done: Any):
        self._begun, self._done = begun, done

    def wait(self) -> None:
        self._done.synchronize()

    @property
    def seconds(self) -> float:
        """After `wait`: from the first copy's start to the last one's end on the device; 0 on the CPU."""
        if self._begun is None or not hasattr(self._begun, "elapsed_time"):
            return 0.0
        return float(self._begun.elapsed_time(self._done)) / 1e3


class _Slot:
    flat: torch.Tensor | None = None
    copied: Any = None
