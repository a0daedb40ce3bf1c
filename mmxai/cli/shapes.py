"""Write pictures of the shapes world with all that is known of them to a folder that other tools read.

examples:
  mmxai shapes world --pictures 1000              images and captions.csv
  mmxai shapes coco --layout coco --split val     COCO instances (polygons) and captions
  mmxai shapes broden --layout broden             Network Dissection's label maps
then:
  mmxai harvest shapes-clip world/images --sites 'vision.*.resid_post' --store acts.zarr
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from mmxai.cli import OK


@dataclass
class Config:
    out: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="FOLDER")]
    """A new or empty folder."""
    pictures: int = 1000
    """How many pictures."""
    layout: Literal["folder", "coco", "broden"] = "folder"
    """Captions as a table, COCO annotations, or Broden label maps."""
    masks: Literal["polygons", "rle"] = "polygons"
    """How COCO's masks are written."""
    split: Literal["all", "train", "val", "test", "compositional"] = "all"
    """In "compositional" every picture has a pair of attributes that none of the three others has."""
    seed: int = 0
    """Another seed, other pictures."""
    size: int = 64
    """Pixels of a side."""


def run(config: Config) -> int:
    from mmxai.shapes import ShapesWorld
    from mmxai.shapes.export import export_broden, export_coco, export_folder

    split = None if config.split == "all" else config.split
    world = ShapesWorld(config.pictures, seed=config.seed, size=config.size, split=split)
    match config.layout:
        case "folder":
            out = export_folder(world, config.out)
        case "coco":
            out = export_coco(world, config.out, masks=config.masks)
        case "broden":
            out = export_broden(world, config.out)
    print(f"{config.pictures:,} pictures in {out.absolute()}")
    return OK
