"""Which rows of a forward pass are kept: token types, a seeded subset of each sample, pooling.

A selection is a pure function of a row's identity (seed, sample, position), never of the batch it came
in, so that any batch size and any split over workers keeps the same rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from mmxai.errors import SelectionError
from mmxai.types import ROW_COLUMNS, TOKEN_CODES, TOKEN_TYPES

_SAMPLE, _POSITION, _Y, _X, _TYPE = (
    ROW_COLUMNS.index(c) for c in ("sample", "position", "y", "x", "token_type")
)
_PAD = TOKEN_CODES["pad"]

Region = tuple[int, int, int, int]


@dataclass(frozen=True)
class Selection:
    """What to keep of every sample.

    tokens: token types to keep (`mmxai.types.TOKEN_TYPES`), or `("last",)` for the last row that is not
        padding; None keeps everything but padding. Pooled outputs (one row a sample) are kept whatever it is.
    per_sample: keep at most this many rows of a sample, a random subset seeded by `seed`.
    pool: None, "mean" (the mean of the kept rows), "last" (the last of them), or a region
        `(y0, x0, y1, x1)` of grid cells, upper ends excluded, whose mean is kept. One row a sample.
    """

    tokens: tuple[str, ...] | None = None
    per_sample: int | None = None
    pool: str | Region | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        known = {*TOKEN_TYPES, "last"}
        unknown = [t for t in self.tokens or () if t not in known]
        if unknown or self.tokens == ():
            raise SelectionError(f"tokens: got {list(self.tokens or ())}, expected some of {sorted(known)}")
        if self.tokens and "last" in self.tokens and len(self.tokens) > 1:
            raise SelectionError(f"tokens: got {list(self.tokens)}; 'last' stands alone")
        if self.per_sample is not None and self.per_sample < 1:
            raise SelectionError(f"per_sample: got {self.per_sample}, expected at least 1")
        if self.pool is not None and self.per_sample is not None:
            raise SelectionError("pool and per_sample: got both; pooling already keeps one row a sample")
        if isinstance(self.pool, str) and self.pool not in ("mean", "last"):
            raise SelectionError(f"pool: got {self.pool!r}, expected 'mean', 'last' or y0,x0,y1,x1")
        if isinstance(self.pool, tuple):
            y0, x0, y1, x1 = self.pool
            if not (0 <= y0 < y1 and 0 <= x0 < x1):
                raise SelectionError(f"pool: got region {self.pool}, expected 0 <= y0 < y1 and 0 <= x0 < x1")

    @classmethod
    def parse(
        cls, tokens: Any = None, per_sample: int | None = None, pool: Any = None, seed: int = 0
    ) -> Selection:
        """From the forms users write: `tokens="patch,cls"` or a list, `pool="mean"` or `"0,0,7,7"`."""
        if isinstance(tokens, str):
            tokens = tokens.split(",")
        if tokens is not None:
            tokens = tuple(t.strip() for t in tokens)
        if isinstance(pool, str) and "," in pool:
            pool = pool.split(",")
        if isinstance(pool, (list, tuple)):
            try:
                y0, x0, y1, x1 = (int(v) for v in pool)
            except ValueError:
                raise SelectionError(f"pool: got {pool}, expected four whole numbers y0,x0,y1,x1") from None
            pool = (y0, x0, y1, x1)
        return cls(tokens, per_sample, pool, seed)

    @property
    def identity(self) -> dict[str, Any]:
        """What the plan records: equal identities keep equal rows."""
        return {
            "tokens": list(self.tokens) if self.tokens else None,
            "per_sample": self.per_sample,
            "pool": list(self.pool) if isinstance(self.pool, tuple) else self.pool,
            "seed": self.seed if self.per_sample else None,
        }

    def capacity(self, rows_per_sample: int) -> int:
        """The most rows a sample can keep when it has at most `rows_per_sample`."""
        if self.pool is not None or self.tokens == ("last",):
            return 1
        return min(rows_per_sample, self.per_sample or rows_per_sample)

    def keep(self, rows: torch.Tensor) -> torch.Tensor:
        """The rows that are kept, or that pooling averages: bool `[B, T]` for a row table `[B, T, 8]`."""
        kind = rows[..., _TYPE]
        keep = kind != _PAD
        if self.tokens and self.tokens != ("last",):
            # -1: the one row of a pooled output, which is no token and is not chosen among tokens.
            codes = torch.tensor([-1, *(TOKEN_CODES[t] for t in self.tokens)], dtype=kind.dtype)
            keep &= torch.isin(kind, codes)
        if isinstance(self.pool, tuple):
            y0, x0, y1, x1 = self.pool
            y, x = rows[..., _Y], rows[..., _X]
            keep &= (y >= y0) & (y < y1) & (x >= x0) & (x < x1) | (kind == -1)
        if self.pool == "last" or self.tokens == ("last",):
            keep = _last_of(keep)
        if self.per_sample is not None and rows.shape[1] > self.per_sample:
            keep = _subset(keep, rows, self.per_sample, self.seed)
        return keep

    @property
    def averages(self) -> bool:
        """Whether kept rows are averaged into one a sample."""
        return self.pool == "mean" or isinstance(self.pool, tuple)


def _last_of(keep: torch.Tensor) -> torch.Tensor:
    width = keep.shape[1]
    order = torch.arange(1, width + 1) * keep
    last = order.max(dim=1, keepdim=True).values
    return keep & (order == last)


def _subset(keep: torch.Tensor, rows: torch.Tensor, count: int, seed: int) -> torch.Tensor:
    """Keep, in each sample, the `count` rows of smallest hash (ties cannot matter: the hash is 64 bits)."""
    table = rows.numpy()
    draw = _hash(seed, table[..., _SAMPLE], table[..., _POSITION])
    draw[~keep.numpy()] = np.iinfo(np.uint64).max
    threshold = np.partition(draw, count - 1, axis=1)[:, count - 1 : count]
    return keep & torch.from_numpy(draw <= threshold)


def _hash(seed: int, sample: np.ndarray, position: np.ndarray) -> np.ndarray:
    """SplitMix64's finaliser over (seed, sample, position): uint64 of the shape of `sample`."""
    x = np.full(sample.shape, (seed * 0x9E3779B97F4A7C15 + 1) & 0xFFFFFFFFFFFFFFFF, np.uint64)
    for word in (sample, position):
        x = x + word.astype(np.int64).astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        x ^= x >> np.uint64(31)
    return x


def pooled_rows(rows: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
    """Row table int32 `[S, 8]` of the S samples that keep anything: the shared value of a column, else -1."""
    out = []
    for table, mask in zip(rows, keep, strict=True):
        kept = table[mask]
        if len(kept):
            same = (kept == kept[0]).all(dim=0)
            out.append(torch.where(same, kept[0], -1))
    return torch.stack(out).to(torch.int32) if out else rows.new_empty((0, rows.shape[2]))


def pooled_mean(x: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
    """Mean in float32 of the kept rows of `x` `[B, T, D]`: `[S, D]` for the S samples that keep any."""
    weight = keep.to(device=x.device, dtype=torch.float32)
    count = weight.sum(dim=1)
    # where() and not a product: a NaN in a row that is not kept must not reach the mean.
    kept = torch.where(keep.to(x.device).unsqueeze(-1), x.float(), 0.0)
    return (kept.sum(dim=1) / count.clamp(min=1).unsqueeze(-1))[count > 0]
