"""The world is a pure function of (seed, i), and what it says of a picture is true of its pixels."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mmxai.data.opening import open_data
from mmxai.errors import ArgumentError
from mmxai.shapes import ShapesWorld
from mmxai.shapes.labels import CATEGORIES
from mmxai.shapes.render import _inside, measure, paint
from mmxai.shapes.scene import (
    COLOURS,
    EXTENTS,
    FILLS,
    HELD_OUT,
    PALETTE,
    PLACES,
    SHAPES,
    SIZES,
    Scenes,
    describe,
)

# The pictures and captions of 1,000 samples. A change here is a new world: raise world.VERSION with it.
PICTURES = "d33b7bc3fb0e6219abe256c93eceeeb9"
WORDS = "4db3206b3c0816a80bc0a0bdf6f42e0e"
_HASH = """
import hashlib
from mmxai.shapes import ShapesWorld
batch = ShapesWorld(1000, seed=7).batch(range(1000), texts=6)
words = "\\n".join(c.text for written in batch.captions for c in written)
print(hashlib.sha256(batch.images.tobytes() + batch.owners.tobytes()).hexdigest()[:32])
print(hashlib.sha256(words.encode()).hexdigest()[:32])
"""


@pytest.fixture(scope="module")
def batch():
    return ShapesWorld(600, seed=3).batch(range(600), texts=0)


def test_hash_of_1000_samples_in_a_fresh_process():
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", _HASH], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [PICTURES, WORDS]


def test_the_compiled_painter_equals_its_python_source(batch):
    import mmxai.shapes.render as render

    names = ("_paint", "_paint_objects", "_inside", "_inked", "_ground", "_hash", "_measure")
    compiled = {name: getattr(render, name) for name in names}
    some = ShapesWorld(600, seed=3, size=16).scenes(range(12))
    fast = (*paint(some, 16), *measure(some.take(slice(0, 2))))
    try:
        for name in names:
            setattr(render, name, compiled[name].py_func)
        with np.errstate(over="ignore"):
            slow = (*paint(some, 16), *measure(some.take(slice(0, 2))))
    finally:
        for name in names:
            setattr(render, name, compiled[name])
    for a, b in zip(fast, slow, strict=True):
        np.testing.assert_array_equal(a, b)


def test_one_by_one_equals_a_batch_and_iteration(batch):
    world = ShapesWorld(600, seed=3)
    texts = world.batch([5, 300, 599]).captions
    for k, i in enumerate((5, 300, -1)):
        item, j = world[i], i % 600
        np.testing.assert_array_equal(item.image, batch.images[j])
        assert item.scene == batch.graphs[j]
        assert item.caption == texts[k][0].text == item.captions[0].text
    for i, item in zip(range(3), world, strict=False):
        np.testing.assert_array_equal(item.image, batch.images[i])


def test_every_attribute_appears_about_equally_often(batch):
    things = [thing for graph in batch.graphs for thing in graph.objects]
    expected = {"shape": SHAPES, "colour": COLOURS, "size": SIZES, "fill": FILLS, "place": PLACES}
    for name, values in expected.items():
        counts = [sum(getattr(t, name) == v for t in things) for v in values]
        assert min(counts) > 0.6 * len(things) / len(values), name
    assert {len(graph.objects) for graph in batch.graphs} == {1, 2, 3}
    assert any(t.visible < 0.95 for t in things) and min(t.visible for t in things) > 0.2


def test_masks_are_where_the_scene_says(batch):
    for graph, owners in zip(batch.graphs, batch.owners, strict=True):
        for thing in graph.objects:
            if thing.visible < 1:
                continue
            ys, xs = np.nonzero(owners == thing.z + 1)
            box = np.array([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]) / 64
            assert np.abs(box - thing.box).max() <= 2 / 64, thing


def test_extents_bound_each_shape_tightly():
    r, grid = 2000, np.arange(-2100, 2101, 4)
    for shape in range(len(SHAPES)):
        inside = np.array([[_inside(shape, x, y, r, 0) for x in grid] for y in grid])
        ys, xs = np.nonzero(inside)
        found = np.array([-grid[xs.min()], -grid[ys.min()], grid[xs.max()], grid[ys.max()]])
        assert np.abs(found - EXTENTS[shape] * r / 1024).max() < 0.02 * r, SHAPES[shape]


def test_a_solid_objects_pixels_have_its_colour(batch):
    for graph, owners, image in zip(batch.graphs, batch.owners, batch.images, strict=True):
        for thing in graph.objects:
            if thing.fill == "solid":
                mean = np.median(image[owners == thing.z + 1].astype(float), axis=0)
                assert COLOURS[int(np.abs(PALETTE - mean).sum(1).argmin())] == thing.colour


def test_pictures_do_not_depend_on_what_lies_behind_an_opaque_object(batch):
    front = batch.owners == 3
    things, count = batch.scenes.things.copy(), batch.scenes.count
    things[count == 3, 0, 1] = (things[count == 3, 0, 1] + 1) % 8  # another colour for the back object
    other, owners = paint(Scenes(count, things, batch.scenes.ground, batch.scenes.noise), 64)
    np.testing.assert_array_equal(owners, batch.owners)
    # Anti-aliased edge pixels mix; inner pixels of the front object must be the same.
    inner = front
    for axis in (1, 2):
        inner = inner & np.roll(front, 1, axis) & np.roll(front, -1, axis)
    np.testing.assert_array_equal(batch.images[inner], other[inner])


def test_label_maps_and_concepts_agree_with_the_scene(batch):
    labels, names = batch.labels, ShapesWorld(1).concept_names
    for k in range(0, 600, 7):
        graph = batch.graphs[k]
        for thing in graph.objects:
            where = batch.owners[k] == thing.z + 1
            for name in ("shape", "colour", "fill"):
                code = CATEGORIES[name].index(getattr(thing, name)) + 1
                assert (labels[name][k][where] == code).all()
        ground = CATEGORIES["background"].index(f"{graph.background} background") + 1
        np.testing.assert_array_equal(labels["background"][k], np.where(batch.owners[k] == 0, ground, 0))
        wanted = {f"{graph.background} background", f"{graph.tone} background"}
        wanted.add(("one object", "two objects", "three objects")[len(graph.objects) - 1])
        for t in graph.objects:
            wanted |= {t.shape, t.colour, t.size, t.fill, t.place}
            wanted |= {f"{t.colour} {t.shape}", f"{t.fill} {t.shape}"}
        assert {names[c] for c in np.flatnonzero(batch.concepts[k])} == wanted
    item = ShapesWorld(600, seed=3)[7]
    assert item.concepts == {names[c] for c in np.flatnonzero(batch.concepts[7])}
    expected = [batch.owners[7] == z + 1 for z in range(len(item.scene.objects))]
    np.testing.assert_array_equal(item.masks, expected)


def test_the_scene_is_the_same_at_every_size():
    small = ShapesWorld(50, seed=1).batch(range(50))
    large = ShapesWorld(50, seed=1, size=224).batch(range(50))
    assert small.graphs == large.graphs and small.captions == large.captions
    assert large.images.shape == (50, 224, 224, 3)
    assert np.abs(large.images.mean((1, 2)) - small.images.mean((1, 2))).max() < 0.5


def test_splits_are_disjoint_streams_and_the_compositional_one_is_novel():
    held = {(SHAPES[s], COLOURS[c]) for s, c in HELD_OUT["shape", "colour"]}
    fills = {(COLOURS[c], FILLS[f]) for c, f in HELD_OUT["colour", "fill"]}

    def novel(thing):
        return (thing.shape, thing.colour) in held or (thing.colour, thing.fill) in fills

    pictures = {}
    for split in ("train", "val", "test", "compositional"):
        batch = ShapesWorld(400, split=split).batch(range(400), texts=0)
        pictures[split] = {image.tobytes() for image in batch.images}
        found = [any(map(novel, graph.objects)) for graph in batch.graphs]
        assert all(found) if split == "compositional" else not any(found)
        things = [t for g in batch.graphs for t in g.objects]
        assert {t.shape for t in things} == set(SHAPES) and {t.colour for t in things} == set(COLOURS)
    everything = set().union(*pictures.values())
    assert len(everything) == sum(map(len, pictures.values())) == 1600


def test_questions_have_their_answers(batch):
    world, answers = ShapesWorld(300, seed=3), {"yes": 0, "no": 0}
    kinds = set()
    for item in world:
        for q in item.questions:
            kinds.add(q.kind)
            if q.kind in ("existence", "relation"):
                answers[q.answer] += 1
                assert q.facts.hold(item.scene) == (q.answer == "yes"), (q.text, item.scene)
            elif q.kind == "count":
                assert q.facts.hold(item.scene)
            elif q.kind == "place":
                words = q.text.split()[3:-1]
                alone = [t for t in item.scene.objects if all(
                    w in (t.shape, t.colour, t.size, t.fill, "object") for w in words)]  # fmt: skip
                assert [t.place for t in alone] == [q.answer]
            else:
                assert q.answer in {getattr(t, q.text.split()[1]) for t in item.scene.objects}
    assert kinds == {"attribute", "place", "existence", "count", "relation"}
    assert 0.8 < answers["yes"] / answers["no"] < 1.25


def test_it_is_a_data_source(batch):
    world = ShapesWorld(5, seed=3)
    source = open_data(world)
    assert len(source) == 5 and source.identity["identity"] == world.identity
    sample = source[2]
    assert sample.columns["key"] == "shapes/all/3/0000002" and sample.text == world[2].caption
    np.testing.assert_array_equal(np.asarray(sample.image), world[2].image)
    assert [o["shape"] for o in sample.columns["objects"]] == [t.shape for t in world[2].scene.objects]
    assert sample.columns["tone"] == world[2].scene.tone


def test_bad_arguments_are_typed_errors():
    with pytest.raises(ArgumentError, match="split 'trian'"):
        ShapesWorld(3, split="trian")
    with pytest.raises(ArgumentError, match="size=2"):
        ShapesWorld(3, size=2)
    with pytest.raises(IndexError):
        ShapesWorld(3)[3]
    with pytest.raises(ArgumentError, match="range"):
        ShapesWorld(3).batch([1, 3])
    assert len(ShapesWorld(3)[1:]) == 2 and len(ShapesWorld(3).batch([]).images) == 0


def test_measured_visibility_matches_the_owners(batch):
    area, visible, hidden = measure(batch.scenes)
    assert describe(batch.scenes, area, visible, hidden) == batch.graphs
    np.testing.assert_array_equal(area, visible + hidden.sum(2))
    for k in range(0, 600, 5):
        for z in range(int(batch.scenes.count[k])):
            share = (batch.owners[k] == z + 1).sum() / 4096
            assert abs(share - visible[k, z] / 128**2) < 0.012
