"""Vision towers with random weights, and pictures that are tensors already."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

import mmxai
from mmxai.data import Sample, Source
from mmxai.models import Model
from mmxai.models.load import build

SITES = ("vision.*.resid_post", "vision.*.mlp_post", "vision.*.z")
BATCH = 32


def clip_base() -> Model:
    """The vision tower of CLIP ViT-B/32 (88M parameters)."""
    from transformers import CLIPVisionConfig

    return _random(CLIPVisionConfig(image_size=224, patch_size=32))  # the class's defaults are ViT-B's widths


def clip_small() -> Model:
    """The 64-pixel vision tower of the shapes CLIP."""
    from mmxai.shapes.model import clip_config

    return _random(clip_config(64).vision_config)


def clip_tiny() -> Model:
    """Two blocks, for runs that only show that a case runs."""
    from transformers import CLIPVisionConfig

    return _random(
        CLIPVisionConfig(
            image_size=32, patch_size=8, hidden_size=32, intermediate_size=64, num_attention_heads=2,
            num_hidden_layers=2, projection_dim=16,
        )
    )  # fmt: skip


def _random(config: Any) -> Model:
    from transformers import CLIPImageProcessorPil, CLIPVisionModelWithProjection

    torch.manual_seed(0)
    module = CLIPVisionModelWithProjection(config).eval()
    return build(module, name="random", config=config, processor=CLIPImageProcessorPil(), tokenizer=None)


class Decoded(Source):
    """Pictures that are tensors already, so that decoding is in neither side of the ratio."""

    def __init__(self, count: int, size: int):
        self._count = count
        self.pixels = torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(0))

    @property
    def identity(self) -> dict[str, Any]:
        return {"kind": "random pixels", "count": self._count}

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Sample:
        return Sample(str(index), tensors={"pixel_values": self.pixels[index]}, digest="0")


def harvest(model: Model, data: Decoded, path: Path, stats: bool = True) -> None:
    """The data set into a store at `path`."""
    mmxai.harvest(
        model, data, sites=list(SITES), store=path, batch_size=BATCH, stats=stats, progress=False,
        order="sequential",
    )  # fmt: skip
