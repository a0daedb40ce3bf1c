"""Tables in the columns in which network dissections have been published: a row a unit, a block a category.

NetDissect's `tally.csv`: unit (from 1), category, label, score (the best of all categories), then of every
category the label of highest IoU: `<category>-label`, `-truth` (pixels of the label), `-activation` (pixels
of the mask, in pictures annotated for the category), `-intersect` and `-iou`.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mmxai.errors import DataError
from mmxai.methods.dissect import measures
from mmxai.methods.dissect.results import Dissection

if TYPE_CHECKING:
    import pandas

_FIELDS = ("label", "truth", "activation", "intersect", "iou")


@dataclass(frozen=True)
class PublishedTable:
    """Units of a table, by category: `label` str `[U]` ("" where the table has none), `truth`, `activation`,
    `intersect` int64 `[U]`, `iou` float64 `[U]` as printed; and of each unit `best`, the label of highest
    score, its `category` and `score`."""

    unit: np.ndarray
    best: np.ndarray
    category: np.ndarray
    score: np.ndarray
    label: dict[str, np.ndarray]
    truth: dict[str, np.ndarray]
    activation: dict[str, np.ndarray]
    intersect: dict[str, np.ndarray]
    iou: dict[str, np.ndarray]

    @property
    def categories(self) -> list[str]:
        return list(self.label)

    def recomputed(self, category: str) -> np.ndarray:
        """IoUs of a category from its counts, float64 `[U]`."""
        return measures.iou(self.intersect[category], self.activation[category], self.truth[category])

    def labels(self) -> tuple[np.ndarray, np.ndarray]:
        """Of each unit the label of highest IoU of all categories, and that IoU, from the counts alone."""
        every = np.stack([self.recomputed(name) for name in self.categories], 1)
        best = every.argmax(1)
        rows = np.arange(len(every))
        names = np.stack([self.label[name] for name in self.categories], 1)
        return names[rows, best], every[rows, best]

    def detectors(self, level: float = 0.04) -> tuple[int, int]:
        """How many units are above that IoU, and how many labels they have between them."""
        label, iou = self.labels()
        above = iou > level
        return int(above.sum()), len(set(label[above].tolist()))


def published(found: Dissection) -> pandas.DataFrame:
    """A dissection in the published columns. Truth, activation, intersect and IoU are of the pictures on
    which it was scored; labels are those of highest IoU on the pictures on which they were chosen. Logical
    forms, where they were searched for, are at the end."""
    import pandas

    counts, rows = found.scored, np.arange(found.units)
    blocks: dict[str, Any] = {}
    scores, names = [], []
    for category in found.categories:
        own = found.category_best(category)
        some, at = own >= 0, np.maximum(own, 0)
        area = counts.area(found.definition)
        activation = area[:, 0] if area.shape[1] == 1 else area[rows, at]
        inter, truth = counts.inter[rows, at], counts.truth[at]
        name = np.array([found.concepts[k].name if k >= 0 else "" for k in own], object)
        iou = np.where(some, measures.iou(inter, activation, truth), 0.0)
        values = (name, np.where(some, truth, 0), activation, np.where(some, inter, 0), iou)
        blocks |= {f"{category}-{field}": value for field, value in zip(_FIELDS, values, strict=True)}
        scores.append(iou)
        names.append(name)
    own = found.label
    told = [found.concepts[k] if k >= 0 else None for k in own]
    head = {
        "unit": rows + 1, "category": ["" if c is None else c.category for c in told],
        "label": ["" if c is None else c.name for c in told], "score": found.best,
    }  # fmt: skip
    forms = {} if found.forms is None else found.forms.columns(found.concepts, "-")
    return pandas.DataFrame({**head, **blocks, **forms})


def write_published(found: Dissection, path: str | Path) -> Path:
    """`published` as CSV, scores with nine digits."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    staged = path.with_suffix(".csv.tmp")
    published(found).to_csv(staged, index=False, float_format="%.9g")
    staged.replace(path)
    return path


def read_published(path: str | Path) -> PublishedTable:
    """A table in the published columns; DataError where it is none."""
    path = Path(path)
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            columns, lines = reader.fieldnames or [], list(reader)
    except (OSError, csv.Error, UnicodeDecodeError) as error:
        raise DataError(f"{path}: {error}, expected a CSV table of a dissection") from error
    categories = [c.removesuffix("-label") for c in columns if c.endswith("-label")]
    wanted = ["unit", "category", "label", "score"] + [f"{c}-{f}" for c in categories for f in _FIELDS]
    if missing := sorted(set(wanted) - set(columns)) or ([] if categories else ["<category>-label"]):
        raise DataError(f"{path}: got no columns {missing[:6]}, expected those of a published dissection")

    def numbers(column: str, dtype: type) -> np.ndarray:
        try:
            return np.array([dtype(float(line[column] or 0)) for line in lines])
        except (ValueError, TypeError) as error:
            raise DataError(f"{path}: column {column!r}: {error}, expected numbers") from error

    def texts(column: str) -> np.ndarray:
        return np.array([line[column] or "" for line in lines], object)

    def of_each(field: str, kind: type) -> dict[str, np.ndarray]:
        return {c: numbers(f"{c}-{field}", kind) for c in categories}

    return PublishedTable(
        numbers("unit", int), texts("label"), texts("category"), numbers("score", float),
        {c: texts(f"{c}-label") for c in categories}, of_each("truth", int), of_each("activation", int),
        of_each("intersect", int), of_each("iou", float),
    )  # fmt: skip


def layer_table(found: Sequence[Dissection]) -> pandas.DataFrame:
    """A row a site: units, detectors, labels they have, by category, and what controls reach."""
    import pandas

    rows = []
    for one in found:
        detectors = one.detectors()
        row: dict[str, Any] = {
            "site": one.site, "units": one.units, "detectors": int(detectors.sum()), "labels": one.unique(),
            "dead": int(one.dead.sum()), "rare": int(one.rare.sum()),
            "mean iou": float(one.best.mean()) if one.units else np.nan,
        }  # fmt: skip
        for category, labels in one.by_category().items():
            row |= {f"{category} detectors": sum(labels.values()), f"{category} labels": len(labels)}
        for name, c in one.controls.items():
            row |= {f"{name} detectors": c.detectors(one.level), f"{name} labels": c.unique(one.level)}
        rows.append(row)
    return pandas.DataFrame(rows)
