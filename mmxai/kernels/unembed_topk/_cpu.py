"""`unembed_topk` in C++: csrc/core/unembed.h; the products are torch's."""

from __future__ import annotations

import math

import numpy as np
import torch

from mmxai.kernels import _native
from mmxai.kernels._codes import optional
from mmxai.kernels.unembed_topk._job import Job, UnembedTopk
from mmxai.kernels.unembed_topk._tiles import Online, in_tiles

ROWS, TOKENS = 1024, 4096
"""A tile of 16 MiB stays in the third-level cache, a row of it in the second. BLAS' threads wait for each
other at the end of every product, so that smaller ones take longer where cores are shared."""
GROUP = 64
"""Rows of one thread."""


def supports(job: Job, k: int) -> str | None:
    return None


def unembed_topk(job: Job, out: UnembedTopk, threads: int) -> None:
    def begin(job: Job, floors: torch.Tensor, finals: torch.Tensor, k: int) -> Online:
        return _Rows(job, floors, finals, k, threads)

    in_tiles(job, out, begin, ROWS, TOKENS)


class _Rows:
    def __init__(self, job: Job, floors: torch.Tensor, finals: torch.Tensor, k: int, threads: int):
        rows = len(finals)
        self.job, self.k, self.threads = job, k, threads
        self.floors, self.finals = floors.numpy(), finals.numpy()
        self.sums = torch.tensor([-math.inf, 0, 0, -math.inf, 0], dtype=torch.float64).repeat(rows, 1)
        self.ranks = torch.zeros(floors.shape, dtype=torch.int64)
        self.held = np.empty((rows, 2 * k + 8), np.uint64)
        self.marks = np.zeros((rows, 3), np.int32)
        ends = (np.arange(1, rows) % GROUP == 0) | (np.diff(self.finals) != 0)
        self.starts = np.concatenate([[0], np.flatnonzero(ends) + 1, [rows]])

    def tile(self, products: torch.Tensor, first: int, bias: torch.Tensor | None) -> None:
        _native.cpu().loaded().unembed_tile(
            products.numpy(), first, self.job.scale, self.job.softcap or 0.0, optional(bias), self.starts,
            self.finals, self.floors, self.sums.numpy(), self.held, self.k, self.marks, self.ranks.numpy(),
            self.threads,
        )  # fmt: skip

    def best(self) -> tuple[torch.Tensor, torch.Tensor]:
        shape = len(self.marks), self.k
        values, ids = torch.empty(shape), torch.empty(shape, dtype=torch.int32)
        _native.cpu().loaded().unembed_best(self.held, self.marks, values.numpy(), ids.numpy())
        return values, ids
