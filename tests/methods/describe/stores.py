"""Stores with class token and patches, and a judge whose embeddings are known."""

import numpy as np
import torch

from mmxai.methods.describe import Judged
from mmxai.store import create_store
from mmxai.types import TOKEN_CODES, Rows

SITE, PER, JOINT = "vision.1.mlp_post", 5, 16
WORDS = tuple(f"word {i}" for i in range(60))
CONSTANT, NOISE = 6, slice(8, 24)
"""Units 0 to 5 follow words 0 to 5, unit 6 is constant, unit 7 follows word 9 where that is high."""


def judge(pictures=400, seed=0):
    draw = torch.Generator().manual_seed(seed)
    images = torch.randn(pictures, JOINT, generator=draw)
    texts = torch.randn(len(WORDS), JOINT, generator=draw)
    images, texts = (torch.nn.functional.normalize(x, dim=1) for x in (images, texts))
    return Judged(np.arange(pictures), images, WORDS, texts, "judge")


def pictures_of(judged, seed=1, units=24):
    """One value a picture and unit, float32 `[N, units]`."""
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(len(judged.images), units, generator=draw)
    similar = judged.images @ judged.texts.T
    x[:, :6] = 8 * similar[:, :6] + 0.3 * x[:, :6]
    x[:, CONSTANT] = 0.5
    x[:, 7] = (similar[:, 9] - 0.3).clamp(min=0)
    return x


def make(path, x, site=SITE, seed=2, dtype="float32", flat=False, **options):
    """The class token's value is x, patches' mean is -x and their values differ, unless `flat`. Returns
    values float32 `[N, 5, units]`."""
    n, units = x.shape
    spread = torch.randn(n, PER - 1, units, generator=torch.Generator().manual_seed(seed))
    spread = 0 * spread if flat else spread - spread.mean(1, keepdim=True)
    held = torch.cat([x[:, None], spread - x[:, None]], 1)
    cell = torch.arange(PER).repeat(n) - 1
    rows = Rows.make(
        sample=torch.arange(n).repeat_interleave(PER), position=cell + 1, image=0,
        y=torch.where(cell < 0, -1, cell // 2), x=torch.where(cell < 0, -1, cell % 2),
        token_type=torch.where(cell < 0, TOKEN_CODES["cls"], TOKEN_CODES["patch"]),
    )  # fmt: skip
    with create_store(
        path, {site: units}, dtype=dtype, samples_per_part=64, durable=False, **options
    ) as writer:
        writer.write([str(i) for i in range(n)], {site: held.reshape(-1, units)}, rows)
    return held
