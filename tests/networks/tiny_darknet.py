"""Tiny Darknet for ImageNet (pjreddie.com/darknet/tiny-darknet), as plain torch modules.

Sixteen convolutions of 3x3 and 1x1 by turns, each but the last with batch norm (Darknet's epsilon 1e-3) and
a leaky ReLU; maps are halved after the 1st, 2nd, 6th and 10th; the logits are means over the last map.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn

from mmxai.models.images import ImagePipeline

SIDE = 224
CHANNELS = (16, 32, 16, 128, 16, 128, 32, 256, 32, 256, 64, 512, 64, 512, 128)
NARROW = (3, 5, 7, 9, 11, 13, 15, 16)  # convolutions of 1x1
HALVED = (1, 2, 6, 10)


class TinyDarknet(nn.Module):
    """Pictures `[N, 3, 224, 224]` in [0, 1] -> logits `[N, 1000]`, classes by the network's own list.

    `act1` .. `act15` are the maps after the leaky ReLU.
    """

    def __init__(self) -> None:
        super().__init__()
        inside = 3
        for k, out in enumerate(CHANNELS, 1):
            side = 1 if k in NARROW else 3
            self.add_module(f"conv{k}", nn.Conv2d(inside, out, side, padding=side // 2, bias=False))
            self.add_module(f"bn{k}", nn.BatchNorm2d(out, eps=1e-3))
            self.add_module(f"act{k}", nn.LeakyReLU(0.1))
            inside = out
        self.conv16 = nn.Conv2d(inside, 1000, 1)
        self.pool = nn.MaxPool2d(2, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for k in range(1, len(CHANNELS) + 1):
            x = self.get_submodule(f"conv{k}")(x)
            x = self.get_submodule(f"act{k}")(self.get_submodule(f"bn{k}")(x))
            if k in HALVED:
                x = self.pool(x)
        return self.conv16(x).mean((2, 3))


def load_tiny_darknet(folder: Path) -> TinyDarknet:
    """From `tiny_darknet.safetensors`; the file keeps no `num_batches_tracked`."""
    network = TinyDarknet().eval()
    state = {k: v for k, v in network.state_dict().items() if k.endswith("num_batches_tracked")}
    network.load_state_dict(state | load_file(folder / "tiny_darknet.safetensors"))
    return network


def pipeline() -> ImagePipeline:
    """RGB in [0, 1]; the shortest side to 224 pixels and the middle of it, as Darknet's `resize_min` and
    `crop_image` classify."""
    from PIL import Image

    return ImagePipeline.make(SIDE, crop=True, resample=Image.Resampling.BILINEAR)


def synsets(folder: Path) -> list[str]:
    """WordNet number of every logit: `n02119789`, ..."""
    return (folder / "imagenet.labels.list").read_text().split()[:1000]


def class_names(shared: Path) -> list[str]:
    """Name of every logit: ImageNet's names go by the order of WordNet numbers, the network's by its list."""
    names = (shared / "text_lists" / "imagenet_labels.txt").read_text().splitlines()
    own = synsets(shared / "tiny_darknet")
    place = {s: k for k, s in enumerate(sorted(own))}
    return [names[place[s]].strip() for s in own]
