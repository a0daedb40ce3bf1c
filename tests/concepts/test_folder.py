"""Folders of label maps, as several data sets write them."""

import numpy as np
import pytest
from PIL import Image

from mmxai.concepts import FolderConcepts, open_concepts
from mmxai.concepts.layouts import VOC, voc_colour
from mmxai.errors import DataError
from mmxai.store import open_store
from tests.labels.pictures import SIZE, make

NUMBERS = np.zeros(SIZE[::-1], np.uint8)
NUMBERS[2:6, 3:9], NUMBERS[6:9, 3:9] = 2, 15


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    with open_store(make(tmp_path_factory.mktemp("folder") / "acts.zarr")) as opened:
        yield opened


def save(path, numbers):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(numbers.astype(np.uint8)).save(path)


def masks_of(labels):
    return {int(c): labels.mask(int(c)) for c in labels.present()}


def check(found, names):
    """That `names` of numbers 2 and 15 are where NUMBERS has them, and nothing else is anywhere."""
    labels = found.labels(1)
    wanted = {found.number(name): number for name, number in zip(names, (2, 15), strict=True)}
    assert labels.present().tolist() == sorted(wanted)
    assert all(np.array_equal(labels.mask(c), n == NUMBERS) for c, n in wanted.items())
    assert labels.annotated.all() and found.labels(0) is None
    assert labels.maps.dtype == np.int32 and labels.whole.dtype == np.int64


def test_numbers_without_names(store, tmp_path):
    save(tmp_path / "0000001.png", NUMBERS)
    found = open_concepts(tmp_path, store)
    assert isinstance(found, FolderConcepts) and found.categories == ("mask",)
    check(found, ("2", "15"))


def test_maps_by_sample_number(store, tmp_path):
    """Of a data set without file names; a name that is a key goes first."""
    save(tmp_path / "1.png", NUMBERS)
    save(tmp_path / "7.png", NUMBERS)
    check(open_concepts(tmp_path, store), ("2", "15"))
    save(tmp_path / "0000001.png", NUMBERS[::-1])
    labels = open_concepts(tmp_path, store).labels(1)
    assert np.array_equal(labels.mask(1), NUMBERS[::-1] == 15)


def test_names_and_categories(store, tmp_path):
    save(tmp_path / "dir" / "0000001.png", NUMBERS)
    (tmp_path / "names.csv").write_text("number,name,category\n2,cat,animal\n3,cup,kitchen\n15,dog,animal\n")
    found = open_concepts(str(tmp_path), store)
    assert found.categories == ("animal", "kitchen")
    assert [c.name for c in found.concepts] == ["cat", "dog", "cup"]
    check(found, ("cat", "dog"))
    assert found.identity == open_concepts(tmp_path, store).identity


def test_colours(store, tmp_path):
    painted = np.zeros((*NUMBERS.shape, 3), np.uint8)
    painted[NUMBERS == 2], painted[NUMBERS == 15] = (120, 120, 80), (4, 200, 3)
    save(tmp_path / "0000001.png", painted)
    names = "number,name,red,green,blue\n2,ceiling,120,120,80\n15,tree,4,200,3\n"
    (tmp_path / "names.csv").write_text(names)
    check(open_concepts(tmp_path, store), ("ceiling", "tree"))
    painted[0, 0] = (1, 2, 3)
    save(tmp_path / "0000001.png", painted)
    with pytest.raises(DataError, match=r"got colours \[\(1, 2, 3\)\]"):
        open_concepts(tmp_path, store).labels(1)


@pytest.mark.parametrize("painted", [False, True])
def test_voc(store, tmp_path, painted):
    """Borders are void: 255 in numbers, a pale colour in colours."""
    numbers = NUMBERS.copy()
    numbers[0] = 255
    if painted:
        numbers = np.array([voc_colour(n) if n < 255 else (224, 224, 192) for n in range(256)])[numbers]
        save(tmp_path / "0000001.png", numbers)
    else:
        image = Image.fromarray(numbers, mode="P")
        image.putpalette([v for n in range(256) for v in voc_colour(n)])
        image.save(tmp_path / "0000001.png")
    found = open_concepts(f"voc:{tmp_path}", store)
    assert len(found) == 20 and VOC[14] == "person"
    check(found, ("bicycle", "person"))


def test_voc_colours():
    """From the data set's own palette."""
    assert [voc_colour(n) for n in (0, 1, 2, 9, 15, 20, 255)] == [
        (0, 0, 0), (128, 0, 0), (0, 128, 0), (192, 0, 0), (192, 128, 128), (0, 64, 128), (224, 224, 192),
    ]  # fmt: skip


def test_ade20k(store, tmp_path):
    save(tmp_path / "annotations" / "val" / "0000001.png", NUMBERS)
    rows = ["Idx\tRatio\tTrain\tVal\tStuff\tName"]
    rows += [f"{n}\t0.1\t1\t1\t{n % 2}\tthing {n}, synonym;other" for n in range(1, 16)]
    (tmp_path / "objectInfo150.txt").write_text("\n".join(rows) + "\n")
    found = open_concepts(f"ade20k:{tmp_path / 'annotations/val'}", store)
    assert set(found.categories) == {"stuff", "object"}
    check(found, ("thing 2", "thing 15"))
    save(tmp_path / "annotations" / "val" / "0000001.png", np.stack([NUMBERS] * 3, 2))
    with pytest.raises(DataError, match="expected one number a pixel"):
        found.labels(1)


def test_cocostuff(store, tmp_path):
    """A label k is written k - 1, and 255 is none."""
    numbers = np.where(NUMBERS == 0, 255, NUMBERS.astype(int) - 1)
    save(tmp_path / "val2017" / "0000001.png", numbers)
    lines = [f"{n}: thing {n}" for n in range(16)] + ["92: banner"]
    (tmp_path / "labels.txt").write_text("\n".join(["0: unlabeled", *lines[1:]]) + "\n")
    found = open_concepts(f"cocostuff:{tmp_path / 'val2017'}", store)
    assert found.categories == ("thing", "stuff")
    check(found, ("thing 2", "thing 15"))


def test_a_scaled_map(store, tmp_path):
    save(tmp_path / "0000001.png", NUMBERS[::2, ::2])
    labels = open_concepts(tmp_path, store).labels(1)
    assert labels.shape == (12, 16)
    save(tmp_path / "0000001.png", NUMBERS[:20])
    with pytest.raises(DataError, match="32x20 pixels, expected 32x24"):
        open_concepts(tmp_path, store).labels(1)


def test_refuses(store, tmp_path):
    with pytest.raises(DataError, match="no PNGs"):
        open_concepts(tmp_path, store)
    save(tmp_path / "0000001.png", NUMBERS)
    (tmp_path / "names.csv").write_text("number,name\n2,cat\n")
    with pytest.raises(DataError, match=r"label numbers \[15\]"):
        open_concepts(tmp_path, store).labels(1)
    (tmp_path / "names.csv").write_text("number,name\n2,cat\n15,cat\n")
    with pytest.raises(DataError, match="twice"):
        open_concepts(tmp_path, store)
    with pytest.raises(DataError, match=r"no labels\.txt"):
        open_concepts(f"cocostuff:{tmp_path}", store)
    with pytest.raises(DataError, match="no such folder"):
        open_concepts(f"voc:{tmp_path / 'none'}", store)
