"""What the units of three networks detect, beside what controls reach: Tiny Darknet and ResNet-20 over COCO's
photographs, the CLIP that ships with mmxai over pictures of the shapes world."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

import mmxai
from benchmarks.study.real import SHARED
from benchmarks.study.sites import MODEL, Size
from mmxai.concepts import Concepts, WorldConcepts, open_concepts
from mmxai.errors import DataError
from mmxai.methods.dissect import DissectConfig, Dissection, dissect
from mmxai.methods.sae.nulls import rerandomised
from mmxai.models import Model
from mmxai.shapes import ShapesWorld
from mmxai.store import Store
from tests.networks import resnet, tiny_darknet
from tests.networks.photographs import annotated

Row = dict[str, Any]

HELD_OUT = DissectConfig(held_out=0.5, save_every=1 << 30)
SAME = DissectConfig(bootstrap=0, controls=("shuffled",), correlation=False, save_every=1 << 30)
LISTED = 12
SIDE = 128  # pixels of ResNet-20's input: maps of 128, 64 and 32 cells a side


def dissected(folder: Path, size: Size) -> list[Row]:
    """A row a network."""
    if not SHARED.is_dir():
        raise DataError(f"study: got no {SHARED}, expected the real data beside the repository")
    coco = SHARED / "coco_mini"
    folder = folder / "dissected"
    folder.mkdir(parents=True, exist_ok=True)
    photos = annotated(coco, folder / "photographs")
    darknet = mmxai.wrap(
        tiny_darknet.load_tiny_darknet(SHARED / "tiny_darknet"),
        prepare=tiny_darknet.pipeline(), name="tiny_darknet",
    )  # fmt: skip
    small = mmxai.wrap(
        resnet.load_resnet20(SHARED / "resnet_cifar10"), prepare=resnet.pipeline(SIDE), name="resnet20"
    )
    world = ShapesWorld(size.pictures, seed=17)
    maps = [f"module:act{k}" for k in range(2, 16, 2)] + ["module:act15", "module:conv16"]

    def of_photographs(store: Store) -> Concepts:
        return open_concepts(coco, store)

    return [
        _row("Tiny Darknet", darknet, photos, maps, of_photographs, folder / "darknet"),
        _row("ResNet-20", small, photos, [f"module:layer{k}.2" for k in (1, 2, 3)], of_photographs,
             folder / "resnet"),
        _row("shapes CLIP", mmxai.load_model(MODEL), world, ["vision.*.mlp_post", "vision.*.resid_post"],
             lambda store: WorldConcepts(world), folder / "shapes"),
    ]  # fmt: skip


def _row(
    name: str, model: Model, data: Any, sites: list[str], concepts: Callable[[Store], Concepts], home: Path
) -> Row:
    options: dict[str, Any] = {"sites": sites, "stats": False, "progress": False, "batch_size": 16}
    if name == "shapes CLIP":
        options["tokens"] = "patch"
    mmxai.harvest(model, data, store=home / "acts.zarr", **options)
    with rerandomised(model):
        mmxai.harvest(model, data, store=home / "untrained.zarr", **options)
    with ExitStack() as opened:
        store, untrained = (
            opened.enter_context(mmxai.open_store(home / f"{kind}.zarr")) for kind in ("acts", "untrained")
        )
        known = concepts(store)
        same = dissect(store, known, SAME, state=home / "same")
        apart = dissect(store, known, HELD_OUT, state=home / "apart", untrained=untrained)
    return {
        "network": name, "concepts": len(known), "categories": list(known.categories), "about": known.about,
        "pictures": next(iter(same.sites.values())).scored.pictures,
        "scored": next(iter(apart.sites.values())).scored.pictures,
        "sites": [_site(one, same.sites[site]) for site, one in apart.sites.items()],
    }  # fmt: skip


def _by_category(found: Dissection, labels: np.ndarray) -> dict[str, int]:
    counts = dict.fromkeys(found.categories, 0)
    for k in labels:
        counts[found.concepts[k].category] += 1
    return counts


def _site(apart: Dissection, same: Dissection) -> Row:
    level = apart.level
    order = np.argsort(-apart.best, kind="stable")
    found = [int(u) for u in order[:LISTED] if apart.detectors()[u]]
    return {
        "site": apart.site, "units": apart.units, "detectors": int(apart.detectors().sum()),
        "unique": apart.unique(), "sure": int((apart.detectors() & (apart.low[:, 0] > level)).sum()),
        "controls": {n: [c.detectors(level), c.unique(level)] for n, c in apart.controls.items()},
        "beyond": {
            n: int((apart.detectors() & (apart.best > c.level(0.99))).sum())
            for n, c in apart.controls.items()
        },
        "controls_by_category": {
            n: _by_category(apart, c.label[(c.iou > level) & c.often]) for n, c in apart.controls.items()
        },
        "same": [int(same.detectors().sum()), same.unique(), same.controls["shuffled"].detectors(level)],
        "by_category": apart.by_category(),
        "best": [
            {"unit": u, "label": apart.concepts[apart.label[u]].name,
             "category": apart.concepts[apart.label[u]].category, "iou": float(apart.iou[u, 0]),
             "low": float(apart.low[u, 0]), "high": float(apart.high[u, 0]),
             "ceiling": float(apart.ceiling[apart.label[u]])}
            for u in found
        ],
    }  # fmt: skip
