"""The specification of `bilinear_counts`, block by block."""

from __future__ import annotations

import torch

from mmxai.kernels.cells import BlockLabels


def supports(grids: list[torch.Tensor]) -> str | None:
    return None


def bilinear_counts(
    grids: list[torch.Tensor],
    threshold: torch.Tensor,
    labels: list[BlockLabels],
    counts: torch.Tensor,
    threads: int,
) -> None:
    for x, blocks in zip(grids, labels, strict=True):
        picture(x.float(), threshold, blocks, counts)


def picture(x: torch.Tensor, threshold: torch.Tensor, blocks: BlockLabels, counts: torch.Tensor) -> None:
    gh, gw = blocks.grid
    offsets, starts = blocks.entries.offsets.tolist(), blocks.starts.tolist()
    tops, lefts = blocks.row_starts.tolist(), blocks.col_starts.tolist()
    for block in range((gh + 1) * (gw + 1)):
        entries = slice(offsets[block], offsets[block + 1])
        if entries.start == entries.stop:
            continue
        i, j = divmod(block, gw + 1)
        upper, lower, before, after = max(i - 1, 0), min(i, gh - 1), max(j - 1, 0), min(j, gw - 1)
        corners = [x[r * gw + c] for r in (upper, lower) for c in (before, after)]  # [U] each
        wy = blocks.row_weights[tops[i] : tops[i + 1], None, None]
        wx = blocks.col_weights[lefts[j] : lefts[j + 1], None]
        a, b, c, d = corners
        top, bottom = a + wx * (b - a), c + wx * (d - c)
        above = torch.stack(corners) > threshold
        mask = (top + wy * (bottom - top) > threshold) | above.all(0)
        mask = (mask & above.any(0)).double()  # [rows, columns, U]
        packed = blocks.bits[starts[block] : starts[block + 1]].reshape(entries.stop - entries.start, -1)
        lanes = (packed[:, :, None] >> torch.arange(8, dtype=torch.uint8, device=x.device)) & 1
        height, width = mask.shape[:2]
        padded = (width + 7) // 8 * 8
        pixels = lanes.flatten(1)[:, : height * padded].reshape(-1, height, padded)[:, :, :width]
        found = torch.einsum("eyx,yxu->ue", pixels.double(), mask)
        counts[:, blocks.entries.columns[entries].long()] += found.long()
