"""Labels from files: which samples they name, what patches they cover, and what is wrong with a file."""

import tracemalloc

import numpy as np
import pytest
from PIL import Image

from mmxai.errors import ArgumentError, DataError
from mmxai.labels import labelled, read_labels, row_values
from mmxai.labels.boxes import box_shares
from mmxai.models.geometry import mask_cells
from mmxai.shapes import ShapesWorld
from mmxai.shapes.export import export_folder
from mmxai.store import open_store
from tests.labels.pictures import CELL, GRID, LEFT, SITE, SIZE, make


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    with open_store(make(tmp_path_factory.mktemp("labels") / "acts.zarr")) as opened:
        yield opened


def written(folder, text, name="labels.csv"):
    path = folder / name
    path.write_text(text)
    return path


def test_a_column_a_task(store, tmp_path):
    text = (
        "sample,animal,weight,has\ndir/0000000.png,cat,1.5,fur|tail\ndir/0000003.png,dog,,tail\n"
        "dir/0000005.png,cat,-2,\nelsewhere.png,cow,9,horns\n"
    )
    labels = read_labels(written(tmp_path, text), store, regression=["weight"], multilabel=["has"])
    animal, weight, has = labels.tasks
    assert (animal.names, weight.names, has.names) == (("cat", "dog"), ("weight",), ("fur", "tail"))
    samples = np.array([3, 0, 1, 5])
    assert labels.values(animal, samples).tolist() == [1, 0, -1, 0]
    assert np.array_equal(labels.values(weight, samples), [np.nan, 1.5, np.nan, -2], equal_nan=True)
    assert labels.values(has, samples).tolist() == [[0, 1], [1, 1], [-1, -1], [-1, -1]]
    assert [labelled(t, labels.values(t, samples)).tolist() for t in labels.tasks] == [
        [True, True, False, True], [False, True, False, True], [True, True, False, False],
    ]  # fmt: skip
    assert "1 more are not in the store" in labels.about
    rows = store.rows["vision"][:]
    found = row_values(labels, [animal], store, "vision", rows)["animal"]
    assert np.array_equal(found, labels.values(animal, rows.sample.numpy()))


def test_spaces_and_gaps_between_several_labels_are_no_labels(store, tmp_path):
    labels = read_labels(written(tmp_path, "sample,has\n0,fur | tail\n1,tail|\n2, |fur\n"), store,
                         multilabel=["has"])  # fmt: skip
    (has,) = labels.tasks
    assert has.names == ("fur", "tail")
    assert labels.values(has, np.arange(3)).tolist() == [[1, 1], [0, 1], [1, 0]]


def test_samples_by_number(store, tmp_path):
    labels = read_labels(written(tmp_path, "sample,label\n0,a\n4,b\n99,a\n"), store)
    assert labels.values(labels.tasks[0], np.arange(6)).tolist() == [0, -1, -1, -1, 1, -1]


@pytest.mark.parametrize(
    "text, options, said",
    [
        ("a,b\n1,2\n", {}, "header with 'sample'"),
        ("sample,label\n", {}, "no rows"),
        ("sample,label\n0,a,b\n", {}, "another number of cells"),
        ("sample,label\nx.png,a\ny.png,b\n", {}, "none of which is in"),
        ("sample,label\n0,a\n0,b\n", {}, "--multilabel label"),
        ("sample,label\n0,a\n1,a\n", {}, "at least two classes"),
        ("sample,label\n0,a\n1,2\n", {"regression": ["label"]}, "expected a finite number"),
        ("sample,label\n0,1\n0,2\n", {"regression": ["label"]}, "twice"),
        ("sample,label\n0,a\n", {"multilabel": ["other"]}, "got multilabel columns"),
        ("sample,x0,y0,x1,label\n0,1,2,3,a\n", {}, r"without \['y1'\]"),
        ("sample,x0,y0,x1,y1,label\n0,3,0,1,1,a\n", {}, "expected numbers with x0 < x1"),
        ("sample,x0,y0,x1,y1,label\n1,0,0,1,1,a\n0,0,0,1,1,\n", {}, "a box and no label"),
        ("sample,x0,y0,x1,y1,label,other\n0,0,0,1,1,a,b\n", {}, "expected one beside"),
    ],
)
def test_refuses(store, tmp_path, text, options, said):
    with pytest.raises(DataError, match=said):
        read_labels(written(tmp_path, text), store, **options)


def test_refuses_what_is_not_there(store, tmp_path):
    with pytest.raises(DataError, match="no such file"):
        read_labels(tmp_path / "none.csv", store)
    (tmp_path / "binary.csv").write_bytes(b"\xf8\x01")
    with pytest.raises(DataError, match=r"binary\.csv.*expected a CSV file in UTF-8"):
        read_labels(tmp_path / "binary.csv", store)
    with pytest.raises(ArgumentError, match="of a folder"):
        read_labels(tmp_path, store, multilabel=["x"])


def raster(box):
    """Of whole pixels: the mask that a box stands for."""
    mask = np.zeros(SIZE[::-1], bool)
    x0, y0, x1, y1 = box
    mask[y0:y1, x0:x1] = True
    return mask


def test_boxes_cover_what_their_pixels_cover():
    """Against masks of the same pixels; overlapping boxes of a label count once."""
    draw = np.random.default_rng(0)
    for tile in (
        {"affine": [1 / CELL, 0, -LEFT / CELL, 0, 1 / CELL, 0], "grid": list(GRID)},
        {"affine": [0.13, 0, -0.4, 0, 0.21, -0.3], "grid": [5, 3]},
    ):
        for _ in range(20):
            corners = np.sort(draw.integers(0, 24, (4, 2, 2)), 1)  # box, low and high, axis
            boxes = [tuple(c[0]) + tuple(c[1]) for c in corners if (c[0] < c[1]).all()]
            if not boxes:
                continue
            found = box_shares(tile, [(0, np.array(b, float)) for b in boxes], 2)
            union = np.any([raster(b) for b in boxes], 0)
            np.testing.assert_allclose(found[0], mask_cells(tile, union), atol=1e-12)
            assert not found[1].any()


def test_patches_of_boxes(store, tmp_path):
    """Cell (1, 2) is pixels x 16..22, y 6..12. A box over half of it is enough at 0.5, not at 0.6."""
    text = "sample,x0,y0,x1,y1,label\n1,16,6,19,12,cat\n1,10,0,16,6,dog\n2,,,,,\n99,0,0,9,9,cow\n"
    labels = read_labels(written(tmp_path, text), store)
    (task,) = labels.tasks
    assert (task.level, task.kind, task.names) == ("cell", "classes", ("cat", "dog"))
    rows = store.rows["vision"][:]

    def grid(sample, **options):
        values = row_values(labels, [options.pop("task", task)], store, "vision", rows, **options)["label"]
        own = values[(rows.sample == sample).numpy()]
        assert own[0] == -1, "a class token is no patch"
        return own[1:].reshape(4, 4)

    expected = np.full((4, 4), -1)
    expected[1, 2], expected[0, 1] = 0, 1
    assert np.array_equal(grid(1), expected)
    assert grid(1, overlap=0.6)[1, 2] == -1 and grid(1, overlap=0.6)[0, 1] == 1
    assert (grid(2) == -1).all() and (grid(0) == -1).all()
    with_none = grid(1, overlap=0.6, task=task.with_none())
    assert with_none[1, 2] == -1, "touched, and not enough: neither"
    assert (with_none == 2).sum() == 14
    assert (grid(2, task=task.with_none()) == 2).all() and (grid(0, task=task.with_none()) == -1).all()
    with pytest.raises(ArgumentError, match="overlap 0"):
        grid(1, overlap=0)
    with pytest.raises(ArgumentError, match="patches apart"):
        labels.values(task, np.arange(2))


def test_patches_of_overlapping_boxes(store, tmp_path):
    text = "sample,x0,y0,x1,y1,label\n1,4,0,10,6,cat\n1,4,0,16,6,dog\n"
    labels = read_labels(written(tmp_path, text), store, multilabel=["label"])
    rows = store.rows["vision"][17:34]
    found = row_values(labels, labels.tasks, store, "vision", rows)["label"]
    assert found[:4].tolist() == [[-1, -1], [1, 1], [0, 1], [0, 0]]


@pytest.mark.parametrize("mode", ["L", "I;16", "P", "RGB"])
def test_masks(store, tmp_path, mode):
    mask = np.zeros(SIZE[::-1], np.uint16)
    mask[6:12, 16:19] = 2  # half of cell (1, 2)
    mask[0:6, 4:10] = 7  # all of cell (0, 0)
    if mode == "RGB":
        pixels = np.stack([mask % 256, mask // 256, mask * 0], 2).astype(np.uint8)
        image = Image.fromarray(pixels)
    elif mode == "I;16":
        image = Image.fromarray(mask)
    else:
        image = Image.fromarray(mask.astype(np.uint8), mode="L")
        image = image.convert("P") if mode == "P" else image
    image.save(tmp_path / "0000001.png")
    labels = read_labels(tmp_path, store)
    assert labels.tasks[0].names == ("2", "7")
    rows = store.rows["vision"][17:34]
    found = row_values(labels, labels.tasks, store, "vision", rows)["mask"]
    assert found[1] == 1 and found[1 + 6] == 0 and (found >= 0).sum() == 2
    (tmp_path / "names.csv").write_text("number,name\n2,cat\n7,dog\n9,cow\n")
    assert read_labels(tmp_path, store).tasks[0].names == ("cat", "dog", "cow")
    (tmp_path / "names.csv").write_text("2,cat\n")
    with pytest.raises(DataError, match=r"label numbers \[7\]"):
        row_values(read_labels(tmp_path, store), labels.tasks, store, "vision", rows)
    Image.new("L", (5, 5), 2).save(tmp_path / "0000001.png")
    with pytest.raises(DataError, match="5x5 pixels, expected 32x24"):
        row_values(read_labels(tmp_path, store), labels.tasks, store, "vision", rows)


def test_masks_in_colours(store, tmp_path):
    """names.csv says which colour is which label; black is none."""
    pixels = np.zeros((*SIZE[::-1], 3), np.uint8)
    pixels[6:12, 16:22], pixels[0:6, 4:10] = (120, 120, 80), (4, 200, 3)
    Image.fromarray(pixels).save(tmp_path / "0000001.png")
    names = "number,name,red,green,blue\n3,ceiling,120,120,80\n5,tree,4,200,3\n"
    (tmp_path / "names.csv").write_text(names)
    labels = read_labels(tmp_path, store)
    assert labels.tasks[0].names == ("ceiling", "tree")
    found = row_values(labels, labels.tasks, store, "vision", store.rows["vision"][17:34])["mask"]
    assert found[1 + 6] == 0 and found[1] == 1 and (found >= 0).sum() == 2
    (tmp_path / "names.csv").write_text(names.replace("4,200,3", "4,200,4"))
    with pytest.raises(DataError, match=r"got colours \[\(4, 200, 3\)\]"):
        row_values(read_labels(tmp_path, store), labels.tasks, store, "vision", store.rows["vision"][17:34])


def test_masks_that_are_none(store, tmp_path):
    (tmp_path / "0000001.png").write_text("no picture")
    with pytest.raises(DataError, match="expected a PNG"):
        read_labels(tmp_path, store)
    Image.new("L", SIZE).save(tmp_path / "0000001.png")
    with pytest.raises(DataError, match="nothing but 0"):
        read_labels(tmp_path, store)


def test_the_shapes_world(store, tmp_path):
    world = ShapesWorld(6, seed=3, size=32)
    export_folder(world, tmp_path / "world")
    labels = read_labels(tmp_path / "world", store)
    for i, item in enumerate(world):
        scene = item.scene
        only = scene.objects[0] if len(scene.objects) == 1 else None
        for name in ("shape", "colour", "size", "fill", "place"):
            task = labels.task(name, "sample")
            value = int(labels.values(task, np.array([i]))[0])
            assert value == (-1 if only is None else task.names.index(getattr(only, name)))
        for name, value in (("background", scene.background), ("tone", scene.tone)):
            task = labels.task(name, "sample")
            assert task.names[int(labels.values(task, np.array([i]))[0])] == value
        task = labels.task("attributes", "sample")
        has = {n for n, v in zip(task.names, labels.values(task, np.array([i]))[0], strict=True) if v}
        assert has == {
            getattr(o, n) for o in scene.objects for n in ("shape", "colour", "size", "fill", "place")
        }
        assert labels.values(labels.task("objects", "sample"), np.array([i]))[0] == len(scene.objects) - 1
    # Patches against the maps of pixels, taken one by one.
    rows = store.rows["vision"][:]
    task = labels.task("colour", "cell")
    found = row_values(labels, [task], store, "vision", rows)["colour"]
    tile = store.samples[0].tiles[0]
    for i, item in enumerate(world):
        own = found[(rows.sample == i).numpy()][1:].reshape(4, 4)
        for k in range(len(task.names)):
            share = mask_cells(tile, item.labels["colour"] == k + 1)
            assert (own[share >= 0.5] == k).all() and (share[own == k] >= 0.5 - 1e-9).all()
    with pytest.raises(ArgumentError, match="expected one of"):
        labels.task("colours", "cell")
    with pytest.raises(ArgumentError, match="one level"):
        row_values(labels, [task, labels.task("tone", "sample")], store, "vision", rows)


def test_another_world(tmp_path):
    export_folder(ShapesWorld(6, seed=3, size=32), tmp_path / "world")
    with open_store(make(tmp_path / "a.zarr", keys=[f"{i + 1:07d}.png" for i in range(6)])) as shifted:
        with pytest.raises(DataError, match="expected picture 0"):
            read_labels(tmp_path / "world", shifted)
        assert SITE in shifted


def test_samples_of_one_name(tmp_path):
    """A name that two samples have says which one only by number; names of others are no matter."""
    keys = ["a/x.png", "a/x.png", "b/y.png", "c/y.png", "d.png", "e.png"]
    with open_store(make(tmp_path / "acts.zarr", keys=keys)) as store:
        with pytest.raises(DataError, match=r"'a/x\.png', as several samples"):
            read_labels(written(tmp_path, "sample,label\na/x.png,p\nd.png,q\n"), store)
        labels = read_labels(written(tmp_path, "sample,label\nb/y.png,p\nd.png,q\n"), store)
        assert labels.values(labels.tasks[0], np.arange(6)).tolist() == [-1, -1, 0, -1, 1, -1]
        masks = tmp_path / "masks"
        masks.mkdir()
        Image.fromarray(np.ones(SIZE[::-1], np.uint8)).save(masks / "d.png")
        assert "1 samples" in read_labels(masks, store).about
        Image.fromarray(np.ones(SIZE[::-1], np.uint8)).save(masks / "y.png")
        with pytest.raises(DataError, match="'y', as several samples"):
            read_labels(masks, store)


def test_many_boxes_take_little_memory():
    draw = np.random.default_rng(0)
    corners = draw.uniform(0, 90, (500, 2))
    boxes = [(0, np.concatenate([c, c + draw.uniform(1, 10, 2)])) for c in corners]
    tile = {"affine": [0.1, 0, 0, 0, 0.1, 0], "grid": [10, 10]}
    tracemalloc.start()
    share = box_shares(tile, boxes, 1)[0]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 32 << 20
    fine = np.zeros((1000, 1000), bool)
    for _, (x0, y0, x1, y1) in boxes:
        fine[round(y0 * 10) : round(y1 * 10), round(x0 * 10) : round(x1 * 10)] = True
    assert np.abs(share - fine.reshape(10, 100, 10, 100).mean((1, 3))).max() < 0.03


@pytest.mark.parametrize("names, said", [("1,cat\n2,cat\n", "'cat' twice"), ("1,cat\n1,dog\n", "1 twice")])
def test_names_of_masks_that_tell_nothing_apart(store, tmp_path, names, said):
    Image.fromarray(np.ones(SIZE[::-1], np.uint8)).save(tmp_path / "0000001.png")
    written(tmp_path, names, "names.csv")
    with pytest.raises(DataError, match=said):
        read_labels(tmp_path, store)
