"""Encoding rows as a storage profile has them (FORMAT.md, "Profiles"), and choosing outlier columns."""

from __future__ import annotations

import torch

from mmxai.kernels.capture import capture
from mmxai.kernels.topk_rows import topk_rows
from mmxai.store.spec import SiteSpec

OUTLIER_RATIO = 6
MOST_OUTLIERS = 16  # at most one column in so many: past that int8 saves too little


def outlier_columns(largest: torch.Tensor) -> tuple[int, ...]:
    """Columns to keep apart: those that would set the scale of rows in which they are large.

    `largest`: `[D]`, the largest finite |x| of every column over some rows (of statistics:
    `torch.maximum(stats.max, -stats.min)`). A column is one where that exceeds 6 times the median column's;
    the largest D / 16 (rounded up) where there are more.
    """
    largest = largest.detach().cpu().to(torch.float64)
    largest = torch.where(largest.isfinite(), largest, 0.0)
    over = (largest > OUTLIER_RATIO * largest.median()).nonzero()[:, 0]
    order = torch.argsort(largest[over], descending=True, stable=True)
    return tuple(sorted(over[order[: -(-len(largest) // MOST_OUTLIERS)]].tolist()))


def largest_of(x: torch.Tensor) -> torch.Tensor:
    """The largest finite |x| of every column of `x` `[N, D]`, 0 where there is none."""
    if not len(x):
        return torch.zeros(x.shape[1])
    magnitude = x.abs()
    return torch.where(magnitude.isfinite(), magnitude, 0).amax(0)


def encode(site: SiteSpec, x: torch.Tensor) -> dict[str, torch.Tensor]:
    """Rows `[N, width]` in the site's row dtype, contiguous, as the rows of each of its arrays, by path."""
    if site.dtype == "int8":
        pieces = _int8(site, x)
    elif site.dtype == "topk":
        values, indices = topk_rows(x, site.k or 0, by="magnitude")
        narrow = site.pieces[1].dtype == "uint16"
        # Through int16, which keeps the bits: torch hardly knows uint16.
        pieces = [values, indices.to(torch.int16).view(torch.uint16) if narrow else indices]
    else:
        pieces = [x]
    return dict(zip(site.paths, pieces, strict=True))


def _int8(site: SiteSpec, x: torch.Tensor) -> list[torch.Tensor]:
    kept = []
    if site.outliers:
        columns = torch.tensor(site.outliers)
        kept = [x[:, columns]]
        x = x.index_fill(1, columns, 0)
    values, scales = torch.empty(x.shape, dtype=torch.int8), torch.empty(len(x))
    capture(x[None], None, values, None, 0, scales=scales)
    return [values, scales[:, None], *kept]
