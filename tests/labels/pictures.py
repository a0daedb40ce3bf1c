"""A store of pictures whose tiles are known: 32 x 24 pixels each, a crop of 24 x 24 in cells of 6 pixels."""

import torch

from mmxai.store import create_store
from mmxai.types import TOKEN_CODES, Rows

SIZE, GRID, CELL, LEFT = (32, 24), (4, 4), 6, 4
SITE = "vision.0.resid_post"


def make(path, samples=6, keys=None):
    """A class token and 16 patches a picture; the crop begins at x = 4."""
    per = 1 + GRID[0] * GRID[1]
    cell = torch.arange(per).repeat(samples) - 1
    rows = Rows.make(
        sample=torch.arange(samples).repeat_interleave(per), position=cell + 1, image=0,
        y=torch.where(cell >= 0, cell // 4, -1), x=torch.where(cell >= 0, cell % 4, -1),
        token_type=torch.where(cell >= 0, TOKEN_CODES["patch"], TOKEN_CODES["cls"]),
    )  # fmt: skip
    tile = {"affine": [1 / CELL, 0, -LEFT / CELL, 0, 1 / CELL, 0], "grid": list(GRID)}
    stored = [
        {"key": keys[i] if keys else f"dir/{i:07d}.png", "size": list(SIZE), "tiles": [tile]}
        for i in range(samples)
    ]
    with create_store(path, {"vision": {SITE: 3}}, durable=False) as writer:
        writer.write(stored, {SITE: torch.randn(samples * per, 3)}, {"vision": rows})
    return path
