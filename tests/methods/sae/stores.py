"""Stores of rows made of a known dictionary, for tests that train."""

import torch

import mmxai
from mmxai.types import Rows

WIDTH, TRUE, ACTIVE = 24, 40, 3


def planted(rows, seed=0):
    """float32 `[rows, WIDTH]`: sums of `ACTIVE` of `TRUE` unit directions, off centre; and the directions."""
    draw = torch.Generator().manual_seed(seed)
    directions = torch.nn.functional.normalize(
        torch.randn(TRUE, WIDTH, generator=torch.Generator().manual_seed(99)), dim=1
    )
    which = torch.rand(rows, TRUE, generator=draw).topk(ACTIVE, dim=1).indices
    amounts = torch.zeros(rows, TRUE).scatter(1, which, 0.5 + torch.rand(rows, ACTIVE, generator=draw))
    return amounts @ directions * 5 + 2.0, directions


def make_store(path, samples=600, per_sample=8, spoil=None):
    """Sites `t.0.x` (planted), `t.1.x` (a linear map of it, 16 wide)."""
    x, _ = planted(samples * per_sample)
    turn = torch.randn(WIDTH, 16, generator=torch.Generator().manual_seed(5))
    if spoil is not None:
        x[spoil, 3] = float("nan")
    n = len(x)
    rows = Rows.make(
        sample=torch.arange(n, dtype=torch.int32) // per_sample,
        position=torch.arange(n, dtype=torch.int32) % per_sample,
        token_type=(torch.arange(n) % per_sample == 0).to(torch.int32).mul(-1).add(1),
    )
    sites = {"t.0.x": WIDTH, "t.1.x": 16}
    with mmxai.create_store(path, sites=sites, dtype="float32") as w:
        w.write(range(samples), {"t.0.x": x, "t.1.x": torch.nan_to_num(x) @ turn}, rows=rows)
    return path
