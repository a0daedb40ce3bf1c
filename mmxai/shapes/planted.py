"""A network whose units are known concepts, by construction: the answer sheet for methods that name units.

Nothing is trained. Its last map has one channel a unit, `[N, units, 8, 8]` over the picture's 8 x 8 cells of
8 x 8 pixels, and `PlantedNet.truth` says from the world's labels, not from pixels, what each must be.

| unit | value in a cell |
| --- | --- |
| `red` ... `pink` | 1 where a pixel and its 8 neighbours all belong to an object of that colour, else 0 |
| `large circle at top left` ... | 1 in the place's middle cell if a large one is in that place; 0 elsewhere |
| `large red circle at top left` ... | the AND of `red`, anywhere in the place, and the unit above |
| `noise 0` ... | uniform on 0..1, a hash of the whole picture: says nothing about anything |
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn
from torch.nn.functional import conv2d, max_pool2d, relu

from mmxai.errors import ArgumentError
from mmxai.shapes import scene as S
from mmxai.shapes.render import paint
from mmxai.shapes.world import WorldBatch

if TYPE_CHECKING:
    from mmxai.data.sample import Sample

CELLS, SIZE = 8, 64
UNDECIDED = -1
_JITTER_RGB = 15  # of an object's colour, and one for rounding
_PALEST = 0.2  # paper is ink mixed with four parts of white
_RING = 31  # pixels of the window in which a place's shape is looked for
_SHIFT = 3  # how far it may be off
_LARGE = S.SIZES.index("large")
_SMALLEST = 30  # pixels of an object
_GREYEST = 16.5 / 255  # between the palest paper and a tinted background: largest less smallest channel
_CENTRES = (14, 32, 50)  # pixel columns and rows of the three places


class ColourCone(nn.Module):
    """Pixels that some mixture of a colour's inks and their paper can have: two layers of 1 x 1 filters.

    float32 `[N, 3, H, W]` in 0..1 -> `[N, 8, H, W]` of 0 and 1. Seen from white, an object's ink, its paper
    and all between lie on one ray; the first layer has one filter a face of the cone of those rays.
    """

    def __init__(self) -> None:
        super().__init__()
        faces: list[tuple[list[float], float]] = []
        for rgb in S.PALETTE.tolist():
            ink = [255 - c for c in rgb]
            low, high = [max(c - _JITTER_RGB, 1) for c in ink], [c + _JITTER_RGB for c in ink]
            for j in range(3):
                for k in range(3):
                    if j != k:  # x_j / high_j <= x_k / low_k, with half a level's rounding on both
                        face = [0.0, 0.0, 0.0]
                        face[j], face[k] = low[k], -high[j]
                        faces.append((face, -(low[k] + high[j]) - 0.5))  # half: levels never tie
            widest = int(np.argmax(ink))
            face = [0.0, 0.0, 0.0]
            face[widest] = -1.0
            faces.append((face, _PALEST * low[widest] - 2.0))
        weight = torch.tensor([f for f, _ in faces])
        bias = torch.tensor([b for _, b in faces])
        # From 0..1 to distances from white in levels: x = 255 (1 - pixel).
        self.faces = nn.Conv2d(3, len(faces), 1)
        self.violation = nn.Conv2d(len(faces), 8, 1, bias=False)
        with torch.no_grad():
            self.faces.weight.copy_((-255 * weight)[:, :, None, None])
            self.faces.bias.copy_(255 * weight.sum(1) + bias)  # type: ignore[union-attr]
            owner = torch.arange(8).repeat_interleave(len(faces) // 8)
            self.violation.weight.copy_((owner == torch.arange(8)[:, None]).float()[:, :, None, None])

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return (self.violation(relu(self.faces(pixels))) <= 0).float()


class ShapeInPlace(nn.Module):
    """Which large shape is in each place: silhouettes, by radius and half pixel, slid over its window.

    Mask `[N, 1, 64, 64]` of what is not background -> `[N, 8, 9]` of 0 and 1 (shapes, places): the silhouette
    with the fewest wrong pixels wins. Small ones take part only to win: at 10 pixels a dotted square and a
    circle cannot be told apart for sure, so they have no units.
    """

    def __init__(self) -> None:
        super().__init__()
        side = _RING - 2 * _SHIFT
        half = S.SIDE // SIZE // 2
        ways = list(product(range(2), (0, 82, 164, 246), (0, half), (0, half)))  # the sizes first
        n = 8 * len(ways)
        things = np.full((n, 3, 11), -1, np.int32)
        things[:, 0] = 0
        things[:, 0, S.SHAPE] = np.repeat(np.arange(8), len(ways))
        things[:, 0, [S.SIZE, S.DR, S.DX, S.DY]] = np.tile(ways, (8, 1))
        things[:, 0, S.PLACE] = S.PLACES.index("centre")
        scenes = S.Scenes(np.ones(n, np.int32), things, np.zeros((n, 9), np.int32), np.zeros(n, np.uint64))
        a = _CENTRES[1] - side // 2
        drawn = torch.from_numpy(paint(scenes, SIZE)[0]).permute(0, 3, 1, 2) / 255
        self.silhouettes = nn.Parameter(_inked(drawn)[:, :, a : a + side, a : a + side].clone())

    def forward(self, mask: torch.Tensor) -> torch.Tensor:
        h = _RING // 2
        padded = nn.functional.pad(mask, (2, 2, 2, 2))
        found = []
        for y in _CENTRES:
            for x in _CENTRES:
                window = padded[:, :, y + 2 - h : y + 3 + h, x + 2 - h : x + 3 + h]
                inked = window.sum((1, 2, 3))[:, None]
                match = conv2d(window, self.silhouettes).amax((2, 3))
                wrong = inked + self.silhouettes.sum((1, 2, 3)) - 2 * match
                best = wrong.reshape(len(mask), len(S.SHAPES), len(S.SIZES), -1).amin(3)
                least = best.amin((1, 2))[:, None]
                found.append((best[:, :, _LARGE] == least) & (inked > _SMALLEST))
        return torch.stack(found, 2).float()


class PlantedNet(nn.Module):
    """float32 `[N, 3, 64, 64]` in 0..1 -> `[N, units, 8, 8]`; `mmxai.wrap(net, prepare=pixels_of)` names it.

    `shapes`: the (shape, place) of the shape-in-place units; `both`: the (colour, shape, place) of the ANDs;
    `noise`: how many noise units. Unit names are in `names`, in the order of the channels.
    """

    def __init__(
        self,
        shapes: Sequence[tuple[str, str]] = (("circle", "top left"), ("star", "centre")),
        both: Sequence[tuple[str, str, str]] = (("red", "circle", "top left"), ("blue", "star", "centre")),
        noise: int = 4,
        seed: int = 0,
    ):
        super().__init__()
        for shape, place in [*shapes, *(b[1:] for b in both)]:
            if shape not in S.SHAPES or place not in S.PLACES:
                raise ArgumentError(
                    f"planted: got {shape!r} at {place!r}, expected one of {S.SHAPES} at {S.PLACES}"
                )
        if wrong := [c for c, _, _ in both if c not in S.COLOURS]:
            raise ArgumentError(f"planted: got colours {wrong}, expected some of {S.COLOURS}")
        self.shapes, self.both = tuple(shapes), tuple(both)
        self.names = (
            *S.COLOURS,
            *(f"large {shape} at {place}" for shape, place in shapes),
            *(f"large {colour} {shape} at {place}" for colour, shape, place in both),
            *(f"noise {k}" for k in range(noise)),
        )
        self.cone, self.shape, self.units = ColourCone(), ShapeInPlace(), nn.Identity()
        generator = torch.Generator().manual_seed(seed)
        # Dyadic weights times whole levels: sums are exact in float64, in whatever order they are taken.
        self.hash = nn.Linear(3 * SIZE * SIZE, noise * CELLS * CELLS, dtype=torch.float64)
        with torch.no_grad():
            levels = torch.randint(1 << 16, self.hash.weight.shape, generator=generator)
            self.hash.weight.copy_(levels.double() / (1 << 16))
            self.hash.bias.zero_()
        self.requires_grad_(False)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        n = len(pixels)
        if tuple(pixels.shape[1:]) != (3, SIZE, SIZE):
            raise ArgumentError(
                f"planted: got pictures {tuple(pixels.shape)}, expected [N, 3, {SIZE}, {SIZE}]"
            )
        whole = -max_pool2d(-self.cone(pixels), 3, stride=1, padding=1)
        colour = max_pool2d(whole, SIZE // CELLS)
        shape = self.shape(_inked(pixels))
        maps = [colour]
        for name, place in self.shapes:
            maps.append(_at(place, shape[:, S.SHAPES.index(name), S.PLACES.index(place)]))
        for tint, name, place in self.both:
            y, x = _cell(place)
            near = colour[:, S.COLOURS.index(tint), y - 1 : y + 2, x - 1 : x + 2].amax((1, 2))
            found = shape[:, S.SHAPES.index(name), S.PLACES.index(place)]
            maps.append(_at(place, relu(near + found - 1)))
        phase = self.hash((255 * pixels).round().flatten(1).double()).reshape(n, -1, CELLS, CELLS)
        return self.units(torch.cat([*maps, (phase - phase.floor()).to(pixels.dtype)], 1))

    def truth(self, batch: WorldBatch) -> np.ndarray:
        """int8 `[N, units, 8, 8]`: 1, 0, or UNDECIDED, from scene graphs and label maps alone.

        Colours: 1 where a cell has a pixel all of whose 5 x 5 neighbourhood is labelled so, 0 where no pixel
        within 2 of the cell is, else undecided: pixels at edges are mixtures. Places are undecided where
        their object is partly hidden or another reaches into the window. Noise always is.
        """
        n = len(batch.graphs)
        out = np.full((n, len(self.names), CELLS, CELLS), UNDECIDED, np.int8)
        labels = torch.from_numpy(batch.labels["colour"]).long()
        one_hot = torch.stack([labels == k + 1 for k in range(8)], 1).float()
        core = max_pool2d(-max_pool2d(-one_hot, 5, stride=1, padding=2), SIZE // CELLS) > 0
        near = max_pool2d(max_pool2d(one_hot, 5, stride=1, padding=2), SIZE // CELLS) > 0
        out[:, :8] = np.where(core, 1, np.where(near, UNDECIDED, 0))
        for unit, (shape, place) in enumerate(self.shapes, 8):
            out[:, unit] = self._placed(batch, None, shape, place)
        for unit, (colour, shape, place) in enumerate(self.both, 8 + len(self.shapes)):
            out[:, unit] = self._placed(batch, colour, shape, place)
            y, x = _cell(place)
            seen = core[:, S.COLOURS.index(colour), y - 1 : y + 2, x - 1 : x + 2].any(2).any(1).numpy()
            out[(out[:, unit, y, x] == 1) & ~seen, unit, y, x] = UNDECIDED
        return out

    def _placed(self, batch: WorldBatch, colour: str | None, shape: str, place: str) -> np.ndarray:
        out = np.zeros((len(batch.graphs), CELLS, CELLS), np.int8)
        y, x = _cell(place)
        window = _window(place)
        for i, graph in enumerate(batch.graphs):
            here = [t for t in graph.objects if t.place == place]
            others = [t for t in graph.objects if t.place != place and _meet(t.box, window)]
            if others or any(t.visible < 1 for t in here):
                out[i, y, x] = UNDECIDED
            else:
                out[i, y, x] = any(
                    t.size == "large" and t.shape == shape and colour in (None, t.colour) for t in here
                )
        return out


def pixels_of(sample: Sample) -> torch.Tensor:
    """`prepare` for `mmxai.wrap`: float32 `[3, H, W]` in 0..1 of a sample's picture."""
    if sample.image is None:
        raise ArgumentError(f"{sample.key}: got a sample without an image, expected a picture")
    return torch.from_numpy(np.asarray(sample.image).copy()).permute(2, 0, 1) / 255


def pixels(batch: WorldBatch) -> torch.Tensor:
    """float32 `[N, 3, H, W]` in 0..1 of a batch of the world."""
    return torch.from_numpy(batch.images).permute(0, 3, 1, 2) / 255


def _inked(pixels: torch.Tensor) -> torch.Tensor:
    """Where a picture is not background: `[N, 3, H, W]` -> `[N, 1, H, W]` of 0 and 1."""
    return (pixels.amax(1, keepdim=True) - pixels.amin(1, keepdim=True) > _GREYEST).float()


def _cell(place: str) -> tuple[int, int]:
    """Row and column of the cell in a place's middle."""
    k = S.PLACES.index(place)
    return _CENTRES[k // 3] * CELLS // SIZE, _CENTRES[k % 3] * CELLS // SIZE


def _at(place: str, value: torch.Tensor) -> torch.Tensor:
    """`[N]` -> `[N, 1, 8, 8]`, in one cell."""
    out = value.new_zeros(len(value), 1, CELLS, CELLS)
    y, x = _cell(place)
    out[:, 0, y, x] = value
    return out


def _window(place: str) -> tuple[float, float, float, float]:
    k, half = S.PLACES.index(place), _RING // 2 + 2
    x, y = _CENTRES[k % 3], _CENTRES[k // 3]
    return (x - half) / SIZE, (y - half) / SIZE, (x + half) / SIZE, (y + half) / SIZE


def _meet(one: tuple[float, ...], two: tuple[float, ...]) -> bool:
    return one[0] < two[2] and two[0] < one[2] and one[1] < two[3] and two[1] < one[3]
