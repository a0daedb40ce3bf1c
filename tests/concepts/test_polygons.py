"""COCO's masks against pycocotools, pixel for pixel."""

import json

import numpy as np
import pytest

from mmxai.concepts import polygons as own
from mmxai.concepts.polygons import unpacked
from mmxai.errors import DataError

mask = pytest.importorskip("pycocotools.mask")


def decode(segmentation, h, w, where):
    return own.decode(segmentation, h, w, where).whole((h, w))


def theirs(polygons, h, w):
    return mask.decode(mask.merge(mask.frPyObjects(polygons, h, w))).astype(bool)


@pytest.mark.parametrize("corners", ["anywhere", "whole pixels", "halves", "a corner twice", "within"])
def test_polygons(corners):
    draw = np.random.default_rng(0)
    for _ in range(200):
        h, w = (int(n) for n in draw.integers(1, 60, 2))
        polygons = []
        for _ in range(draw.integers(1, 4)):
            points = draw.uniform(-8, 70, (draw.integers(3, 9), 2))
            if corners == "whole pixels":
                points = points.round()
            elif corners == "halves":
                points = (2 * points).round() / 2
            elif corners == "a corner twice":
                points[1] = points[0]
            elif corners == "within":
                points = points.clip(0, [w, h])
            polygons.append(points.ravel().tolist())
        assert np.array_equal(decode(polygons, h, w, "here"), theirs(polygons, h, w))


def test_run_lengths():
    draw = np.random.default_rng(1)
    for share in (0, 0.01, 0.5, 0.99, 1):
        for h, w in ((1, 1), (7, 3), (40, 61), (300, 200)):
            wanted = draw.random((h, w)) < share
            packed = mask.encode(np.asfortranarray(wanted.astype(np.uint8)))
            assert np.array_equal(decode(packed, h, w, "here"), wanted)
            text = packed | {"counts": packed["counts"].decode()}
            assert np.array_equal(decode(text, h, w, "here"), wanted)
            runs = unpacked(packed["counts"], "here").tolist()
            assert np.array_equal(decode({"size": [h, w], "counts": runs}, h, w, "here"), wanted)


def test_all_of_coco_mini(shared_data):
    objects = crowds = 0
    for part in ("train", "val"):
        found = json.loads((shared_data / f"coco_mini/annotations/instances_{part}2017.json").read_text())
        images = {image["id"]: image for image in found["images"]}
        for one in found["annotations"]:
            h, w = (images[one["image_id"]][k] for k in ("height", "width"))
            shape = one["segmentation"]
            ours = decode(shape, h, w, "here")
            assert np.array_equal(ours, decode(own.compact(shape), h, w, "here"))
            if isinstance(shape, list):
                assert np.array_equal(ours, theirs(shape, h, w))
            else:
                assert np.array_equal(ours, mask.decode(mask.frPyObjects(shape, h, w)).astype(bool))
                crowds += 1
            objects += 1
    assert objects == 1363 and crowds > 0


@pytest.mark.parametrize(
    "segmentation, said",
    [
        ([[0, 0, 1, 1]], "3 points"),
        ([[0, 0, 1, 1, 2]], "3 points"),
        ([[0, 0, 1, 1, float("nan"), 2]], "3 points"),
        ([["a", 0, 1, 1, 2, 2]], "3 points"),
        ([[0, 0, 1, 1, 2, [3]]], "3 points"),
        ([7], "3 points"),
        ("polygon", "got a segmentation str"),
        ({"size": [4, 5], "counts": [20]}, r"expected \[5, 4\]"),
        ({"size": [5, 4], "counts": [19]}, "sum to another"),
        ({"size": [5, 4], "counts": [-1, 21]}, "sum to another"),
        ({"size": [5, 4], "counts": None}, "sum to another"),
        ({"size": [5, 4], "counts": "é"}, "damaged"),
        ({"size": [5, 4], "counts": "R"}, "damaged"),
    ],
)
def test_refuses(segmentation, said):
    for given in (segmentation, own.compact(segmentation)):
        with pytest.raises(DataError, match=said):
            decode(given, 5, 4, "here")
