"""A network some of whose units are given concepts: all of them are found, and nothing among the others.

Pictures whose red channel says what is at a pixel, and whose green and blue are noise. The network's weights
are set by hand: a unit for every concept, which is 1 where red has the concept's level, and units of noise.
It is harvested as any other is, its maps of half the pictures' side, cropped from the middle.
"""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import mmxai
from mmxai.concepts import open_concepts
from mmxai.methods.dissect import DissectConfig, dissect
from mmxai.models.images import ImagePipeline

CONCEPTS, NOISE, PICTURES, SIZE = 6, 20, 60, (128, 96)
SITE = "module:pool"


class Planted(nn.Module):
    def __init__(self):
        super().__init__()
        draw = torch.Generator().manual_seed(1)
        # A tent around each level of red: relu(x - a) - 2 relu(x - b) + relu(x - c), a step of 1 / 8 each.
        self.rise = nn.Conv2d(3, 3 * CONCEPTS, 1)
        self.noise = nn.Conv2d(2, NOISE, 3, padding=1)
        self.pool = nn.AvgPool2d(2)
        with torch.no_grad():
            self.rise.weight.zero_()
            self.rise.weight[:, 0] = 8
            levels = torch.arange(CONCEPTS).repeat_interleave(3) + torch.tensor([0, 1, 2]).repeat(CONCEPTS)
            self.rise.bias.copy_(-levels.float())
            self.noise.weight.copy_(torch.randn(self.noise.weight.shape, generator=draw))

    def forward(self, x):
        steps = torch.relu(self.rise(x)).unflatten(1, (CONCEPTS, 3))
        tents = steps[:, :, 0] - 2 * steps[:, :, 1] + steps[:, :, 2]
        return self.pool(torch.cat([tents, self.noise(x[:, 1:])], 1))


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    home = tmp_path_factory.mktemp("planted")
    draw = np.random.default_rng(0)
    (home / "pictures").mkdir()
    (home / "masks").mkdir()
    for i in range(PICTURES):
        what = np.zeros(SIZE[::-1], np.int64)  # 0: nothing
        for _ in range(3):
            y, x = draw.integers(0, 64), draw.integers(0, 96)
            h, w = draw.integers(24, 64, 2)
            what[y : y + h, x : x + w] = draw.integers(1, CONCEPTS + 1)
        pixels = draw.integers(0, 256, (*SIZE[::-1], 3))
        pixels[..., 0] = np.round(what * 255 / 8)
        Image.fromarray(pixels.astype(np.uint8)).save(home / f"pictures/{i:03d}.png")
        Image.fromarray(what.astype(np.uint8)).save(home / f"masks/{i:03d}.png")
    names = "".join(f"{k + 1},thing {k}\n" for k in range(CONCEPTS))
    (home / "masks/names.csv").write_text("number,name\n" + names)
    pipeline = ImagePipeline.make(96, mean=(0, 0, 0), std=(1, 1, 1))
    model = mmxai.wrap(Planted().eval(), prepare=pipeline)
    store = home / "acts.zarr"
    mmxai.harvest(model, home / "pictures", sites=[SITE], store=store, store_dtype="float32", progress=False)
    with mmxai.open_store(store) as opened:
        yield opened, open_concepts(home / "masks", opened)


@pytest.mark.parametrize("mode", ["nearest", "bilinear"])
def test_every_planted_unit_is_found_and_no_other(planted, mode):
    store, concepts = planted
    config = DissectConfig(
        sites=(SITE,), rule="absolute", absolute=0.5, mode=mode, held_out=0.3, bootstrap=100
    )
    found = dissect(store, concepts, config)[SITE]
    names = [found.concepts[k].name for k in found.label[:CONCEPTS]]
    assert names == [f"thing {k}" for k in range(CONCEPTS)]
    assert found.best[:CONCEPTS].min() > 0.9 and found.low[:CONCEPTS, 0].min() > 0.85
    assert (found.relative()[:CONCEPTS, 0] > 0.9).all() and (found.ceiling > 0.9).all()
    # Noise: nothing above what labels of other pictures reach.
    level = found.controls["shuffled"].level()
    assert (found.best[CONCEPTS:] < level).all() and level < 0.2
    correlation = np.nan_to_num(found.scored.correlation())
    assert (correlation[:CONCEPTS].argmax(1) == np.arange(CONCEPTS)).all()
    assert np.abs(correlation[CONCEPTS:]).max() < 0.05 < 0.8 < correlation.max(1)[:CONCEPTS].min()


def test_by_quantile_too_the_labels_are_right(planted):
    """The top 0.5% of a concept that covers much more has a low IoU, but the right label and all of it
    inside."""
    store, concepts = planted
    found = dissect(store, concepts, DissectConfig(sites=(SITE,), bootstrap=0))[SITE]
    rows = np.arange(CONCEPTS)
    fired = found.fired[:CONCEPTS] > 0
    precision = found.scored.precision()[rows, rows]
    assert (found.label[:CONCEPTS][fired] == rows[fired]).all() and (precision[fired] == 1).all()
