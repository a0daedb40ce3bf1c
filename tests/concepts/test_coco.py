"""COCO's and LVIS's files."""

import json

import numpy as np
import pytest

from mmxai.concepts import CocoConcepts, open_concepts
from mmxai.errors import ArgumentError, DataError
from mmxai.shapes import ShapesWorld
from mmxai.shapes.export import export_coco, export_folder
from mmxai.store import create_store, open_store
from tests.labels.pictures import SIZE, make

RUNS = {"size": [24, 32], "counts": [0, 24, 744]}  # the first column
FILE = {
    "licenses": [{"id": 3, "name": "CC BY"}],
    "images": [
        {"id": 70, "file_name": "0000001.png", "width": 32, "height": 24, "license": 3},
        {"id": 71, "file_name": "elsewhere.png", "width": 9, "height": 9, "license": 3},
        {"id": 72, "file_name": "0000004.png", "width": 32, "height": 24},
    ],
    "categories": [
        {"id": 5, "name": "cat", "supercategory": "animal"},
        {"id": 9, "name": "cup", "supercategory": "kitchen"},
        {"id": 2, "name": "dog", "supercategory": "animal"},
    ],
    "annotations": [
        {"id": 1, "image_id": 70, "category_id": 5, "segmentation": [[2, 3, 6, 3, 6, 9, 2, 9]]},
        {"id": 2, "image_id": 70, "category_id": 9, "segmentation": [[4, 3, 8, 3, 8, 9, 4, 9]]},
        {"id": 3, "image_id": 70, "category_id": 5, "segmentation": RUNS, "iscrowd": 1},
        {"id": 4, "image_id": 71, "category_id": 5, "segmentation": RUNS},
    ],
}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    with open_store(make(tmp_path_factory.mktemp("coco") / "acts.zarr")) as opened:
        yield opened


def written(folder, **changes):
    path = folder / "instances.json"
    path.write_text(json.dumps(FILE | changes))
    return path


def test_objects(store, tmp_path):
    found = open_concepts(written(tmp_path), store)
    assert isinstance(found, CocoConcepts)
    assert [(c.name, c.category, c.number) for c in found.concepts] == [
        ("cat", "animal", 0), ("dog", "animal", 1), ("cup", "kitchen", 2),
    ]  # fmt: skip
    assert found.category_of().tolist() == [0, 0, 1] and len(found) == 3
    labels = found.labels(1)
    assert labels.maps.shape == (2, 24, 32) and labels.annotated.all() and labels.present().tolist() == [0, 2]
    cat = np.zeros((24, 32), bool)
    cat[3:9, 2:6] = cat[:, 0] = True
    cup = np.zeros((24, 32), bool)
    cup[3:9, 4:8] = True
    assert np.array_equal(labels.mask(0), cat) and np.array_equal(labels.mask(2), cup)
    assert [(i.concept, i.crowd, int(i.mask.sum())) for i in found.instances(1)] == [
        (0, False, 24), (2, False, 24), (0, True, 24),
    ]  # fmt: skip
    assert found.labels(4).maps.shape == (0, 24, 32), "looked at, and nothing there"
    assert found.labels(0) is None and found.labels(99) is None and not list(found.instances(0))
    assert found.picture_licence(1) == "CC BY" and found.picture_licence(4) is None
    assert "3 objects in 2 pictures" in found.about


def test_a_folder_with_files_of_other_pictures(store, tmp_path):
    """Train's annotations lie beside val's, and a store is of one of them."""
    folder = tmp_path / "annotations"
    folder.mkdir()
    images = [FILE["images"][1] | {"file_name": "another.png"}]
    other = FILE | {"images": images, "annotations": []}
    (folder / "instances_train.json").write_text(json.dumps(other))
    with pytest.raises(DataError, match="none of which is in"):
        open_concepts(tmp_path, store)
    (folder / "instances_val.json").write_text(json.dumps(FILE))
    found = open_concepts(tmp_path, store)
    assert isinstance(found, CocoConcepts) and "instances_val.json" in found.about
    (folder / "instances_train.json").write_text("{}")
    with pytest.raises(DataError, match="with lists"):
        open_concepts(tmp_path, store)


def test_identity_is_of_the_content(store, tmp_path):
    first = open_concepts(written(tmp_path), store).identity
    assert first == open_concepts(written(tmp_path), store).identity
    assert first != open_concepts(written(tmp_path, licenses=[]), store).identity


def test_lvis(store, tmp_path):
    """No file names, no supercategories; pictures that were searched for some concepts only."""
    images = [
        {"id": 70, "coco_url": "http://x.org/val2017/0000001.png", "width": 32, "height": 24,
         "neg_category_ids": [9], "not_exhaustive_category_ids": []},
    ]  # fmt: skip
    categories = [{"id": c["id"], "name": c["name"]} for c in FILE["categories"]]
    path = written(tmp_path, images=images, categories=categories, licenses=None)
    found = open_concepts(path, store)
    assert found.categories == ("object",) and "LVIS" in found.about
    assert found.labels(1).present().tolist() == [found.number("cat"), found.number("cup")]


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"images": [FILE["images"][0] | {"width": 33}]}, "33x24 pixels, but 32x24"),
        ({"images": [FILE["images"][1]]}, "none of which is in"),
        ({"images": [{"id": 70}]}, "without file_name"),
        ({"images": {}}, "with lists"),
        ({"categories": []}, "no concepts"),
        ({"categories": [{"id": 5}]}, "without id or name"),
        (
            {"annotations": [{"id": 7, "category_id": 5, "segmentation": []}]},
            "without segmentation or image_id",
        ),
        ({"categories": FILE["categories"][:1] * 2}, "'cat' of 'animal' twice"),
        (
            {"annotations": [{"id": 7, "image_id": 70, "caption": "a cat"}]},
            "annotation 7 without segmentation",
        ),
        ({"annotations": [FILE["annotations"][0] | {"category_id": 88}]}, "unknown category_id"),
    ],
)
def test_refuses(store, tmp_path, changes, said):
    with pytest.raises(DataError, match=said):
        open_concepts(written(tmp_path, **changes), store)


def test_refuses_when_it_reads(store, tmp_path):
    wrong = FILE["annotations"][0] | {"segmentation": [[1, 2, 3]]}
    found = open_concepts(written(tmp_path, annotations=[wrong]), store)
    with pytest.raises(DataError, match="annotation 1: got a polygon"):
        found.labels(1)
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(DataError, match="expected COCO's"):
        open_concepts(tmp_path / "broken.json", store)
    with pytest.raises(ArgumentError, match="nearest: \\['cat'"):
        found.number("cats")


@pytest.mark.parametrize("masks", ["polygons", "rle"])
def test_the_shapes_world_through_coco(tmp_path, masks):
    """What the world paints and what its COCO file says are the same pixels."""
    world = ShapesWorld(6, seed=3, size=32)
    export_coco(world, tmp_path / "coco", masks=masks)
    export_folder(world, tmp_path / "world")
    with create_store(tmp_path / "a.zarr", sites={"vision.0.resid_post": 2}, durable=False) as writer:
        import torch

        keys = [{"key": f"{i:07d}.png", "size": [32, 32]} for i in range(6)]
        writer.write(keys, {"vision.0.resid_post": torch.zeros(6, 2)})
    with open_store(tmp_path / "a.zarr") as store:
        coco, own = open_concepts(tmp_path / "coco", store), open_concepts(tmp_path / "world", store)
        assert SIZE != (32, 32)
        for sample in range(6):
            ours, theirs = own.labels(sample), coco.labels(sample)
            for concept in coco.concepts:
                assert np.array_equal(
                    ours.mask(own.number(concept.name, "shape")), theirs.mask(concept.number)
                )
            pairs = zip(own.instances(sample), coco.instances(sample), strict=True)
            assert all(np.array_equal(a.mask, b.mask) for a, b in pairs)


def test_coco_mini(shared_data, tmp_path):
    import torch
    from PIL import Image

    folder = shared_data / "coco_mini"
    files = sorted(folder.glob("*2017/*.jpg"))
    sizes = [list(Image.open(path).size) for path in files]
    with create_store(tmp_path / "a.zarr", sites={"vision.0.resid_post": 2}, durable=False) as writer:
        keys = [
            {"key": path.relative_to(folder).as_posix(), "size": size}
            for path, size in zip(files, sizes, strict=True)
        ]
        writer.write(keys, {"vision.0.resid_post": torch.zeros(len(files), 2)})
    with open_store(tmp_path / "a.zarr") as store:
        concepts = open_concepts(folder, store)
        assert len(concepts) == 80 and len(concepts.categories) == 12
        areas = np.zeros(80, np.int64)
        objects = unknown = 0
        for sample, size in enumerate(sizes):
            labels = concepts.labels(sample)
            if labels is None:
                unknown += 1
                continue
            assert labels.shape == tuple(size[::-1]) and labels.annotated.all()
            assert labels.maps.dtype == np.int32 and labels.whole.dtype == np.int64
            found, pixels = np.unique(labels.maps[labels.maps >= 0], return_counts=True)
            areas[found] += pixels
            objects += len(list(concepts.instances(sample)))
        assert objects == 1363
        assert unknown == len(files) - 159 == 80, "photographs that the files do not list"
        assert areas[concepts.number("person")] == areas.max()
        assert "License" in concepts.picture_licence(0)
