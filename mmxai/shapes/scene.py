"""The scene graph: what a picture of the world contains, as arrays for many and as objects for one.

Lengths are integers in units of 1/16384 of the picture's side (`SIDE`), x to the right, y down, so that
a scene is the same at every resolution and no rounding differs between machines.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

import numpy as np

from mmxai.shapes.rng import Draws

SHAPES = ("circle", "square", "triangle", "diamond", "star", "cross", "heart", "moon")
COLOURS = ("red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink")
SIZES = ("small", "large")
FILLS = ("solid", "striped", "dotted", "outlined")
PLACES = (
    "top left", "top", "top right", "left", "centre", "right", "bottom left", "bottom", "bottom right",
)  # fmt: skip
BACKGROUNDS = ("plain", "gradient", "noise")
TONES = ("dark", "light")
ATTRIBUTES = {"shape": SHAPES, "colour": COLOURS, "size": SIZES, "fill": FILLS, "place": PLACES}
MAX_OBJECTS = 3

SIDE = 1 << 14
_CELLS = (3604, 8192, 12780)  # centres of the three columns and rows
_JITTER = 655  # of a centre; cells stay 0.2 sides apart, so that places and relations are never borderline
_RADII = (1638, 2621)  # half the box of a small, a large object
_RADIUS_JITTER = 246
_COLOUR_JITTER = 14

# Half extents of each shape's box around its centre, in 1/1024 of the radius: left, top, right, bottom.
EXTENTS = np.array(
    [
        (922, 922, 922, 922),
        (819, 819, 819, 819),
        (964, 922, 964, 768),
        (1024, 1024, 1024, 1024),
        (974, 1024, 974, 828),
        (973, 973, 973, 973),
        (993, 850, 993, 942),
        (809, 973, 854, 973),
    ]
)

HELD_OUT = {
    ("shape", "colour"): tuple((s, (s + 5) % 8) for s in range(8)),
    ("colour", "fill"): ((0, 2), (2, 1), (5, 3), (7, 0)),
}
"""Attribute pairs (indices) that no object of the `train`, `val` and `test` splits has."""

# Columns of Scenes.things.
SHAPE, COLOUR, SIZE, FILL, PLACE, DX, DY, DR, RED, GREEN, BLUE = range(11)
CATEGORY_COLUMN = {"shape": SHAPE, "colour": COLOUR, "size": SIZE, "fill": FILL, "place": PLACE}
# Columns of Scenes.ground: kind, tone, the two ends' colours, the direction of a gradient.
KIND, TONE, FROM, TO, DIRECTION = 0, 1, slice(2, 5), slice(5, 8), 8


@dataclass(frozen=True, slots=True)
class Thing:
    """One object. Lengths are fractions of the picture's side; `z` counts from the back."""

    shape: str
    colour: str
    size: str
    fill: str
    place: str
    centre: tuple[float, float]
    radius: float
    box: tuple[float, float, float, float]
    z: int
    visible: float
    rgb: tuple[int, int, int]

    @property
    def row(self) -> int:
        """Row of the 3x3 places, 0 at the top."""
        return PLACES.index(self.place) // 3

    @property
    def column(self) -> int:
        """Column of the 3x3 places, 0 at the left."""
        return PLACES.index(self.place) % 3


@dataclass(frozen=True, slots=True)
class Scene:
    """A scene graph. `hidden[a][b]`: the fraction of object a that object b alone hides from view."""

    objects: tuple[Thing, ...]
    background: str
    tone: str
    hidden: tuple[tuple[float, ...], ...]

    def relations(self, a: int, b: int) -> tuple[str, ...]:
        """Every relation of object a to object b: by their places, and by sight where they overlap."""
        one, two = self.objects[a], self.objects[b]
        found = []
        if one.row != two.row:
            found.append("above" if one.row < two.row else "below")
        if one.column != two.column:
            found.append("left of" if one.column < two.column else "right of")
        if self.hidden[b][a] >= VISIBLE_OVERLAP:
            found.append("in front of")
        if self.hidden[a][b] >= VISIBLE_OVERLAP:
            found.append("behind")
        return tuple(found)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON."""
        return asdict(self)


RELATIONS = ("above", "below", "left of", "right of", "in front of", "behind")
OPPOSITE = {
    "above": "below",
    "below": "above",
    "left of": "right of",
    "right of": "left of",
    "in front of": "behind",
    "behind": "in front of",
}
VISIBLE_OVERLAP = 1 / 32


@dataclass(frozen=True, slots=True)
class Scenes:
    """N scenes as arrays.

    `count` int32 `[N]`; `things` int32 `[N, 3, 11]` (back to front, -1 where absent); `ground` int32
    `[N, 9]`; `noise` uint64 `[N]`. Radii, centres and colours are stored as offsets from what the
    attributes say, so that a twin changes one number and keeps every other.
    """

    count: np.ndarray
    things: np.ndarray
    ground: np.ndarray
    noise: np.ndarray

    def __len__(self) -> int:
        return len(self.count)

    def geometry(self) -> np.ndarray:
        """int32 `[N, 3, 3]`: centre x, centre y, radius of each object in 1/SIDE."""
        cells, radii = np.array(_CELLS, np.int32), np.array(_RADII, np.int32)
        place, things = self.things[..., PLACE], self.things
        return np.stack(
            [cells[place % 3] + things[..., DX], cells[place // 3] + things[..., DY],
             radii[things[..., SIZE]] + things[..., DR]], axis=-1,
        )  # fmt: skip

    def take(self, index: int | slice | np.ndarray) -> Scenes:
        """A selection; one index gives one scene, still as arrays of length 1."""
        index = slice(index, index + 1) if isinstance(index, int) else index
        return Scenes(self.count[index], self.things[index], self.ground[index], self.noise[index])


@cache
def combinations(kind: str) -> np.ndarray:
    """int64 `[M, 3]`: the (shape, colour, fill) that objects of a split may have: all, seen or unseen."""
    shape, colour, fill = (a.ravel() for a in np.meshgrid(range(8), range(8), range(4), indexing="ij"))
    held = np.isin(shape * 8 + colour, [s * 8 + c for s, c in HELD_OUT["shape", "colour"]])
    held |= np.isin(colour * 4 + fill, [c * 4 + f for c, f in HELD_OUT["colour", "fill"]])
    keep = {"all": held | True, "seen": ~held, "unseen": held}[kind]
    return np.stack([shape, colour, fill], axis=1)[keep]


def draw_scenes(key: int, indices: np.ndarray, split: str | None) -> Scenes:
    """The scenes of int64 `[N]` indices: uniform over attributes, one to three objects in distinct places.

    `split` "compositional": at least one object has a held-out pair; another name: none has; None: any.
    """
    draws, n = Draws(key, indices), len(indices)
    count = (1 + draws.below(MAX_OBJECTS)).astype(np.int32)
    things = np.empty((n, MAX_OBJECTS, 11), np.int32)
    novel = draws.below(6) % count if split == "compositional" else np.full(n, -1)
    table = combinations("all" if split in (None, "compositional") else "seen")
    unseen = combinations("unseen")
    for slot in range(MAX_OBJECTS):
        usual, odd = table[draws.below(len(table))], unseen[draws.below(len(unseen))]
        things[:, slot, [SHAPE, COLOUR, FILL]] = np.where((novel == slot)[:, None], odd, usual)
        things[:, slot, SIZE] = draws.below(len(SIZES))
        things[:, slot, DX], things[:, slot, DY] = draws.around(_JITTER), draws.around(_JITTER)
        things[:, slot, DR] = draws.below(_RADIUS_JITTER + 1)
        for channel in (RED, GREEN, BLUE):
            things[:, slot, channel] = draws.around(_COLOUR_JITTER)
    things[..., PLACE] = _distinct_places(draws)
    things[np.arange(MAX_OBJECTS) >= count[:, None]] = -1

    ground = np.empty((n, 9), np.int32)
    ground[:, KIND], ground[:, TONE] = draws.below(len(BACKGROUNDS)), draws.below(len(TONES))
    ground[:, DIRECTION] = draws.below(8)
    dark = ground[:, TONE] == 0
    near = np.where(dark, 34 + draws.below(30), 178 + draws.below(30))
    far = np.where(dark, near + 46, near - 50)
    for channel in range(3):
        tint = draws.around(7)
        ground[:, FROM.start + channel], ground[:, TO.start + channel] = near + tint, far + tint
    return Scenes(count, things, ground, draws.word())


def _distinct_places(draws: Draws) -> np.ndarray:
    first, second, third = draws.below(9), draws.below(8), draws.below(7)
    second += second >= first
    low, high = np.minimum(first, second), np.maximum(first, second)
    third += third >= low
    third += third >= high
    return np.stack([first, second, third], axis=1)


def describe(scenes: Scenes, area: np.ndarray, visible: np.ndarray, hidden: np.ndarray) -> list[Scene]:
    """Scene graphs from arrays and `render.measure`'s counts (int64 `[N,3]`, `[N,3]`, `[N,3,3]`)."""
    geometry = scenes.geometry()
    colours = scenes.things[..., RED:] + PALETTE[scenes.things[..., COLOUR]]
    extent = EXTENTS[scenes.things[..., SHAPE]] * geometry[..., 2:] // 1024
    centre = geometry[..., :2]
    boxes = np.concatenate([centre - extent[..., :2], centre + extent[..., 2:]], axis=-1)
    out = []
    for i in range(len(scenes)):
        n = int(scenes.count[i])
        rows, places, box = scenes.things[i].tolist(), geometry[i].tolist(), (boxes[i] / SIDE).tolist()
        seen, whole = visible[i].tolist(), area[i].tolist()
        objects = tuple(
            Thing(
                SHAPES[rows[k][SHAPE]], COLOURS[rows[k][COLOUR]], SIZES[rows[k][SIZE]], FILLS[rows[k][FILL]],
                PLACES[rows[k][PLACE]], (places[k][0] / SIDE, places[k][1] / SIDE), places[k][2] / SIDE,
                tuple(box[k]), k, seen[k] / whole[k], tuple(colours[i, k].tolist()),
            )
            for k in range(n)
        )  # fmt: skip
        overlap = tuple(tuple(hidden[i, a, b].item() / whole[a] for b in range(n)) for a in range(n))
        kind, tone = scenes.ground[i, [KIND, TONE]].tolist()
        out.append(Scene(objects, BACKGROUNDS[kind], TONES[tone], overlap))
    return out


PALETTE = np.array(
    [
        (221, 38, 40),
        (240, 126, 24),
        (236, 204, 22),
        (38, 160, 62),
        (34, 186, 202),
        (44, 84, 222),
        (128, 52, 176),
        (240, 126, 190),
    ],
    np.int32,
)
"""RGB of each colour, before an object's own jitter."""
