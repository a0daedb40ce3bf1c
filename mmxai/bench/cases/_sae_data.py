"""Rows for case `sae`: a real harvest of the shapes CLIP's `mlp_post`, 768 wide, patches alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch

import mmxai
from mmxai.bench.cases._vision import Decoded, clip_tiny
from mmxai.bench.figures import CannotRunError
from mmxai.models import Model
from mmxai.models.shipped import shipped_models
from mmxai.shapes import ShapesWorld
from mmxai.store import Store

MODEL, SITE = "shapes-clip", "vision.3.mlp_post"
TRAINED_ON, HELD_OUT = 0.8, 0.1


def write_rows(folder: Path, rows: int, batches: int, held: int, *, quick: bool) -> tuple[Path, int]:
    """File of float32 rows, and their width: shuffled `batches` of `rows`, then `held` of other pictures.

    All are divided by one number, so that their mean square length is 1.
    """
    model, site, patches = _model(quick)
    pictures = 1 + max(int(batches * rows / TRAINED_ON), int(held / HELD_OUT)) * 11 // 10 // patches
    data = Decoded(pictures, 32) if quick else ShapesWorld(pictures, seed=5, split="test")
    path = folder / "acts.zarr"
    mmxai.harvest(model, data, sites=[site], store=path, tokens="patch", stats=False, progress=False)
    out = folder / "rows.f32"
    with mmxai.open_store(path) as store, open(out, "wb") as file:
        scale = 0.0
        for split, size, count in (("train", rows, batches), ("val", held, 1)):
            for x in _batches(store, site, split, size, count):
                scale = scale or float(x.square().sum(1).mean()) ** -0.5
                file.write((x * scale).numpy().data)
        return out, store[site].shape[1]


def _batches(store: Store, site: str, split: str, size: int, count: int) -> Iterator[torch.Tensor]:
    loader = store[site].batches(size, shuffle=True, seed=0, split=split, drop_last=True)
    for _ in range(count):
        yield next(loader).x.float()


def _model(quick: bool) -> tuple[Model, str, int]:
    """Model, site and patches a picture."""
    if quick:
        return clip_tiny(), "vision.1.mlp_post", 16
    if MODEL not in shipped_models():
        raise CannotRunError(
            f"no {MODEL} in mmxai/trained of this checkout; the figures are of its activations"
        )
    return mmxai.load_model(MODEL), SITE, 64
