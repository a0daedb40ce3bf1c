"""Exports hold what the world says, and read back."""

import csv
import json

import numpy as np
import PIL.Image
import pytest
from pycocotools.coco import COCO

from mmxai.data.opening import open_data
from mmxai.errors import ArgumentError
from mmxai.shapes import ShapesWorld
from mmxai.shapes.export import BRODEN, export_broden, export_coco, export_folder
from mmxai.shapes.labels import CATEGORIES
from mmxai.shapes.outline import polygons

WORLD = ShapesWorld(20, seed=6)


def _unpack(rle: dict) -> np.ndarray:
    values = np.repeat(np.arange(len(rle["counts"])) % 2, rle["counts"])
    return values.reshape(rle["size"][::-1]).T.astype(bool)


def test_folder(tmp_path):
    out = export_folder(WORLD, tmp_path / "w")
    with open(out / "captions.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    expected = [(f"images/{i.index:07d}.png", c.text, c.kind) for i in WORLD for c in i.captions]
    assert [(r["file_name"], r["caption"], r["kind"]) for r in rows] == expected
    np.testing.assert_array_equal(np.asarray(PIL.Image.open(out / "images/0000003.png")), WORLD[3].image)
    source = open_data(out / "captions.csv")
    assert len(source) == len(rows) and source[0].text == rows[0]["caption"]
    np.testing.assert_array_equal(np.asarray(source[0].image), WORLD[0].image)
    assert json.loads((out / "world.json").read_text()) == WORLD.identity


def _fill(polygons: list[list[int]], size: int) -> np.ndarray:
    """By the even-odd rule at pixel centres, each polygon alone, then their union."""
    y, x = np.mgrid[:size, :size] + 0.5
    out = np.zeros((size, size), bool)
    for flat in polygons:
        corners = np.array(flat).reshape(-1, 2)
        inside = np.zeros_like(out)
        for (x0, y0), (x1, y1) in zip(corners, np.roll(corners, -1, 0), strict=True):
            if x0 == x1:
                inside ^= (y > min(y0, y1)) & (y < max(y0, y1)) & (x < x0)
        out |= inside
    return out


@pytest.mark.parametrize("masks", ["polygons", "rle"])
def test_coco(tmp_path, masks):
    out = export_coco(WORLD, tmp_path / "w", masks=masks)
    read = _unpack if masks == "rle" else lambda flat: _fill(flat, 64)
    instances = json.loads((out / "annotations/instances.json").read_text(encoding="utf-8"))
    names = {c["id"]: c["name"] for c in instances["categories"]}
    assert len(instances["images"]) == 20
    for item in WORLD:
        found = [a for a in instances["annotations"] if a["image_id"] == item.index]
        assert [names[a["category_id"]] for a in found] == [t.shape for t in item.scene.objects]
        for a, mask in zip(found, item.masks, strict=True):
            np.testing.assert_array_equal(read(a["segmentation"]), mask)
            x, y, w, h = a["bbox"]
            assert a["area"] == mask.sum() == mask[y : y + h, x : x + w].sum()
    texts = json.loads((out / "annotations/captions.json").read_text(encoding="utf-8"))["annotations"]
    assert [t["caption"] for t in texts] == [c.text for item in WORLD for c in item.captions]


def test_what_is_stopped_leaves_nothing(tmp_path, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("mmxai.shapes.export._write_folder", stop)
        export_folder(WORLD, tmp_path / "w")
    assert not list(tmp_path.iterdir())
    assert (export_folder(WORLD, tmp_path / "w") / "captions.csv").is_file()


def test_outlines_of_any_mask():
    """Holes, holes in holes, pixels touching by a corner, borders: whatever comes."""
    generator = np.random.default_rng(0)
    ring = np.ones((9, 9), bool)
    ring[2:7, 2:7] = False
    ring[4, 4] = True
    for mask in [ring, *(generator.random((12, 12)) < p for p in (0.05, 0.4, 0.6, 0.95) for _ in range(20))]:
        found = polygons(mask)
        np.testing.assert_array_equal(_fill(found, len(mask)), mask)
        assert sum(_fill([f], len(mask)).sum() for f in found) == mask.sum()
    assert polygons(np.zeros((4, 4), bool)) == []


def test_coco_by_its_own_tools(tmp_path):
    out = export_coco(WORLD, tmp_path / "w")
    tools = COCO(str(out / "annotations/instances.json"))
    for item in WORLD:
        found = tools.loadAnns(tools.getAnnIds(imgIds=[item.index]))
        for a, mask in zip(found, item.masks, strict=True):
            np.testing.assert_array_equal(tools.annToMask(a).astype(bool), mask)


def test_broden(tmp_path):
    out = export_broden(WORLD, tmp_path / "w")
    with open(out / "label.csv", encoding="utf-8") as file:
        labels = {int(r["number"]): r for r in csv.DictReader(file)}
    with open(out / "index.csv", encoding="utf-8") as file:
        index = list(csv.DictReader(file))
    assert sorted(labels) == list(range(1, 8 + 8 + 4 + 3 + 1))
    for item, row in zip(WORLD, index, strict=True):
        for category, ours in BRODEN.items():
            if category == "scene":
                assert labels[int(row["scene"])]["name"] == f"{item.scene.background} background"
                continue
            rgb = np.asarray(PIL.Image.open(out / "images" / row[category])).astype(int)
            numbers = rgb[..., 0] + 256 * rgb[..., 1]
            codes = item.labels[ours]
            for code in np.unique(codes):
                found = np.unique(numbers[codes == code])
                assert len(found) == 1
                expected = CATEGORIES[ours][code - 1] if code else None
                assert (labels[int(found[0])]["name"] if found[0] else None) == expected
    counted = sum(int(r["frequency"]) for r in labels.values() if r["category"].startswith("scene"))
    assert counted == 20


def test_a_folder_with_content_is_refused(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ArgumentError, match="empty or new"):
        export_folder(WORLD, tmp_path)
    assert (tmp_path / "file").read_text() == "mine"
