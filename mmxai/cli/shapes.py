"""Write pictures of the shapes world with all that is known of them to a folder that other tools read.

examples:
  mmxai shapes world --pictures 1000              images and captions.csv
  mmxai shapes coco --layout coco --split val     COCO instances (polygons) and captions
  mmxai shapes broden --layout broden             Network Dissection's label maps
then:
  mmxai harvest shapes-clip world/captions.csv --sites 'vision.*.resid_post' --store acts.zarr
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
    split: Literal["all", "train", "val", "test", "compositional"] = "all"
    """Pictures of the three first have no attribute pair of those that each of the last has."""
    seed: int = 0
    """Another seed, other pictures."""
    size: int = 64
    """Pixels of a side."""


def run(config: Config) -> int:
    from mmxai.shapes import ShapesWorld
    from mmxai.shapes.export import export_broden, export_coco, export_folder

    write = {"folder": export_folder, "coco": export_coco, "broden": export_broden}[config.layout]
    split = None if config.split == "all" else config.split
    out = write(ShapesWorld(config.pictures, seed=config.seed, size=config.size, split=split), config.out)
    print(f"{config.pictures:,} pictures in {out.absolute()}")
    return OK
