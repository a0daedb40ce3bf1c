"""The world as plain folders: pictures with a captions table, COCO annotations, Broden-style label maps."""

from __future__ import annotations

import csv
import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image

from mmxai.errors import ArgumentError
from mmxai.shapes.labels import CATEGORIES
from mmxai.shapes.outline import polygons
from mmxai.shapes.scene import COLOURS, FILLS, SHAPES
from mmxai.shapes.world import ShapesWorld, WorldBatch


def export_folder(world: ShapesWorld, out: str | Path) -> Path:
    """`images/<index>.png` and `captions.csv`: file_name, caption, kind, unambiguous; a row a caption.

    `world.json` says which world it is: `ShapesWorld` of its fields knows all else about the pictures.
    """
    return _whole(out, lambda staged: _write_folder(world, staged))


def _write_folder(world: ShapesWorld, out: Path) -> None:
    _write(out / "world.json", world.identity)
    with open(out / "captions.csv", "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["file_name", "caption", "kind", "unambiguous"])
        for batch in _batches(world, texts=6):
            names = _save_images(batch, out)
            for name, written in zip(names, batch.captions, strict=True):
                table.writerows([f"images/{name}", c.text, c.kind, int(c.unambiguous)] for c in written)


def export_coco(world: ShapesWorld, out: str | Path, *, masks: str = "polygons") -> Path:
    """`images/`, `annotations/instances.json` and `annotations/captions.json`.

    Categories are the shapes; colour, size, fill, place and visible fraction are further fields. `masks`:
    "polygons" along pixel edges, or "rle" (uncompressed); both are exact.
    """
    if masks not in ("polygons", "rle"):
        raise ArgumentError(f"export: got masks {masks!r}, expected 'polygons' or 'rle'")
    return _whole(out, lambda staged: _write_coco(world, staged, masks))


def _write_coco(world: ShapesWorld, out: Path, masks: str) -> None:
    images: list[dict[str, Any]] = []
    instances: list[dict[str, Any]] = []
    texts: list[dict[str, Any]] = []
    for batch in _batches(world, texts=6):
        for k, name in enumerate(_save_images(batch, out)):
            number = int(batch.indices[k])
            images.append({"id": number, "file_name": name, "width": world.size, "height": world.size})
            texts += [
                {"id": len(texts) + j + 1, "image_id": number, "caption": c.text}
                for j, c in enumerate(batch.captions[k])
            ]
            for z, thing in enumerate(batch.graphs[k].objects):
                mask = batch.owners[k] == z + 1
                if mask.any():
                    record = {
                        "id": len(instances) + 1,
                        "image_id": number,
                        "iscrowd": 0,
                        **_instance(mask, masks),
                    }
                    record |= {n: getattr(thing, n) for n in ("colour", "size", "fill", "place", "visible")}
                    instances.append(record | {"category_id": SHAPES.index(thing.shape) + 1})
    (out / "annotations").mkdir()
    categories = [{"id": k + 1, "name": name, "supercategory": "shape"} for k, name in enumerate(SHAPES)]
    about = {"info": {"description": "mmxai shapes", **world.identity}, "licenses": [], "images": images}
    _write(out / "annotations/instances.json", about | {"annotations": instances, "categories": categories})
    _write(out / "annotations/captions.json", about | {"annotations": texts})


def _rle(mask: np.ndarray) -> dict[str, Any]:
    """Run lengths by columns, the first of zeros."""
    flat = mask.T.ravel()
    edges = np.flatnonzero(np.diff(flat)) + 1
    runs = np.diff(np.concatenate([[0], edges, [flat.size]])).tolist()
    return {"size": list(mask.shape), "counts": [0, *runs] if flat[0] else runs}


def _instance(mask: np.ndarray, masks: str) -> dict[str, Any]:
    """COCO's fields of one mask: bbox [x, y, width, height], area, segmentation."""
    ys, xs = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    box = [int(xs[0]), int(ys[0]), int(xs[-1] - xs[0] + 1), int(ys[-1] - ys[0] + 1)]
    return {
        "bbox": box,
        "area": int(mask.sum()),
        "segmentation": _rle(mask) if masks == "rle" else polygons(mask),
    }


BRODEN = {"color": "colour", "object": "shape", "texture": "fill", "scene": "background"}
"""Broden's name of each of our categories. `scene` is a label of the whole image, there and here."""


def export_broden(world: ShapesWorld, out: str | Path) -> Path:
    """Network Dissection's layout (Bau et al. 2017).

    `index.csv`, `label.csv`, `category.csv`, `c_<category>.csv` and `images/`. Label maps are PNG, label
    number = red + 256 * green, 0 none. Numbers run over all categories.
    """
    return _whole(out, lambda staged: _write_broden(world, staged))


def _write_broden(world: ShapesWorld, out: Path) -> None:
    names = {"color": COLOURS, "object": SHAPES, "texture": FILLS, "scene": CATEGORIES["background"]}
    first, numbers = 1, {}
    for category, labels in names.items():
        numbers[category] = np.array([0, *range(first, first + len(labels))])
        first += len(labels)
    frequency: Counter[int] = Counter()
    coverage: Counter[int] = Counter()
    with open(out / "index.csv", "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["image", "split", "ih", "iw", "sh", "sw", *names])
        for batch in _batches(world, texts=0):
            files = _save_images(batch, out)
            maps = {category: numbers[category][batch.labels[ours]] for category, ours in BRODEN.items()}
            for k, name in enumerate(files):
                row: list[Any] = [name, world.split or "train", *[world.size] * 4]
                for category in names:
                    labels = maps[category][k]
                    whole = category == "scene"
                    if whole:
                        labels = np.full_like(labels, numbers["scene"][batch.scenes.ground[k, 0] + 1])
                    found, pixels = np.unique(labels[labels > 0], return_counts=True)
                    frequency.update(found.tolist())
                    coverage.update(dict(zip(found.tolist(), (pixels / labels.size).tolist(), strict=True)))
                    file_name = f"{name[:-4]}_{category}.png"
                    row.append(int(labels[0, 0]) if whole else _save_map(labels, out, file_name))
                table.writerow(row)
    _broden_tables(out, names, numbers, frequency, coverage)


def _broden_tables(
    out: Path,
    names: dict[str, tuple[str, ...]],
    numbers: dict[str, np.ndarray],
    frequency: Counter[int],
    coverage: Counter[int],
) -> None:
    labels, categories = [], []
    for category, values in names.items():
        own = []
        for code, (number, name) in enumerate(zip(numbers[category][1:].tolist(), values, strict=True), 1):
            share = round(coverage[number] / max(1, frequency[number]), 6)
            count = frequency[number]
            labels.append([number, name, f"{category}({count})", count, share, ""])
            own.append([code, number, name, count, share])
        _csv(out / f"c_{category}.csv", ["code", "number", "name", "frequency", "coverage"], own)
        low, high = int(numbers[category][1]), int(numbers[category][-1])
        categories.append([category, low, high, len(values), sum(row[3] for row in own)])
    _csv(out / "label.csv", ["number", "name", "category", "frequency", "coverage", "syns"], labels)
    _csv(out / "category.csv", ["name", "first", "last", "count", "frequency"], categories)


def _save_map(labels: np.ndarray, out: Path, name: str) -> str:
    rgb = np.zeros((*labels.shape, 3), np.uint8)
    rgb[..., 0], rgb[..., 1] = labels % 256, labels // 256
    PIL.Image.fromarray(rgb).save(out / "images" / name)
    return name


def _batches(world: ShapesWorld, texts: int) -> Iterator[WorldBatch]:
    for start in range(0, len(world), 256):
        yield world.batch(range(start, min(start + 256, len(world))), texts=texts)


def _save_images(batch: WorldBatch, out: Path) -> list[str]:
    names = [f"{i:07d}.png" for i in batch.indices.tolist()]
    for name, image in zip(names, batch.images, strict=True):
        PIL.Image.fromarray(image).save(out / "images" / name)
    return names


def _whole(out: str | Path, write: Callable[[Path], None]) -> Path:
    """What `write` puts into a folder beside `out` takes that name when all is there."""
    out = Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ArgumentError(f"export: got {out}, which has content; expected an empty or new folder")
    staged = out.with_name(f".{out.name}.unfinished")
    shutil.rmtree(staged, ignore_errors=True)  # of a run that was killed
    (staged / "images").mkdir(parents=True)
    try:
        write(staged)
    except BaseException:
        shutil.rmtree(staged)
        raise
    staged.replace(out)
    return out


def _csv(path: Path, header: list[str], rows: list[list[Any]]) -> None:
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content), encoding="utf-8")
