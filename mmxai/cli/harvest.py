"""Stream a model's activations over a data set into a Zarr store.

MODEL is a folder saved by transformers or a hub id; DATA a folder of images, a text file (a sample a line),
a CSV or JSON-lines file with image and text columns, or WebDataset tar shards. The same command resumes a
harvest that was interrupted, and several workers may run it at once.

examples:
  mmxai harvest clip/ pictures/ --sites 'vision.*.resid_post' --tokens patch --per-sample 32
  mmxai harvest llama/ texts.txt --sites 'text.{0,4}.mlp_post' --context 256 --pack
  mmxai harvest clip/ captions.csv --sites '*.resid_post' --dry-run
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

import tyro

from mmxai.cli import OK, PROBLEM
from mmxai.harvesting import HarvestConfig, HarvestReport, harvest


@dataclass
class Config:
    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    """Folder or hub id of the model."""
    data: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="DATA")]
    """The data set."""
    harvest: HarvestConfig = field(default_factory=HarvestConfig)
    device: str | None = None
    """Where the model runs; default: cuda where there is one, else cpu."""
    dtype: Literal["float32", "bfloat16", "float16", "auto"] | None = None
    """Data type of the model's weights; default: float32 on a CPU, the checkpoint's own on a GPU."""
    revision: str | None = None
    """Revision of a hub id."""
    image_column: str | None = None
    """Column with the images, where its name does not tell."""
    text_column: str | None = None
    """Column with the texts, where its name does not tell."""


def run(config: Config) -> int:
    from mmxai.data import open_data
    from mmxai.models import load_model

    source = open_data(config.data, image_column=config.image_column, text_column=config.text_column)
    model = load_model(config.model, device=config.device, dtype=config.dtype, revision=config.revision)
    result = harvest(model, source, config.harvest)
    print(result)
    if not isinstance(result, HarvestReport):
        return PROBLEM if result.problems else OK
    if result.elsewhere:
        print("not complete yet: run the same command again when the other workers have ended")
    return OK if result.complete or result.elsewhere or result.parts is None else PROBLEM
