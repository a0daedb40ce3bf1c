"""Concepts from COCO's and LVIS's annotations: objects with polygons or run lengths, in one JSON file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mmxai.concepts.layers import Patch, stacked
from mmxai.concepts.polygons import compact, decode
from mmxai.concepts.types import Concepts, ImageLabels, Instance, numbered
from mmxai.errors import DataError
from mmxai.labels.keys import sample_files

if TYPE_CHECKING:
    from mmxai.store.reader import Store

_PLAIN = "object"  # of a file without supercategories (LVIS)


class CocoConcepts(Concepts):
    """COCO's categories are the concepts, its supercategories the categories ("object" without them).

    A pixel is in every concept of which an object covers it, crowds included. In a picture that the file
    lists every category was looked for. LVIS looked for some of its concepts in each picture, not for
    all; what it did not look for counts as absent, and `about` says so. Pictures are found by file name.
    """

    def __init__(self, path: Path, store: Store):
        text, found = _read(path)
        self._digest = hashlib.sha256(text).hexdigest()
        self._path = path
        made = [(str(c["name"]), str(c.get("supercategory") or _PLAIN)) for c in found["categories"]]
        order = sorted(range(len(made)), key=lambda k: [c[1] for c in made].index(made[k][1]))
        self.concepts, self.categories = numbered([made[k] for k in order], str(path))
        number = {found["categories"][k]["id"]: n for n, k in enumerate(order)}
        files = {_file_name(image, path): image for image in found["images"]}
        here = sample_files(store, files, str(path))
        self._images = {sample: files[name] for name, sample in here.items()}
        wanted = {image["id"]: sample for sample, image in self._images.items()}
        self._objects: dict[int, list[tuple[int, dict[str, Any]]]] = {s: [] for s in self._images}
        for annotation in found["annotations"]:
            told = {"segmentation", "image_id", "category_id"} <= set(annotation)
            if not told or annotation["category_id"] not in number:
                raise DataError(
                    f"{path}: got annotation {annotation.get('id')} without segmentation or image_id, or "
                    "with an unknown category_id, expected instances (captions and boxes alone have no masks)"
                )
            if annotation["image_id"] in wanted:
                concept = number[annotation["category_id"]]
                self._objects[wanted[annotation["image_id"]]].append((concept, annotation))
        for sample, image in self._images.items():
            _same_size(image, store.samples[sample].size, path)
        self._licences = {x.get("id"): _licence(x) for x in found.get("licenses") or []}
        objects = sum(map(len, self._objects.values()))
        self.about = f"{path.name}: {objects:,} objects in {len(self._images):,} pictures"
        if any("neg_category_ids" in image for image in self._images.values()):
            self.about += "; each picture was searched for some of the concepts only (LVIS)"

    @property
    def identity(self) -> dict[str, Any]:
        return {"source": "coco", "sha256": self._digest}

    def labels(self, sample: int) -> ImageLabels | None:
        if sample not in self._images:
            return None
        shape = self._shape(sample)
        maps = stacked(((concept, patch) for concept, patch, _ in self._patches(sample)), shape)
        return ImageLabels(maps, np.zeros(0, np.int64), np.ones(len(self.categories), bool))

    def instances(self, sample: int) -> Iterator[Instance]:
        if sample in self._images:
            shape = self._shape(sample)
            for concept, patch, crowd in self._patches(sample):
                yield Instance(concept, patch.whole(shape), crowd)

    def _patches(self, sample: int) -> Iterator[tuple[int, Patch, bool]]:
        for concept, annotation in self._objects[sample]:
            where = f"{self._path}: annotation {annotation.get('id')}"
            patch = decode(annotation["segmentation"], *self._shape(sample), where)
            yield concept, patch, bool(annotation.get("iscrowd", 0))

    def _shape(self, sample: int) -> tuple[int, int]:
        return int(self._images[sample]["height"]), int(self._images[sample]["width"])

    def picture_licence(self, sample: int) -> str | None:
        image = self._images.get(sample)
        return None if image is None else self._licences.get(image.get("license"))


def _read(path: Path) -> tuple[bytes, dict[str, Any]]:
    text = path.read_bytes()
    try:
        found = json.loads(text, object_hook=_kept)
    except ValueError as error:
        raise DataError(f"{path}: {error}, expected COCO's or LVIS's JSON of instances") from error
    keys = ("images", "annotations", "categories")
    if not isinstance(found, dict) or any(not isinstance(found.get(k), list) for k in keys):
        raise DataError(f"{path}: expected COCO's or LVIS's JSON of instances, with lists {list(keys)}")
    if any(not {"id", "name"} <= set(category) for category in found["categories"]):
        raise DataError(f"{path}: got a category without id or name, expected both of each")
    return text, found


def _kept(read: dict[str, Any]) -> dict[str, Any]:
    """Of an annotation only what is used, while the file is read: LVIS is a gigabyte of text."""
    if "segmentation" not in read:
        return read
    own = {k: read[k] for k in ("id", "image_id", "category_id", "iscrowd") if k in read}
    return own | {"segmentation": compact(read["segmentation"])}


def _file_name(image: dict[str, Any], path: Path) -> str:
    """LVIS gives pictures only their address in COCO, `.../val2017/000000397133.jpg`."""
    name = image.get("file_name") or str(image.get("coco_url") or "").rpartition("/")[2]
    if not name or not {"id", "width", "height"} <= set(image):
        raise DataError(
            f"{path}: got picture {image.get('id')} without file_name, width or height, expected all of them"
        )
    return str(name)


def _licence(told: dict[str, Any]) -> str | None:
    """Its name, and where it is written down: who passes a picture on has to say both."""
    name, address = told.get("name"), told.get("url")
    return f"{name} ({address})" if name and address else name or address


def _same_size(image: dict[str, Any], size: tuple[int, int] | None, path: Path) -> None:
    expected = (int(image["width"]), int(image["height"]))
    if size is not None and tuple(size) != expected:
        raise DataError(
            f"{path}: got picture {image['id']} of {expected[0]}x{expected[1]} pixels, but "
            f"{size[0]}x{size[1]} in the store; expected annotations of the pictures as harvested"
        )
