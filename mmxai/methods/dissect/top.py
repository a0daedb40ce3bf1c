"""The pictures in which each unit is highest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from mmxai.methods.dissect.values import highest

if TYPE_CHECKING:
    from mmxai.methods.dissect.tally import Seen


class TopPictures:
    """Of U units, k pictures each: `values` float32 `[U, k]`, descending, -inf where there were fewer, and
    the logical `rows` int64 `[U, k]` that have them, -1. Of equal values the first stays."""

    def __init__(self, units: int, k: int):
        self.values = torch.full((units, k), -torch.inf)
        self.rows = torch.full((units, k), -1, dtype=torch.int64)

    def add(self, seen: Seen, known: Sequence[bool]) -> None:
        """`known`: which of the views count."""
        values, rows = [], []
        for there, (_, own) in zip(known, seen, strict=True):
            inside = seen.inside[own]
            if there and inside.any():
                best, at = highest(seen.part(own), inside)
                values.append(best)
                rows.append(torch.from_numpy(seen.rows[own])[at])
        if not values:
            return
        new, where = torch.stack(values, 1), torch.stack(rows, 1)
        better = (new.amax(1) > self.values[:, -1]).nonzero()[:, 0]
        every = torch.cat([self.values[better], new[better]], 1)
        places = torch.cat([self.rows[better], where[better]], 1)
        every, order = every.sort(dim=1, descending=True, stable=True)
        k = self.values.shape[1]
        self.values[better] = every[:, :k]
        self.rows[better] = places.gather(1, order[:, :k])
        self.rows[self.values == -torch.inf] = -1

    def arrays(self) -> dict[str, np.ndarray]:
        return {"values": self.values.numpy(), "rows": self.rows.numpy()}

    def restore(self, arrays: Mapping[str, np.ndarray]) -> None:
        self.values, self.rows = (torch.from_numpy(arrays[name].copy()) for name in ("values", "rows"))
