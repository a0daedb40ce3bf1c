"""Exports hold what the world says, and read back."""

import csv
import json

import numpy as np
import PIL.Image
import pytest

from mmxai.data.opening import open_data
from mmxai.errors import ArgumentError
from mmxai.shapes import ShapesWorld
from mmxai.shapes.export import BRODEN, export_broden, export_coco, export_folder
from mmxai.shapes.labels import CATEGORIES

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


def test_coco(tmp_path):
    out = export_coco(WORLD, tmp_path / "w")
    instances = json.loads((out / "annotations/instances.json").read_text(encoding="utf-8"))
    names = {c["id"]: c["name"] for c in instances["categories"]}
    assert len(instances["images"]) == 20
    for item in WORLD:
        found = [a for a in instances["annotations"] if a["image_id"] == item.index]
        assert [names[a["category_id"]] for a in found] == [t.shape for t in item.scene.objects]
        for a, mask in zip(found, item.masks, strict=True):
            np.testing.assert_array_equal(_unpack(a["segmentation"]), mask)
            x, y, w, h = a["bbox"]
            assert a["area"] == mask.sum() == mask[y : y + h, x : x + w].sum()
    texts = json.loads((out / "annotations/captions.json").read_text(encoding="utf-8"))["annotations"]
    assert [t["caption"] for t in texts] == [c.text for item in WORLD for c in item.captions]


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
