"""Measure an SAE on held-out samples: FVU, L0, dead latents, what a model keeps of its loss, known concepts;
and the same of its nulls, without which none of it says much.

Nulls are kept beside the SAE (folder `nulls`), so a second run is quick. On stores of the shapes world the
concepts are known, and with --model the untrained model is harvested, too.

examples:
  mmxai sae eval runs/vision.5.resid_post acts.zarr
  mmxai sae eval runs/vision.5.resid_post acts.zarr --model shapes-clip
  mmxai sae eval runs/text.3.resid_post acts.zarr --model llama/ --data texts.txt
  mmxai sae eval runs/vision.5.resid_post acts.zarr --nulls pca
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from mmxai.cli import OK
from mmxai.errors import ArgumentError
from mmxai.methods.sae.evaluate import EvalConfig

if TYPE_CHECKING:
    from mmxai.methods.sae.evaluate import Live
    from mmxai.methods.sae.model import SAE
    from mmxai.models import Model
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
    """The data set the store is of; not needed for the shapes world."""
    live_samples: int = 512
    """Held-out samples run through the model."""
    out: str | None = None
    """Where the figures are written; default: eval.json in the SAE's folder."""


def run(config: Config) -> int:
    import mmxai
    from mmxai.methods.sae import load_sae
    from mmxai.methods.sae.evaluate import evaluate
    from mmxai.methods.sae.truth import Truth

    home = Path(config.sae)
    sae = load_sae(home)
    with mmxai.open_store(config.store) as store:
        world = world_of(store)
        truth = None if world is None else Truth.of_world(world)
        live = untrained = None
        if config.model is not None:
            data = config.data if world is None else world
            if data is None:
                raise ArgumentError("sae eval: got a model without data, expected --data, what was harvested")
            model = mmxai.load_model(config.model)
            _same_model(model, store)
            live = _live(model, data, store, sae, config)
            if "untrained" in config.eval.nulls:
                untrained = _untrained(model, data, store, sae, home / "nulls" / "untrained.zarr")
        result = evaluate(
            sae, store, config.eval, truth=truth, live=live, untrained=untrained, folder=home / "nulls",
            say=lambda what: print(f"... {what}", flush=True),
        )  # fmt: skip
        if untrained is not None:
            untrained.close()
    print(result)
    if result.concepts is not None:
        print(f"\n{result.concepts}")
    print(f"\nwritten to {result.save(config.out or home / 'eval.json')}")
    return OK


def world_of(store: Store) -> Any:
    """The shapes world that a store was harvested from, or None."""
    from mmxai.shapes import ShapesWorld

    found = _find_world(store.plan.identity.get("data"))
    if found is None:
        return None
    world = ShapesWorld(found["n"], seed=found["seed"], size=found["size"], split=found["split"])
    if world.identity["version"] != found["version"]:
        raise ArgumentError(
            f"sae eval: got a store of version {found['version']} of the shapes world, expected "
            f"{world.identity['version']}; harvest again, or use the version of mmxai that made it"
        )
    return world


def _find_world(identity: Any) -> dict[str, Any] | None:
    """A data set's identity may wrap another's (a limit, a sequence)."""
    if not isinstance(identity, dict):
        return None
    if identity.get("world") == "shapes":
        return identity
    return next((w for value in identity.values() if (w := _find_world(value)) is not None), None)


def _same_model(model: Model, store: Store) -> None:
    """ArgumentError where the store is of another model's weights: figures would mean nothing."""
    stored = store.plan.identity.get("model", {})
    if stored.get("weights") not in (None, model.identity["weights"]):
        raise ArgumentError(
            f"sae eval: got model {model.name!r}, whose weights are not those of the store "
            f"({store.plan.notes.get('model')!r}); give the model that was harvested"
        )


def _live(model: Model, data: Any, store: Store, sae: SAE, config: Config) -> Live:
    from mmxai.data import Source, open_data
    from mmxai.methods.sae.evaluate import Live
    from mmxai.methods.sae.nulls import selection_of
    from mmxai.methods.sae.recovered import next_token_loss, similarity
    from mmxai.methods.sae.seen import chosen_rows

    source = open_data(data)
    if not isinstance(source, Source):
        raise ArgumentError("sae eval: got data without random access, expected some with a length")
    spec, split = sae.spec, selection_of(sae.spec, config.eval.split)
    space = store[spec.sites_in[0]].space
    samples, _ = chosen_rows(store, space, config.live_samples, config.eval.seed, split)
    picked = [source[int(i)] for i in samples]
    tower = space.partition(".")[0]
    sites = model.sites()
    if {"vision.embeds", "text.embeds"} <= set(sites):
        metrics: dict[str, Any] = {"similarity": similarity}
        if tower == "vision" and hasattr(data, "scenes"):
            metrics[_COLOURS] = _zero_shot(model, data, samples)
    elif tower == "text":
        metrics = {"loss": next_token_loss}
    else:
        raise ArgumentError(
            f"sae eval: got {model.name!r}, expected a model with joint embeddings or a language model; from "
            "Python `recovered` takes any metric"
        )
    return Live(model, (picked[i : i + 32] for i in range(0, len(picked), 32)), metrics)


def _zero_shot(model: Model, world: Any, samples: Any) -> Any:
    """Which colour the only object of a picture has; pictures with more objects are left out."""
    import torch

    from mmxai.methods.sae.recovered import ZeroShot
    from mmxai.shapes import prompt
    from mmxai.shapes.scene import CATEGORY_COLUMN, COLOURS

    scenes = world.scenes(samples)
    labels = torch.from_numpy(scenes.things[:, 0, CATEGORY_COLUMN["colour"]]).long()
    labels[torch.from_numpy(scenes.count != 1)] = -1
    texts = model.run([prompt(colour=c) for c in COLOURS], capture=["text.embeds"]).acts["text.embeds"][:, 0]
    return ZeroShot(texts, labels)


def _untrained(model: Model, data: Any, store: Store, sae: SAE, path: Path) -> Store:
    """The store of the same rows from the model with random weights; harvested where it is not there."""
    import mmxai
    from mmxai.harvesting import HarvestConfig, harvest
    from mmxai.methods.sae.nulls import rerandomised

    plan = store.plan
    chosen = plan.identity.get("selection", {})
    tokens, pool = (
        ",".join(map(str, value)) if isinstance(value, list) else value
        for value in (chosen.get("tokens"), chosen.get("pool"))
    )
    config = HarvestConfig(
        sites=sae.spec.sites,
        store=str(path),
        tokens=tokens,
        pool=pool,
        per_sample=chosen.get("per_sample"),
        order=plan.order,  # type: ignore[arg-type]
        seed=plan.seed,
        limit=plan.samples,
        stats=False,
    )
    with rerandomised(model):
        harvest(model, data, config)
    return mmxai.open_store(path)
