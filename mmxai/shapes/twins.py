"""Counterfactual twins: one number of a scene changed, every other kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mmxai.errors import ArgumentError
from mmxai.shapes.rng import Choices, key_of
from mmxai.shapes.scene import ATTRIBUTES, CATEGORY_COLUMN, PLACE, Scenes

if TYPE_CHECKING:
    from mmxai.shapes.world import Item

KINDS = ("shape", "colour", "size", "fill", "move", "remove")


@dataclass(frozen=True, slots=True)
class Change:
    """What differs: an attribute of object `object` from `before` to `after`; None after: it is gone."""

    kind: str
    object: int
    before: str
    after: str | None

    @property
    def slug(self) -> str:
        return f"{self.kind}-{self.object}-{(self.after or 'gone').replace(' ', '-')}"


@dataclass(frozen=True, slots=True)
class Twin:
    """Two items that differ in one thing."""

    original: Item
    changed: Item
    change: Change


def changed(scenes: Scenes, kind: str, which: int | None, key: int) -> tuple[Scenes, Change]:
    """The changed copy of one scene (arrays of length 1)."""
    count = int(scenes.count[0])
    if kind not in KINDS:
        raise ArgumentError(f"twin: got kind {kind!r}, expected one of {KINDS}")
    if which is not None and not 0 <= which < count:
        raise ArgumentError(f"twin: got object {which}, expected one of the picture's {count}")
    number = KINDS.index(kind)
    which = Choices(key_of(key, number), 0).below(count) if which is None else which
    choose = Choices(key_of(key, number, which), 1)
    things, counts = scenes.things.copy(), scenes.count.copy()
    name = "place" if kind in ("move", "remove") else kind
    values, row = ATTRIBUTES[name], things[0, which]
    before = int(row[CATEGORY_COLUMN[name]])
    after: int | None = None
    if kind == "remove":
        things[0] = np.concatenate([np.delete(things[0], which, axis=0), np.full((1, things.shape[2]), -1)])
        counts[0] -= 1
    else:
        taken = things[0, :count, PLACE].tolist() if kind == "move" else [before]
        after = choose.pick([v for v in range(len(values)) if v not in taken])
        row[CATEGORY_COLUMN[name]] = after
    twin = Scenes(counts, things, scenes.ground, scenes.noise)
    return twin, Change(kind, which, values[before], None if after is None else values[after])
