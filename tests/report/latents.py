"""The sizes of the store of latents that `held` (in conftest.py) makes, and its codes."""

import torch

from mmxai.shapes import ShapesWorld

SAMPLES, CELLS, WORDS, M, K = 30, 16, 6, 20, 4
WORLD = ShapesWorld(SAMPLES, seed=1)
SITE, TEXT = "vision.2.resid_post.sae", "text.1.resid_post.sae"
DEAD = 19


def codes(rows, seed):
    """Sparse, positive, at most K a row; latents 0 and 1 are always active together, the last never."""
    made = torch.Generator().manual_seed(seed)
    x = torch.rand(rows, M, generator=made).bfloat16().float()
    x[:, 2:] *= torch.rand(rows, M - 2, generator=made) < 0.1
    x[:, :2] *= torch.rand(rows, 1, generator=made) < 0.3
    x[:, DEAD] = 0
    values, columns = x.topk(K, 1)
    return torch.zeros_like(x).scatter_(1, columns, values)
