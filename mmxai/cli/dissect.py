"""Network dissection: which concepts the units of a site stand for, by the pixels in which they are active.

CONCEPTS says what is where in the pictures: a folder that `mmxai shapes` wrote (or the word shapes, where
Python harvested that world), COCO or LVIS annotations (JSON), a folder in Broden's layout, a folder of mask
PNGs with names.csv, voc:DIR, ade20k:DIR or cocostuff:DIR, a CSV file of labels of whole pictures or boxes; or
several of them. A run that was stopped goes on where it was.

examples:
  mmxai dissect acts.zarr --concepts annotations/instances_val2017.json --sites 'vision.*.mlp_post'
  mmxai dissect acts.zarr --concepts broden1_224/ --area annotated --mode bilinear
  mmxai dissect acts.zarr --concepts shapes --held-out 0.2 --untrained untrained.zarr
  mmxai dissect acts.zarr --concepts val2017.json --data val2017/ --publish site/
  mmxai dissect codes.zarr --concepts ade20k:annotations --sites 'vision.6.resid_post.sae' --min-fired 50
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from mmxai.cli import OK
from mmxai.errors import ArgumentError
from mmxai.methods.dissect.config import DissectConfig

if TYPE_CHECKING:
    from mmxai.concepts import Concepts
    from mmxai.methods.dissect import Dissections
    from mmxai.report.dissect import DissectPages
    from mmxai.store import Store

_WORLD = "shapes"


@dataclass
class Config:
    store: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="STORE")]
    """The store of activations."""
    concepts: tuple[str, ...]
    """What is where in its pictures."""
    dissect: DissectConfig = field(default_factory=DissectConfig)
    untrained: str | None = None
    """A store of the same sites and data of the model with random weights, as a control."""
    data: str | None = None
    """The data set that was harvested, for its pictures."""
    out: str = "dissect"
    """Folder for pages/ (a page a unit), dissect.json (figures), dissect.safetensors (all counts), a table a
    site in the columns in which dissections are published, layers.csv, and state/, from which a stopped run
    goes on."""
    publish: str | None = None
    """Folder for the pages instead, with all that they need and nothing else: a static site for any web
    server, of at most 200 MB for 32,768 units."""
    images: bool = True
    """Whether pages show the pictures, or where they may not be published, outlines of masks alone."""


def run(config: Config) -> int:
    from contextlib import ExitStack

    from mmxai.methods.dissect import dissect
    from mmxai.methods.dissect.tables import layer_table, write_published
    from mmxai.report.units.folder import file_of
    from mmxai.store import open_store

    if not config.concepts:
        raise ArgumentError("--concepts: got none, expected what is where in the pictures")
    out = Path(config.out)
    with ExitStack() as open_ones:
        store = open_ones.enter_context(open_store(config.store))
        other = None if config.untrained is None else open_ones.enter_context(open_store(config.untrained))
        concepts = _concepts(config, store)
        print(f"... {concepts!r}", flush=True)
        found = dissect(
            store, concepts, config.dissect, state=out / "state", untrained=other,
            say=lambda what: print(f"... {what}", flush=True),
        )  # fmt: skip
        print(found)
        print(f"\nall figures: {found.save(out / 'dissect.json')}")
        for name, one in found.sites.items():
            print(f"{name}: {write_published(one, out / f'{file_of(name)}.csv')}")
        layer_table(list(found.sites.values())).to_csv(out / "layers.csv", index=False)
        print(f"\n{_pages(config, found, store, concepts)}")
    return OK


def _pages(config: Config, found: Dissections, store: Store, concepts: Concepts) -> DissectPages:
    from mmxai.cli._harvested import world_of
    from mmxai.cli._shown import pictures_of
    from mmxai.methods.dissect.tables import published
    from mmxai.report.dissect import dissect_pages

    images = None
    if config.images:
        images = pictures_of(config.data or world_of(store, None), store)
        if images is None:
            print("pages without pictures: give --data, what was harvested, to show them", flush=True)
    return dissect_pages(
        found, store, config.publish or Path(config.out) / "pages", concepts=concepts, images=images,
        tables={name: published(one) for name, one in found.sites.items()},
        progress=lambda what: print(f"... {what}", flush=True),
    )  # fmt: skip


def _concepts(config: Config, store: Store) -> Concepts:
    from mmxai.cli._harvested import world_of
    from mmxai.concepts import WorldConcepts, open_concepts

    if config.concepts != (_WORLD,) or Path(_WORLD).exists():
        return open_concepts(config.concepts if len(config.concepts) > 1 else config.concepts[0], store)
    world = world_of(store, config.data)
    if world is None:
        raise ArgumentError(
            f"--concepts {_WORLD}: got a store that was not harvested from the shapes world, expected a file "
            "or folder of annotations"
        )
    return WorldConcepts(world)
