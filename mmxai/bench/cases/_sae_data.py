"""Rows for case `sae`: a real harvest of the shapes CLIP's `mlp_post`, 768 wide, patches alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
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
PLANTED = 4
"""Planted directions over the width."""


def harvest_rows(folder: Path, rows: int, batches: int, held: int, *, quick: bool) -> tuple[Path, int]:
    """File of float32 rows, and their width: shuffled `batches` of `rows`, then `held` of other pictures."""
    model, site, patches = _model(quick)
    pictures = 1 + max(int(batches * rows / TRAINED_ON), int(held / HELD_OUT)) * 11 // 10 // patches
    data = Decoded(pictures, 32) if quick else ShapesWorld(pictures, seed=5, split="test")
    path = folder / "acts.zarr"
    mmxai.harvest(model, data, sites=[site], store=path, tokens="patch", stats=False, progress=False)
    with mmxai.open_store(path) as store:
        trained = _batches(store, site, "train", rows, batches)
        return _written(folder, trained, _batches(store, site, "val", held, 1)), store[site].shape[1]


def planted_rows(folder: Path, width: int, rows: int, batches: int, held: int, device: str) -> Path:
    """A file as `harvest_rows` makes it, of sparse sums of random directions, some far commoner."""
    draw = torch.Generator(device).manual_seed(0)
    count, active = PLANTED * width, max(4, width // 64)
    directions = torch.randn(count, width, generator=draw, device=device) / width**0.5

    def drawn(size: int) -> torch.Tensor:
        uniform = torch.rand(2, size, active, generator=draw, device=device)
        chosen = (uniform[0] ** 3 * count).long().clamp_max_(count - 1)
        strength = -(1 - uniform[1]).log()
        return torch.nn.functional.embedding_bag(
            chosen, directions, per_sample_weights=strength, mode="sum"
        ).cpu()

    return _written(folder, (drawn(rows) for _ in range(batches)), [drawn(held)])


def _written(folder: Path, *parts: Iterable[torch.Tensor]) -> Path:
    """All divided by one number, so that the mean square length of the first batch is 1."""
    out, scale = folder / "rows.f32", 0.0
    with open(out, "wb") as file:
        for part in parts:
            for x in part:
                scale = scale or float(x.square().sum(1).mean()) ** -0.5
                file.write((x * scale).numpy().data)
    return out


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
