"""Measure an SAE on held-out samples: FVU, L0, dead latents, what a model keeps of its loss, known concepts;
and the same of its nulls, without which none of it says much.

Nulls are kept beside the SAE (folder `nulls`), so a second run is quick, and a run that was stopped goes on.
Of pictures that `mmxai shapes` wrote concepts are known (--data names them), and with --model the untrained
model is harvested, too.

examples:
  mmxai sae eval runs/vision.5.resid_post acts.zarr
  mmxai sae eval runs/vision.5.resid_post acts.zarr --model shapes-clip --data world/images
  mmxai sae eval runs/text.3.resid_post acts.zarr --model llama/ --data texts.txt
  mmxai sae eval runs/vision.5.resid_post acts.zarr --nulls pca
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from mmxai.cli import OK
from mmxai.errors import ArgumentError
from mmxai.methods.sae.evaluate import EvalConfig

if TYPE_CHECKING:
    from mmxai.cli._harvested import Harvested
    from mmxai.data import Source
    from mmxai.methods.sae.evaluate import Live
    from mmxai.methods.sae.model import SAE
    from mmxai.models import Model
    from mmxai.shapes import ShapesWorld
    from mmxai.store import Store

_COLOURS = "zero-shot colour"


@dataclass
class Config:
    sae: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="SAE")]
    """Folder of the SAE."""
    store: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="STORE")]
    """The store of activations."""
    eval: EvalConfig = field(default_factory=EvalConfig)
    model: str | None = None
    """The model that the store is of: what of its loss or similarity is recovered, and the untrained null."""
    data: str | None = None
    """The data set the store is of; not needed where Python harvested the shapes world itself."""
    live_samples: int = 512
    """Held-out samples run through the model."""
    device: str = "cpu"
    """Where SAE, nulls and model run."""
    out: str | None = None
    """Where the figures are written; default: eval.json in the SAE's folder."""


def run(config: Config) -> int:
    import mmxai
    from mmxai.cli._harvested import again, world_of
    from mmxai.labels import Truth
    from mmxai.methods.sae import load_sae
    from mmxai.methods.sae.evaluate import evaluate
    from mmxai.methods.sae.rows import check_sites

    home = Path(config.sae)
    out = Path(config.out or home / "eval.json")
    if out.suffix != ".json":  # not only after hours of nulls
        raise ArgumentError(f"--out: got {out.name!r}, expected a file name that ends in .json")
    if config.live_samples < 1:
        raise ArgumentError(f"--live-samples: got {config.live_samples}, expected at least 1")
    sae = load_sae(home, config.device)
    with mmxai.open_store(config.store) as store, ExitStack() as stack:
        check_sites(sae.spec, store)
        world = world_of(store, config.data)
        truth = None if world is None else Truth.of_world(world)
        live: Live | None = None
        untrained: Store | None = None
        missing: dict[str, str] = {}
        if config.model is not None:
            model = mmxai.load_model(config.model, device=config.device)
            data = config.data or world
            if data is None:
                raise ArgumentError("sae eval: got a model without data, expected --data, what was harvested")
            harvested = again(model, data, store, sae.spec.sites)
            found = _live(model, harvested.samples, world, store, sae, config)
            if isinstance(found, str):
                missing["recovered"] = found
            else:
                live = found
            if "untrained" in config.eval.nulls:
                path = home / "nulls" / f"untrained-{store.plan.hash[:8]}.zarr"
                untrained = stack.enter_context(_untrained(model, harvested, path))
        result = evaluate(
            sae, store, config.eval, truth=truth, live=live, untrained=untrained, folder=home / "nulls",
            say=lambda what: print(f"... {what}", flush=True),
        )  # fmt: skip
    result.missing |= missing
    print(result)
    if result.concepts is not None:
        print(f"\n{result.concepts}")
    print(f"\nwritten to {result.save(out)}")
    return OK


def _live(
    model: Model, source: Source, world: ShapesWorld | None, store: Store, sae: SAE, config: Config
) -> Live | str:
    """What to run the model on and what to measure; or why nothing can be."""
    from mmxai.data.objects import MapSource
    from mmxai.errors import SelectionError
    from mmxai.methods.sae.evaluate import Live
    from mmxai.methods.sae.rows import selection_of
    from mmxai.methods.sae.seen import chosen_rows
    from mmxai.models.metrics import next_token_loss, similarity

    spec = sae.spec
    space = store[spec.sites_in[0]].space
    harvested = space.partition(".")[0]  # of its pooled rows, too
    options = selection_of(spec, config.eval.split)
    try:
        samples, _ = chosen_rows(store, space, config.live_samples, config.eval.seed, options)
    except SelectionError as error:
        return str(error)
    picked = [source[int(i)] for i in samples]
    metrics: dict[str, Any] = {}
    if {"vision.embeds", "text.embeds"} <= set(model.sites()):
        if world is not None and not all(s.has_image and s.text for s in picked):
            captioned = MapSource(world)  # the same pictures with their captions
            picked = [captioned[int(i)] for i in samples]
        if not all(s.has_image and s.text for s in picked):
            return "the data are no pictures with texts; a CLIP's similarity is that of a pair"
        for tower in model.towers:
            if model.modality(tower) == "text" and tower != harvested:
                model.set_texts(tower, long="truncate")
        metrics["similarity"] = similarity
        if world is not None and harvested == "vision":
            metrics[_COLOURS] = _zero_shot(model, world, samples)
    elif harvested == "text" and _generates(model):
        metrics["loss"] = next_token_loss
    else:
        return f"{model.name} has no joint embeddings and no next token; in Python any metric will do"
    return Live(model, (picked[i : i + 32] for i in range(0, len(picked), 32)), metrics)


def _generates(model: Model) -> bool:
    """Whether it is transformers' model of the next token."""
    can = getattr(model.module, "can_generate", None)
    return callable(can) and bool(can())


def _zero_shot(model: Model, world: Any, samples: Any) -> Any:
    """Which colour the only object of a picture has; pictures with more objects are left out."""
    import torch

    from mmxai.models.metrics import ZeroShot
    from mmxai.shapes import prompt
    from mmxai.shapes.scene import CATEGORY_COLUMN, COLOURS

    scenes = world.scenes(samples)
    labels = torch.from_numpy(scenes.things[:, 0, CATEGORY_COLUMN["colour"]]).long()
    labels[torch.from_numpy(scenes.count != 1)] = -1
    texts = model.run([prompt(colour=c) for c in COLOURS], capture=["text.embeds"]).acts["text.embeds"][:, 0]
    return ZeroShot(texts, labels)


def _untrained(model: Model, harvested: Harvested, path: Path) -> Store:
    """The store of the same rows from the model with random weights; harvested where it is not there."""
    import mmxai
    from mmxai.methods.sae.nulls import rerandomised

    with rerandomised(model):
        mmxai.harvest(model, harvested.data, replace(harvested.config, store=str(path), stats=False))
    return mmxai.open_store(path)
