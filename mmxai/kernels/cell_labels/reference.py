"""The specification of `cell_labels`."""

from __future__ import annotations

import numpy as np
import torch


def supports(maps: torch.Tensor) -> str | None:
    return None


def cell_labels(
    maps: torch.Tensor,
    row_starts: torch.Tensor,
    col_starts: torch.Tensor,
    whole: torch.Tensor,
    bits: bool,
    threads: int,
) -> list[tuple[torch.Tensor, ...]]:
    """Of each picture offsets, columns, counts of `CellLabels`; if wanted starts, bits of `BlockLabels`."""
    return [picture(layers.numpy(), row_starts, col_starts, whole.numpy(), bits) for layers in maps]


def picture(
    layers: np.ndarray, row_starts: torch.Tensor, col_starts: torch.Tensor, whole: np.ndarray, bits: bool
) -> tuple[torch.Tensor, ...]:
    offsets, columns, counts, starts, packed = [0], [], [], [0], [np.empty(0, np.uint8)]
    for top, bottom in zip(row_starts[:-1].tolist(), row_starts[1:].tolist(), strict=True):
        for left, right in zip(col_starts[:-1].tolist(), col_starts[1:].tolist(), strict=True):
            block = layers[:, top:bottom, left:right]
            present = np.union1d(block[block >= 0], whole)
            for column in present if top < bottom and left < right else ():
                held = (block == column).any(0) | (column in whole)
                columns.append(int(column))
                counts.append(int(held.sum()))
                if bits:
                    rows = np.packbits(held, axis=1, bitorder="little").reshape(-1)
                    packed.append(np.pad(rows, (0, -len(rows) % 8)))
            offsets.append(len(columns))
            starts.append(sum(map(len, packed)))
    numbers = (torch.tensor(v, dtype=torch.int32) for v in (columns, counts))
    return torch.tensor(offsets), *numbers, torch.tensor(starts), torch.from_numpy(np.concatenate(packed))
