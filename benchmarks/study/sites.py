"""Stores that the studies train on: activations of the shapes CLIP over generated pictures, patches alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import mmxai
from mmxai.methods.sae import SAE, TrainConfig
from mmxai.methods.sae.evaluate import EvalConfig, measure
from mmxai.methods.sae.measures import Metrics
from mmxai.shapes import ShapesWorld
from mmxai.store import Store

MODEL = "shapes-clip"
WIDE, STREAM = "vision.3.mlp_post", "vision.3.resid_post"
BOTH = (WIDE, STREAM)
EVERY_ROW = EvalConfig(split="test", rows=1 << 30)


@dataclass(frozen=True)
class Size:
    """`pictures` harvested, 64 patches each; `rows` that a training sees, `batch` a step."""

    pictures: int = 1024
    rows: int = 100_000
    batch: int = 256
    latents: int = 768
    lr: float = 1e-3
    ks: tuple[int, ...] = (8, 16, 32, 64)

    def config(self, **options: object) -> TrainConfig:
        given = {
            "tokens": "patch",
            "rows": self.rows,
            "batch": self.batch,
            "latents": self.latents,
            "lr": self.lr,
        }
        return TrainConfig(**{**given, "sites": (WIDE,), **options})  # type: ignore[arg-type]


QUICK = Size(pictures=256, rows=20_000, batch=256, latents=256, ks=(8, 32))


def harvested(folder: Path, size: Size, sites: tuple[str, ...], dtype: str, **options: object) -> Path:
    """The store of these sites in that data type, made where it is not there yet."""
    path = folder / f"{sites[0].replace('*', 'all')}-{dtype}.zarr"
    mmxai.harvest(
        MODEL, ShapesWorld(size.pictures, seed=11, split="train"), sites=list(sites), store=path,
        tokens="patch", store_dtype=dtype, stats=False, progress=False, batch_size=64, **options,
    )  # fmt: skip
    return path


def figures(saes: dict[str, SAE], store: Store) -> dict[str, Metrics]:
    """Of all rows of the pictures held out for testing."""
    return measure(saes, store, EVERY_ROW)[0]
