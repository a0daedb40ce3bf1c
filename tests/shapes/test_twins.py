"""A twin differs in the one thing that changed, in the scene and in the pixels."""

import dataclasses

import numpy as np
import pytest

from mmxai.errors import ArgumentError
from mmxai.shapes import ShapesWorld
from mmxai.shapes.render import paint
from mmxai.shapes.twins import KINDS

WORLD = ShapesWorld(300, seed=4)


def _silhouettes(item) -> np.ndarray:
    """Pixels that any sample point of any object of the item touches: bool [objects, H, W]."""
    out = []
    for k in range(int(item.scenes.count[0])):
        things = np.roll(item.scenes.things, -k, axis=1)
        alone = dataclasses.replace(item.scenes, count=np.array([1], np.int32), things=things)
        empty = dataclasses.replace(alone, count=np.array([0], np.int32))
        out.append((paint(alone, 64)[0][0] != paint(empty, 64)[0][0]).any(-1))
    return np.array(out).reshape(-1, 64, 64)


@pytest.mark.parametrize("kind", KINDS)
def test_only_one_thing_changes(kind):
    for i in range(60):
        twin = WORLD.twin(i, kind)
        a, b, k = twin.original.scene, twin.changed.scene, twin.change.object
        assert (a.background, a.tone) == (b.background, b.tone)
        measured = {"visible": 0, "z": 0}
        if kind == "remove":
            rest = [t for z, t in enumerate(a.objects) if z != k]
            assert [dataclasses.replace(t, **measured) for t in rest] == [
                dataclasses.replace(t, **measured) for t in b.objects
            ]
        else:
            name = "place" if kind == "move" else kind
            names = [f.name for f in dataclasses.fields(a.objects[0])]
            follows = {
                "place": {"centre", "box"},
                "size": {"radius", "box"},
                "shape": {"box"},
                "colour": {"rgb"},
            }
            for z, (one, two) in enumerate(zip(a.objects, b.objects, strict=True)):
                differ = {n for n in names if getattr(one, n) != getattr(two, n)}
                allowed = {name, "visible", *follows.get(name, ())} if z == k else {"visible"}
                assert differ <= allowed and (name in differ) == (z == k), (one, two)
            assert getattr(b.objects[k], name) == twin.change.after
        assert getattr(a.objects[k], "place" if kind in ("move", "remove") else kind) == twin.change.before


@pytest.mark.parametrize("kind", KINDS)
def test_pixels_differ_there_and_nowhere_else(kind):
    for i in range(60):
        twin = WORLD.twin(i, kind)
        k = twin.change.object
        touched = _silhouettes(twin.original)[k]
        if kind != "remove":
            touched = touched | _silhouettes(twin.changed)[k]
        differ = (twin.original.image != twin.changed.image).any(-1)
        assert differ.any() and not (differ & ~touched).any()


def test_twins_are_reproducible_and_can_be_aimed():
    assert WORLD.twin(7, "colour").change == WORLD.twin(7, "colour").change
    item = next(i for i in WORLD if len(i.scene.objects) == 3)
    assert {WORLD.twin(item.index, "move", object=k).change.object for k in range(3)} == {0, 1, 2}
    assert item.key != WORLD.twin(item.index, "fill").changed.key


def test_an_emptied_picture_says_so():
    item = next(i for i in WORLD if len(i.scene.objects) == 1)
    gone = WORLD.twin(item.index, "remove").changed
    assert gone.scene.objects == () and "nothing" in gone.caption and gone.masks.shape == (0, 64, 64)
    assert all(c.facts.hold(gone.scene) for c in gone.captions)
    assert all(q.answer in ("no", "none") for q in gone.questions)


def test_bad_requests():
    with pytest.raises(ArgumentError, match="kind 'color'"):
        WORLD.twin(0, "color")
    with pytest.raises(ArgumentError, match="object 3"):
        WORLD.twin(0, "fill", object=3)
