"""The main job, end to end, without a download: a small CLIP over a few thousand generated pictures.

Makes a CLIP-architecture model, harvests every block of both towers into a Zarr store, prints what is in it,
writes a page with the pictures that drive a few neurons, and reads shuffled batches back.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mmxai.cli import OK
from mmxai.harvesting import HarvestReport, harvest
from mmxai.harvesting.report import size


@dataclass
class Config:
    out: str = "demo"
    """Folder for the model, the store and the page. A second run resumes it."""
    pictures: int = 3000
    """How many pictures."""
    seed: int = 0
    """Seed of pictures, captions and weights."""


def run(config: Config) -> int:
    import mmxai
    from mmxai.report import neuron_page
    from mmxai.shapes import ShapesWorld
    from mmxai.shapes.model import random_clip

    out = Path(config.out)
    folder = out / f"clip-{config.seed}"
    print("1. a CLIP of 3.4 million parameters (random weights) and a world of pictures with captions")
    if not folder.exists():
        shutil.rmtree(out / "clip.new", ignore_errors=True)  # of a run that was killed here
        random_clip(out / "clip.new", config.seed).rename(folder)
    model = mmxai.load_model(str(folder))
    world = ShapesWorld(config.pictures, seed=config.seed)
    print(f"   the first: {world[0].caption!r}\n")

    print("2. mmxai harvest: every block of both towers")
    store_path = out / f"acts-{config.seed}-{config.pictures}.zarr"
    sites = ["*.resid_post", "*.mlp_post", "*.embeds"]
    report = harvest(model, world, sites=sites, store=store_path)
    if not isinstance(report, HarvestReport):
        raise TypeError(f"harvest returned {type(report).__name__}")
    print(_indent(str(report)), end="\n\n")

    with mmxai.open_store(store_path) as store:
        print("3. mmxai.open_store: what is in it")
        print(_indent(str(store)), end="\n\n")

        print("4. the pictures that drive a few neurons, from store.stats")
        page = neuron_page(
            store,
            sites=["vision.1.mlp_post", "vision.5.mlp_post", "vision.5.resid_post", "text.2.mlp_post"],
            units=4,
            out=out / "index.html",
            images=lambda i: world[i].pil,
            decode=_decoder(model),
            title="mmxai demo: a small CLIP over the shapes world",
            facts=_facts(report),
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

    print(f"store  {store_path.absolute()}\npage   {page.absolute()}")
    return OK


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


def _decoder(model: object) -> Callable[[int], str]:
    from mmxai.models import Model

    if not isinstance(model, Model):
        raise TypeError(f"got {type(model).__name__}, expected a Model")
    pipeline = model.set_texts("text")
    if pipeline is None:
        raise TypeError("the demo's model has no tokenizer")
    return lambda token: pipeline.decode([token])


def _indent(text: str) -> str:
    return "\n".join(f"   {line}" for line in text.splitlines())
