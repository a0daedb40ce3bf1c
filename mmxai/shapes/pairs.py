"""Scenes and their nearest others: what a model must tell apart to know which attribute is whose."""

from __future__ import annotations

import numpy as np

from mmxai.shapes import scene as S
from mmxai.shapes.rng import Choices

_SWAPS = {
    "colour": [S.COLOUR],
    "shape": [S.SHAPE],
    "size": [S.SIZE],
    "fill": [S.FILL],
    "place": [S.PLACE, S.DX, S.DY],
}
_COLUMNS = {name: columns[0] for name, columns in _SWAPS.items()}


def near(scenes: S.Scenes, key: int, indices: np.ndarray) -> S.Scenes:
    """One near scene for each: two objects exchange an attribute or their places, or one changes one.

    No object gets a pair of `scene.HELD_OUT`, so that near scenes of the training split may be trained
    on. A pure function of (scenes, key, indices); `indices` int64 `[N]` name the scenes.
    """
    things = scenes.things.copy()
    for i, index in enumerate(indices.tolist()):
        choose = Choices(key, index)
        count = int(scenes.count[i])
        exchange = count > 1 and choose.chance(3, 4)
        order = choose.shuffled(tuple(_SWAPS))
        a, b = choose.shuffled(range(count))[:2] if exchange else (choose.below(count), 0)
        for name in order:
            changed = things[i].copy()
            columns = _SWAPS[name]
            if exchange:
                changed[np.ix_([a, b], columns)] = changed[np.ix_([b, a], columns)]
            else:
                taken = changed[:count, S.PLACE] if name == "place" else changed[a, [columns[0]]]
                free = [v for v in range(len(S.ATTRIBUTES[name])) if v not in taken]
                changed[a, columns[0]] = choose.pick(free)
            if (changed[a, columns[0]] != things[i, a, columns[0]]) and not unseen(changed[:count]).any():
                things[i] = changed
                break
    return S.Scenes(scenes.count, things, scenes.ground, scenes.noise)


def unseen(things: np.ndarray) -> np.ndarray:
    """Which objects int32 `[..., 11]` have an attribute pair of `scene.HELD_OUT`: bool `[...]`."""
    found = np.zeros(things.shape[:-1], bool)
    for (one, two), pairs in S.HELD_OUT.items():
        for x, y in pairs:
            found |= (things[..., _COLUMNS[one]] == x) & (things[..., _COLUMNS[two]] == y)
    return found
