"""Stores and SAEs whose every figure is known."""

import numpy as np
import torch

import mmxai
from mmxai.labels import Truth
from mmxai.methods.sae.model import SAE
from mmxai.methods.sae.spec import SAESpec
from mmxai.shapes import ShapesWorld
from mmxai.types import Rows

SITE = "vision.0.resid_post"


def sae_of(directions, *, arch="topk", k=None, site=SITE, width=None, **fields):
    """A tied SAE of orthonormal `directions` `[M, D]`, without biases."""
    m, d = directions.shape
    spec = SAESpec(arch, m, (site,), (d,), k=k, **fields)
    weights = directions.float().contiguous()
    extra = {} if arch in ("topk", "relu") else {"threshold": torch.zeros(m)}
    return SAE(
        spec, W_enc=weights, b_enc=torch.zeros(m), W_dec=weights.clone(), b_dec=torch.zeros(d), **extra
    )


def orthonormal(d, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(d, d, generator=generator, dtype=torch.float64))[0].float()


def sparse_codes(rows, m, active, seed=0):
    """float32 `[rows, m]` with `active` values of 0.5 to 1.5 in each row."""
    draw = np.random.default_rng(seed)
    codes = np.zeros((rows, m), np.float32)
    for row in codes:
        row[draw.choice(m, active, replace=False)] = draw.uniform(0.5, 1.5, active)
    return torch.from_numpy(codes)


def store_of(path, x, *, per_sample=4, site=SITE, dtype="float32", samples_per_part=8):
    """A store of rows `[N, D]`, `per_sample` a sample, all patches."""
    n, d = x.shape
    samples = n // per_sample
    rows = Rows.make(
        sample=torch.arange(samples, dtype=torch.int32).repeat_interleave(per_sample),
        position=torch.arange(per_sample, dtype=torch.int32).repeat(samples),
        token_type=1,
    )
    with mmxai.create_store(
        path, {site: d}, dtype=dtype, space="vision", samples_per_part=samples_per_part
    ) as writer:
        writer.write([f"s{i}" for i in range(samples)], {site: x}, rows=rows)
    return mmxai.open_store(path)


def world_store(path, pictures=48, seed=3):
    """The labels of the patches of a shapes world, 0 or 1 a label: activations that are their own truth.

    Returns (store, truth): 8 x 8 patches a picture, and a class token of zeros before them.
    """
    world = ShapesWorld(pictures, seed=seed)
    truth = Truth.of_world(world)
    y, x = (
        c.ravel().to(torch.int32) for c in torch.meshgrid(torch.arange(8), torch.arange(8), indexing="ij")
    )
    cell = Rows.make(
        sample=torch.zeros(64, dtype=torch.int32), position=torch.arange(1, 65), y=y, x=x, token_type=1
    )
    first = Rows.make(sample=torch.zeros(1, dtype=torch.int32), position=0, token_type=0)
    one = torch.cat([first.table, cell.table])
    table = one.repeat(pictures, 1)
    table[:, 0] = torch.arange(pictures, dtype=torch.int32).repeat_interleave(65)
    tile = {"affine": [1 / 8, 0, 0, 0, 1 / 8, 0], "grid": [8, 8]}
    samples = [{"key": f"p{i}", "size": [64, 64], "tiles": [tile]} for i in range(pictures)]
    kinds = len(truth.cell_names)
    acts = torch.zeros(len(table), kinds)
    labels = truth.labels(np.arange(pictures))
    share = labels.reshape(pictures, kinds, 8, 8, 8, 8).mean((3, 5))  # patches by hand, not by geometry
    acts.view(pictures, 65, kinds)[:, 1:] = torch.from_numpy(
        (share >= 0.5).reshape(pictures, kinds, 64).transpose(0, 2, 1).astype(np.float32)
    )
    with mmxai.create_store(
        path, {SITE: kinds}, dtype="float32", space="vision", samples_per_part=16
    ) as writer:
        writer.write(samples, {SITE: acts}, rows=Rows(table))
    return mmxai.open_store(path), truth
