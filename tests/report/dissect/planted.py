"""Many latents over many pictures: each picture has blobs of a few of them, and maps of as many concepts."""

from functools import cache

import numpy as np
import torch
from PIL import Image

from mmxai.concepts import Concept, Concepts, ImageLabels
from mmxai.store import create_store
from mmxai.types import TOKEN_CODES, Rows

SITE, GRID, SIZE, K = "vision.6.resid_post.sae", 14, (320, 240), 16
CATEGORIES = ("object", "part", "material", "colour")
_TILE = {"affine": [14 / 240, 0, -14 * 40 / 240, 0, 14 / 240, 0], "grid": [GRID, GRID]}  # the middle square


class Planted(Concepts):
    """Latent u is concept u % C in a part of the pictures. `licences`: whether pictures have any."""

    about, licence = "planted <maps>", "CC0 <b>"

    def __init__(self, pictures, concepts, licences=True):
        self.pictures, self.licences = pictures, licences
        self.categories = CATEGORIES
        self.concepts = tuple(Concept(f"<concept {k}>", CATEGORIES[k % 4], k) for k in range(concepts))

    @property
    def identity(self):
        return {"source": "planted", "pictures": self.pictures, "concepts": len(self.concepts)}

    def labels(self, sample):
        draw = np.random.default_rng(sample)
        maps = np.full((1, 24, 32), -1, np.int32)
        for unit, y, x, h, w in blobs(draw, len(self.concepts)):
            # The model sees columns 4 to 28 of 32 in 14 cells.
            top, bottom = (round(v * 24 / GRID) for v in (y, y + h))
            left, right = (round(4 + v * 24 / GRID) for v in (x, x + w))
            maps[0, top:bottom, left:right] = unit
        return ImageLabels(maps, np.zeros(0, np.int64), np.ones(4, bool))

    def picture_licence(self, sample):
        if not self.licences or sample % 7 == 0:
            return None
        return ("CC BY 2.0 (https://creativecommons.org/licenses/by/2.0/)", "<i>own</i>")[sample % 2]


def blobs(draw, concepts, most=10):
    """(concept, y, x, height, width) in cells."""
    for concept in draw.choice(concepts, min(most, concepts), replace=False):
        h, w = draw.integers(2, 6, 2)
        yield int(concept), *(int(draw.integers(0, GRID - n)) for n in (h, w)), int(h), int(w)


def make(path, units, pictures, concepts, block=48):
    """A store of latents (topk), written block by block."""
    cells = GRID * GRID
    with create_store(
        path, {"vision": {SITE: units}}, dtype="topk", topk=K, samples_per_part=block, durable=False
    ) as writer:
        for start in range(0, pictures, block):
            own = range(start, min(start + block, pictures))
            x = torch.zeros(len(own), GRID, GRID, units)
            for i, sample in enumerate(own):
                draw = np.random.default_rng(sample)
                for concept, y, a, h, w in blobs(draw, concepts):
                    every = np.arange(concept, units, concepts)
                    unit = draw.choice(every, min(2, len(every)), replace=False)
                    shape = torch.from_numpy(draw.random((h, w, len(unit)), np.float32)) + 0.05
                    x[i, y : y + h, a : a + w, unit] = torch.maximum(
                        x[i, y : y + h, a : a + w, unit], shape * (shape > 0.2)
                    )
            place = torch.arange(cells).repeat(len(own))
            rows = Rows.make(
                sample=torch.arange(len(own)).repeat_interleave(cells), position=place, image=0,
                y=place // GRID, x=place % GRID, token_type=TOKEN_CODES["patch"],
            )  # fmt: skip
            said = [
                {"key": f"/home/somebody/<p{i}>.jpg", "size": list(SIZE), "tiles": [_TILE],
                 "text": f"<script>alert({i})</script>"} for i in own
            ]  # fmt: skip
            writer.write(said, {SITE: x.reshape(-1, units)}, rows)


@cache
def _texture(number):
    """What a photograph is like to an encoder: noise whose amplitude falls with frequency."""
    draw = np.random.default_rng(number)
    fy, fx = np.fft.fftfreq(SIZE[1])[:, None], np.fft.rfftfreq(SIZE[0])[None]
    falloff = 1 / np.maximum(np.hypot(fy, fx), 1 / max(SIZE)) ** 1.1
    layers = []
    for _ in range(3):
        phase = np.exp(2j * np.pi * draw.random(falloff.shape))
        layers.append(np.fft.irfft2(falloff * phase, SIZE[::-1]))
    grey, *tint = (v / v.std() for v in layers)
    rgb = np.stack([grey + 0.3 * tint[0], grey, grey + 0.3 * tint[1]], -1)
    return np.clip(128 + 55 * rgb, 0, 255).astype(np.uint8)


def picture(sample):
    """Each is another."""
    turned = np.roll(_texture(sample % 16), (sample * 37 % SIZE[1], sample * 91 % SIZE[0]), (0, 1))
    return Image.fromarray(turned)
