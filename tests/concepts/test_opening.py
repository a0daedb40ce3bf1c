"""Tables, several sources at once, and which file is read as what."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from mmxai.concepts import BoxConcepts, JoinedConcepts, TableConcepts, WorldConcepts, open_concepts
from mmxai.errors import ArgumentError, DataError
from mmxai.labels.keys import sample_files
from mmxai.shapes import ShapesWorld
from mmxai.shapes.export import export_folder
from mmxai.store import create_store, open_store
from tests.labels.pictures import SIZE, make


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    with open_store(make(tmp_path_factory.mktemp("opening") / "acts.zarr")) as opened:
        yield opened


def written(folder, text, name="labels.csv"):
    path = folder / name
    path.write_text(text)
    return path


def test_labels_of_whole_pictures(store, tmp_path):
    text = "sample,scene,has\n0,street,car|tree\n0,,dog\n3,park,\n4,,tree\n"
    found = open_concepts(written(tmp_path, text), store)
    assert isinstance(found, TableConcepts) and found.categories == ("scene", "has")
    names = [c.name for c in found.concepts]
    labels = found.labels(0)
    assert labels.maps.shape == (0, 112, 112) and labels.annotated.all()
    assert [names[k] for k in labels.whole] == ["street", "car", "dog", "tree"]
    assert found.labels(3).annotated.tolist() == [True, False]
    assert [names[k] for k in found.labels(4).whole] == ["tree"] and found.labels(1) is None
    with pytest.raises(ArgumentError, match="no instances"):
        next(found.instances(0))


def test_boxes(store, tmp_path):
    text = "sample,x0,y0,x1,y1,label\n1,2,3,6,9,cat\n1,4,3,8,9,dog\n1,5.4,3,7.6,9,cat\n2,,,,,\n"
    found = open_concepts(written(tmp_path, text), store)
    assert isinstance(found, BoxConcepts)
    labels = found.labels(1)
    cat = np.zeros(SIZE[::-1], bool)
    cat[3:9, 2:8] = True
    assert labels.shape == SIZE[::-1] and np.array_equal(labels.mask(found.number("cat")), cat)
    assert [int(i.mask.sum()) for i in found.instances(1)] == [24, 24, 18]
    assert found.labels(2).maps.shape == (0, *SIZE[::-1]) and found.labels(0) is None


def test_several_sources(store, tmp_path):
    numbers = np.zeros(SIZE[::-1], np.uint8)
    numbers[:6], numbers[6:9] = 1, 2
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    Image.fromarray(numbers).save(tmp_path / "a" / "0000001.png")
    Image.fromarray(numbers[::-1].copy()).save(tmp_path / "b" / "0000001.png")
    Image.fromarray(numbers).save(tmp_path / "b" / "0000002.png")
    written(tmp_path / "a", "number,name,category\n1,sky,stuff\n2,cat,thing\n", "names.csv")
    written(tmp_path / "b", "number,name,category\n1,dog,thing\n2,sky,stuff\n", "names.csv")
    scenes = written(tmp_path, "sample,scene\n1,street\n5,park\n")
    found = open_concepts([tmp_path / "a", str(tmp_path / "b"), scenes], store)
    assert isinstance(found, JoinedConcepts)
    assert [(c.name, c.category) for c in found.concepts] == [
        ("sky", "stuff"), ("cat", "thing"), ("dog", "thing"), ("park", "scene"), ("street", "scene"),
    ]  # fmt: skip
    labels = found.labels(1)
    sky = np.zeros(SIZE[::-1], bool)
    sky[:6] = sky[15:18] = True
    assert np.array_equal(labels.mask(found.number("sky")), sky)
    assert labels.mask(found.number("dog"))[18:].all() and labels.annotated.all()
    assert labels.whole.tolist() == [found.number("street")]
    assert found.labels(2).annotated.tolist() == [True, True, False]
    assert found.labels(5).maps.shape == (0, 112, 112) and found.labels(0) is None
    json.dumps(found.identity)
    Image.fromarray(numbers[:, :16]).resize((16, 12), 0).save(tmp_path / "b" / "0000001.png")
    with pytest.raises(DataError, match="expected one size"):
        open_concepts([tmp_path / "a", tmp_path / "b"], store).labels(1)


def test_a_concept_in_two_sources_counts_once(store, tmp_path):
    numbers = np.ones(SIZE[::-1], np.uint8)
    for name in "ab":
        (tmp_path / name).mkdir()
        Image.fromarray(numbers).save(tmp_path / name / "0000001.png")
    found = open_concepts([tmp_path / "a", tmp_path / "b"], store)
    assert len(found) == 1 and found.labels(1).maps.shape == (1, *SIZE[::-1])


def test_the_shapes_world(store, tmp_path):
    world = ShapesWorld(6, seed=3, size=32)
    export_folder(world, tmp_path / "world")
    found = open_concepts(tmp_path / "world", store)
    assert isinstance(found, WorldConcepts)
    for sample, item in enumerate(world):
        labels = found.labels(sample)
        assert labels.maps.shape == (4, 32, 32) and labels.annotated.all()
        assert labels.maps.dtype == np.int32
        for concept in found.concepts:
            at = [c.name for c in found.concepts if c.category == concept.category].index(concept.name)
            assert np.array_equal(labels.mask(concept.number), item.labels[concept.category] == at + 1)
        assert len(list(found.instances(sample))) == len(item.scene.objects)
    assert found.labels(6) is None and found.identity["world"] == world.identity


def test_refuses(store, tmp_path):
    for source, said in (
        (tmp_path / "none", "no such file"),
        (written(tmp_path, "", "labels.xml"), "or a folder"),
        (written(tmp_path, "a,b\n1,2\n"), "header with 'sample'"),
    ):
        with pytest.raises(DataError, match=said):
            open_concepts(source, store)
    with pytest.raises(ArgumentError, match="no source"):
        open_concepts([], store)


@pytest.mark.parametrize(
    "keys, names, found",
    [
        (["val2017/7.jpg", "8.jpg"], ["7.jpg", "coco/8.png"], {"7.jpg": 0, "coco/8.png": 1}),
        (["a/7.jpg", "b/7.jpg"], ["b/7.jpg"], {"b/7.jpg": 1}),
        (["7", "x.y"], ["7.jpg", "x.y", "z"], {"7.jpg": 0, "x.y": 1}),
        (["7.jpg", "a/7.jpg"], ["7.jpg"], {"7.jpg": 0}),
        (["a/7.jpg", "b/7.jpg"], ["7.jpg"], "fits 2 samples"),
        (["7.jpg"], ["7.jpg", "7.png"], "named twice"),
        (["7.jpg"], ["17.jpg", "a/8.jpg"], "none of which is in"),
    ],
)
def test_names_of_files(tmp_path, keys, names, found):
    with create_store(tmp_path / "a.zarr", sites={"vision.0.resid_post": 2}, durable=False) as writer:
        writer.write([{"key": key} for key in keys], {"vision.0.resid_post": torch.zeros(len(keys), 2)})
    with open_store(tmp_path / "a.zarr") as store:
        if isinstance(found, dict):
            assert sample_files(store, names, "here") == found
        else:
            with pytest.raises(DataError, match=found):
                sample_files(store, names, "here")
