"""The main job, end to end, without a download: a trained CLIP over a few thousand generated pictures.

Says how good the model is on held-out pictures, harvests every block of both towers into a Zarr store,
prints what is in it, writes a page with the pictures that drive a few neurons, reads shuffled batches back,
and trains a sparse autoencoder on them, with a page a latent.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mmxai.cli import OK
from mmxai.errors import ArgumentError
from mmxai.harvesting import HarvestReport, harvest
from mmxai.harvesting.report import size

if TYPE_CHECKING:
    from mmxai.models import Model

_FEWEST = 64
_ABOUT = (
    "Of each site the neurons whose top pictures agree most on one of the world's concepts, out of all its "
    "neurons and concepts. What they share is counted on the truth, over all top pictures; 8 are shown."
)


@dataclass
class Config:
    out: str = "demo"
    """Folder for the store and the page. A second run resumes it."""
    pictures: int = 3000
    """How many pictures."""
    seed: int = 0
    """Seed of pictures and captions."""
    model: str = "shapes-clip"
    """A model of the shapes world that ships with mmxai, or a folder with one."""


def run(config: Config) -> int:
    import mmxai
    from mmxai.cli._demo_sae import show_sae
    from mmxai.report import neuron_page
    from mmxai.shapes import ShapesWorld
    from mmxai.shapes.shared import shared_concepts

    out = Path(config.out)
    if config.pictures < _FEWEST:
        raise ArgumentError(f"demo: got {config.pictures} pictures, expected at least {_FEWEST}")
    print(f"1. {config.model}, and pictures of the shapes world with captions")
    model = mmxai.load_model(config.model)
    world = ShapesWorld(config.pictures, seed=config.seed, split="test")
    print(f"   the first: {world[0].caption!r}")
    quality = _quality(model)
    print(_indent("\n".join(f"{name}: {value}" for name, value in quality.items())), end="\n\n")

    print("2. mmxai harvest: every block of both towers")
    store_path = out / f"acts-{Path(config.model).name}-{config.seed}-{config.pictures}.zarr"
    sites = ["*.resid_post", "*.mlp_post", "*.embeds"]
    report = harvest(model, world, sites=sites, store=store_path)
    if not isinstance(report, HarvestReport):
        raise TypeError(f"harvest returned {type(report).__name__}")
    print(_indent(str(report)), end="\n\n")

    with mmxai.open_store(store_path) as store:
        print("3. mmxai.open_store: what is in it")
        print(_indent(str(store)), end="\n\n")

        print("4. the pictures that drive a few neurons, from store.stats")
        known = world.batch(range(len(world)), texts=0).concepts
        shown = ["vision.1.mlp_post", "vision.3.mlp_post", "vision.5.mlp_post", "text.2.mlp_post"]
        shared = {name: shared_concepts(store, name, known, 4) for name in shown}
        for name, neurons in shared.items():
            print("\n".join(f"   {name} neuron {n.unit:<4} {n}" for n in neurons))
        page = neuron_page(
            store,
            sites=shown,
            units={name: [n.unit for n in neurons] for name, neurons in shared.items()},
            out=out / "index.html",
            images=lambda i: world[i].pil,
            decode=_decoder(model),
            title=f"mmxai demo: {config.model} over the shapes world",
            about=_ABOUT,
            facts=quality | _facts(report),
            notes={name: {n.unit: str(n) for n in neurons} for name, neurons in shared.items()},
        )
        print(f"   {page}\n")

        print("5. shuffled batches of patches, as a training loop reads them")
        start, rows = time.perf_counter(), 0
        site = store["vision.5.resid_post"]
        for batch in site.batches(4096, shuffle=True, seed=config.seed, tokens="patch"):
            rows += batch.num_rows
        seconds = time.perf_counter() - start
        rate = size(rows * site.shape[1] * site.dtype.itemsize / seconds)
        print(f"   {rows:,} rows in {seconds:.2f} s: {rows / seconds / 1e6:.2f} million rows/s, {rate}/s\n")

        print("6. mmxai sae train, eval, encode, show: an autoencoder of these patches")
        latents = show_sae(store, world, config.model, out, config.seed)
        print()

    print(f"store  {store_path.absolute()}\npages  {page.absolute()}\n       {latents.absolute()}")
    return OK


def _quality(model: Model) -> dict[str, str]:
    """A few held-out scores of the model, taken now; `mmxai/trained/*/README.md` has all of them."""
    from transformers import CLIPModel

    from mmxai.shapes.score import scores
    from mmxai.shapes.towers import Towers

    names = {
        "retrieval of the picture among 256": "caption finds its picture among 256",
        "zero-shot colour": "zero-shot colour",
        "zero-shot shape": "zero-shot shape",
        "binding, colour swapped": "colours swapped, told apart",
        "binding, relation swapped": "relation turned around, told apart",
    }
    if not isinstance(model.module, CLIPModel):
        raise ArgumentError(f"demo: got a {type(model.module).__name__}, expected a CLIP of the shapes world")
    found = {s.name: s for s in scores(Towers(model.module), "test", pictures=512)}
    return {said: f"{found[name].value:.1%} of {found[name].n}" for name, said in names.items()}


def _facts(report: HarvestReport) -> dict[str, str]:
    """Rates of this run; a run that only resumed has none."""
    if not report.samples:
        return {}
    seconds = report.clock.wall
    return {
        "pictures/s": f"{report.samples / seconds:,.0f}",
        "rows/s": f"{sum(report.rows.values()) / seconds:,.0f}",
        "written/s": size(report.nbytes / seconds),
    }


def _decoder(model: Model) -> Callable[[int], str]:
    pipeline = model.set_texts("text")
    if pipeline is None:
        raise TypeError("the demo's model has no tokenizer")
    return lambda token: pipeline.decode([token])


def _indent(text: str) -> str:
    return "\n".join(f"   {line}" for line in text.splitlines())
