"""A small store of latents whose every code is known, and an SAE of its width."""

from types import SimpleNamespace

import pytest
import torch

from mmxai.store import create_store, open_store
from mmxai.types import TOKEN_CODES, Rows
from tests.report.latents import CELLS, SAMPLES, SITE, TEXT, WORDS, K, M, codes


@pytest.fixture(scope="module")
def held(tmp_path_factory):
    """A store with its dense codes and row tables, by site."""
    path = tmp_path_factory.mktemp("stores") / "latents.zarr"
    per = CELLS + 1
    cells = torch.arange(per).repeat(SAMPLES) - 1
    patch = cells >= 0
    rows = {
        "vision": Rows.make(
            sample=torch.arange(SAMPLES).repeat_interleave(per), position=cells + 1, image=0,
            y=torch.where(patch, cells // 4, -1), x=torch.where(patch, cells % 4, -1),
            token_type=torch.where(patch, TOKEN_CODES["patch"], TOKEN_CODES["cls"]),
        ),
        "text": Rows.make(
            sample=torch.arange(SAMPLES).repeat_interleave(WORDS),
            position=torch.arange(WORDS).repeat(SAMPLES),
            token_id=torch.arange(SAMPLES * WORDS) * 7 % 11, token_type=TOKEN_CODES["text"],
        ),
    }  # fmt: skip
    samples = [
        {"key": f"<key {i}>", "text": f"<script>alert({i})</script>", "size": [64, 64],
         "tiles": [{"affine": [1 / 16, 0, 0, 0, 1 / 16, 0], "grid": [4, 4]}]} for i in range(SAMPLES)
    ]  # fmt: skip
    acts = {SITE: codes(SAMPLES * per, 0), TEXT: codes(SAMPLES * WORDS, 1)}
    sites = {"vision": {SITE: M}, "text": {TEXT: M}}
    with create_store(path, sites, dtype="topk", topk=K, samples_per_part=11, durable=False) as writer:
        writer.write(samples, acts, rows)
    with open_store(path) as store:
        yield SimpleNamespace(store=store, x={s: a.numpy() for s, a in acts.items()}, rows=rows)


@pytest.fixture(scope="module")
def sae():
    made = torch.Generator().manual_seed(5)
    spec = SimpleNamespace(
        arch="topk", k=K, latents=M, sites_in=("vision.2.resid_post",), sites_out=("vision.2.resid_post",),
        width_in=8, notes="<of a test>",
    )  # fmt: skip
    return SimpleNamespace(
        spec=spec, W_enc=torch.randn(M, 8, generator=made), W_dec=torch.randn(M, 8, generator=made)
    )
