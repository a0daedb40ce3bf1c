"""Broden's folder."""

import numpy as np
import pytest
import torch
from PIL import Image

from mmxai.concepts import BrodenConcepts, open_concepts
from mmxai.errors import DataError
from mmxai.shapes import ShapesWorld
from mmxai.shapes.export import BRODEN, export_broden, export_folder
from mmxai.store import create_store, open_store
from tests.labels.pictures import make

INDEX = """image,split,ih,iw,sh,sw,color,object,part,scene
dir/0000001.png,train,24,32,12,16,c1.png,o1.png,p1.png;p2.png,
dir/0000002.png,val,24,32,12,16,c1.png,,,305;306
"""


def rgb(numbers):
    out = np.zeros((*numbers.shape, 3), np.uint8)
    out[..., 0], out[..., 1] = numbers % 256, numbers // 256
    return Image.fromarray(out)


def folder_at(path):
    (path / "images").mkdir(parents=True)
    (path / "index.csv").write_text(INDEX)
    header = "code,number,name,frequency,coverage\n"
    (path / "c_color.csv").write_text(header + "1,1,red-c,2,0.5\n2,2,blue-c,2,0.5\n")
    (path / "c_object.csv").write_text(header + "1,300,cat,1,0.5\n2,3,bird,1,0.5\n")
    (path / "c_part.csv").write_text(header + "1,7,head,1,0.5\n2,8,eye,1,0.5\n3,3,bird,1,0.5\n")
    (path / "c_scene.csv").write_text(header + "1,305,street-s,1,1\n2,306,park-s,1,1\n")
    colour = np.ones((12, 16), int)
    colour[6:] = 2
    thing = np.zeros((12, 16), int)
    thing[2:10, 2:10] = 300
    head, eye = np.zeros((12, 16), int), np.zeros((12, 16), int)
    head[2:5, 2:5], eye[3, 3], eye[4, 4] = 7, 8, 7
    for name, numbers in {"c1": colour, "o1": thing, "p1": head, "p2": eye}.items():
        rgb(numbers).save(path / "images" / f"{name}.png")
    return path


@pytest.fixture
def store(tmp_path):
    with open_store(make(tmp_path / "acts.zarr")) as opened:
        yield opened


def test_broden(store, tmp_path):
    found = open_concepts(folder_at(tmp_path / "broden"), store)
    assert isinstance(found, BrodenConcepts)
    assert found.categories == ("color", "object", "part", "scene") and len(found) == 9
    assert found.number("bird", "object") != found.number("bird", "part")
    labels = found.labels(1)
    assert labels.annotated.tolist() == [True, True, True, False] and not len(labels.whole)
    assert labels.maps.shape == (4, 12, 16)
    assert labels.maps.dtype == np.int32 and labels.whole.dtype == np.int64
    assert labels.mask(found.number("red-c"))[:6].all() and labels.mask(found.number("blue-c"))[6:].all()
    assert labels.mask(found.number("cat")).sum() == 64
    assert labels.mask(found.number("head")).sum() == 9 and labels.mask(found.number("eye")).sum() == 1
    assert (labels.maps == found.number("head")).sum() == 9, "twice at a pixel counts once"
    labels = found.labels(2)
    assert labels.whole.tolist() == [found.number("street-s"), found.number("park-s")]
    assert labels.annotated.tolist() == [True, False, False, True]
    assert labels.mask(found.number("park-s")).all() and found.labels(3) is None


@pytest.mark.parametrize(
    "file, old, new, said",
    [
        ("index.csv", "sh,sw", "sh,width", r"without \['sw'\]"),
        ("index.csv", "24,32", "24,33", "but 32x24 in the store"),
        ("index.csv", "12,16", "12,15", "sh and sw of index.csv"),
        ("index.csv", "c1.png", "c9.png", "expected a PNG"),
        ("index.csv", "dir/", "dur/", "none of which is in"),
        ("index.csv", "12,16", "a,16", "expected a whole number"),
        ("c_object.csv", "300", "299", r"label numbers \[300\]"),
        ("c_scene.csv", "305", "304", r"label numbers \[305\]"),
        ("c_scene.csv", "number", "code2", "expected number and name"),
    ],
)
def test_refuses(store, tmp_path, file, old, new, said):
    path = folder_at(tmp_path / "broden")
    text = (path / file).read_text()
    assert old in text
    (path / file).write_text(text.replace(old, new))
    with pytest.raises(DataError, match=said):
        found = open_concepts(path, store)
        for sample in (1, 2):
            found.labels(sample)


def test_a_table_that_is_not_there(store, tmp_path):
    path = folder_at(tmp_path / "broden")
    (path / "c_part.csv").unlink()
    with pytest.raises(DataError, match=r"c_part\.csv: no such file"):
        open_concepts(path, store)


def test_the_shapes_world_through_broden(tmp_path):
    world = ShapesWorld(6, seed=3, size=32)
    export_broden(world, tmp_path / "broden")
    export_folder(world, tmp_path / "world")
    with create_store(tmp_path / "a.zarr", sites={"vision.0.resid_post": 2}, durable=False) as writer:
        keys = [{"key": f"images/{i:07d}.png", "size": [32, 32]} for i in range(6)]
        writer.write(keys, {"vision.0.resid_post": torch.zeros(6, 2)})
    with open_store(tmp_path / "a.zarr") as store:
        broden, own = open_concepts(tmp_path / "broden", store), open_concepts(tmp_path / "world", store)
        for sample in range(6):
            ours, theirs = own.labels(sample), broden.labels(sample)
            for concept in broden.concepts:
                seen = ours.mask(own.number(concept.name, BRODEN[concept.category]))
                if concept.category == "scene":
                    assert theirs.mask(concept.number).all() == (concept.number in theirs.whole) == seen.any()
                else:
                    assert np.array_equal(theirs.mask(concept.number), seen)
