"""The largest values of every unit: of any rows, and one a sample at most."""

from __future__ import annotations

import numpy as np
import torch

from mmxai.store.units import Block

_ROW_BITS = 24
_ROWS = (1 << _ROW_BITS) - 1


class Top:
    """`values` float32 `[k, U]`, descending (-inf where a unit has fewer), and where: int64 `[k, U]`."""

    def __init__(self, units: int, k: int):
        self.k = k
        self.values = torch.full((k, units), -torch.inf)
        self.where = torch.full((k, units), -1, dtype=torch.int64)

    def add(self, values: torch.Tensor, where: torch.Tensor) -> None:
        """Candidates float32 `[N, U]` and where they are, int64 `[N, U]` or `[N]`."""
        better = (values.amax(0) > self.values[-1]).nonzero()[:, 0]
        if not len(better):
            return
        place = where[:, better] if where.ndim == 2 else where[:, None].expand(-1, len(better))
        best, index = values[:, better].topk(min(self.k, len(values)), dim=0)
        every = torch.cat([self.values[:, better], best])
        places = torch.cat([self.where[:, better], place.gather(0, index)])
        # Stable: of equal values the first seen stays.
        every, order = every.sort(dim=0, descending=True, stable=True)
        self.values[:, better] = every[: self.k]
        self.where[:, better] = places.gather(0, order)[: self.k]


class Exemplars:
    """Top rows, and the top row of each of the top samples; samples lie whole within a block."""

    def __init__(self, units: int, k: int):
        self.rows, self.samples = Top(units, k), Top(units, k)

    def add(self, block: Block) -> None:
        numbers = torch.from_numpy(block.rows)
        self.rows.add(block.values, numbers)
        sample = block.who.sample.numpy()
        starts = np.flatnonzero(np.diff(sample, prepend=sample[0] - 1))
        values, index = _highest(block.values.numpy(), starts)
        self.samples.add(torch.from_numpy(values), numbers[torch.from_numpy(index)])


def _highest(x: np.ndarray, starts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The largest of each run of rows that begins at `starts`, and its row: `[runs, U]` both.

    Value and row are packed into one integer, the value first, so that one reduction finds both.
    """
    if len(x) > _ROWS:
        raise ValueError(f"a block of {len(x)} rows")  # blocks are of megabytes, or of one sample
    raw = (x + np.float32(0)).view(np.uint32)
    ordered = np.where(raw >> 31, ~raw, raw | np.uint32(0x80000000)).astype(np.int64)
    packed = ordered << _ROW_BITS | (_ROWS - np.arange(len(x)))[:, None]
    most = np.maximum.reduceat(packed, starts, axis=0)
    row = _ROWS - (most & _ROWS)
    return np.take_along_axis(x, row, 0), row
