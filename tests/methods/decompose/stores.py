"""Stores whose rows are sums of planted directions."""

import torch

import mmxai
from mmxai.types import Rows

SITE, WIDTH, UNITS, PER = "vision.0.resid_post", 16, 5, 8


def planted(samples, seed=0):
    """Rows `[samples * PER, WIDTH]`; amounts `[.., UNITS]`, exponential or 0; directions, orthonormal."""
    draw = torch.Generator().manual_seed(seed)
    directions = torch.linalg.qr(torch.randn(WIDTH, UNITS, generator=torch.Generator().manual_seed(9)))[0].T
    shape = (samples * PER, UNITS)
    amounts = -torch.rand(shape, generator=draw).clamp(min=1e-6).log()
    amounts *= torch.rand(shape, generator=draw) < 0.3
    return amounts @ (3 * directions) + 1, amounts, directions


def make_store(path, samples=300, spoil=None, dtype="float32"):
    """A class token of zeros and PER - 1 patches a sample; captions say which amounts a sample has much
    of."""
    x, amounts, directions = planted(samples)
    if spoil is not None:
        x[spoil, 3] = float("nan")
    n = len(x)
    first = torch.arange(n) % PER == 0
    x[first], amounts[first] = 0, 0
    rows = Rows.make(
        sample=torch.arange(n, dtype=torch.int32) // PER,
        position=torch.arange(n, dtype=torch.int32) % PER,
        token_type=(~first).to(torch.int32),
    )
    much = amounts.view(samples, PER, UNITS).amax(1) > 1.5
    words = ("alpha", "beta", "gamma", "delta", "epsilon")
    texts = ["a picture " + " and ".join(w for w, m in zip(words, row, strict=True) if m) for row in much]
    with mmxai.create_store(path, {SITE: WIDTH}, dtype=dtype, space="vision", samples_per_part=64) as w:
        w.write([{"key": f"s{i}", "text": t} for i, t in enumerate(texts)], {SITE: x}, rows=rows)
    return mmxai.open_store(path), directions, much
