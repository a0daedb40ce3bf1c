"""NetDissect's published tables: from their counts of pixels come their IoUs, labels and detectors."""

import csv
from dataclasses import dataclass

import numpy as np
import pytest

from mmxai.concepts.types import Concept, numbered
from mmxai.methods.dissect.controls import choose
from mmxai.methods.dissect.counts import Counts
from mmxai.methods.dissect.results import Dissection

# Detectors with IoU > 0.04 and the labels that these have between them.
PUBLISHED = {
    "resnet18_places365_layer4": (434, 187),
    "resnet50_imagenet_layer4": (1355, 186),
    "resnet50_imagenet_layer3": (276, 76),
    "resnet50_imagenet_layer2": (62, 19),
    "resnet50_imagenet_layer1": (61, 20),
}
OTHERS = ["resnet18_places365_layer1", "resnet18_places365_fc", "resnet50_imagenet_fc"]


@dataclass
class Table:
    """A published table, and its counts in ours. Each unit's best label in every category is all that they
    tell; they leave it out where it is none."""

    rows: list[dict[str, str]]
    categories: tuple[str, ...]
    concepts: tuple[Concept, ...]
    counts: Counts

    @classmethod
    def read(cls, path):
        with open(path, newline="") as file:
            rows = list(csv.DictReader(file))
        columns = [name.removesuffix("-truth") for name in rows[0] if name.endswith("-truth")]
        pairs = sorted(
            {(r[f"{c}-label"], c) for r in rows for c in columns if r[f"{c}-label"]},
            key=lambda pair: (columns.index(pair[1]), pair[0]),
        )
        concepts, categories = numbered(pairs, str(path))
        assert list(categories) == columns
        place = {(c.name, c.category): c.number for c in concepts}
        counts = Counts.zeros(
            len(rows), np.array([columns.index(c.category) for c in concepts]), len(columns), False
        )
        counts.fired[:] = 1000
        for unit, row in enumerate(rows):
            for k, category in enumerate(columns):
                counts.table[unit, len(concepts) + k] = int(row[f"{category}-activation"])
                if row[f"{category}-label"]:
                    concept = place[row[f"{category}-label"], category]
                    counts.table[unit, concept] = int(row[f"{category}-intersect"])
                    truth = int(row[f"{category}-truth"])
                    assert counts.label[concept] in (0, truth), "one label, one area"
                    counts.label[concept] = truth
        return cls(rows, categories, concepts, counts)

    def dissection(self):
        candidates = choose(self.counts, "annotated", 1)
        own = self.counts.iou("annotated")[np.arange(len(self.rows)), candidates[:, 0]][:, None]
        none, units = np.full(own.shape, np.nan), len(self.rows)
        return Dissection(
            "layer", "channel", self.concepts, self.categories, "bilinear", "annotated",
            np.zeros(units, np.float32), "published", candidates, own, none, none, 0.95,
            np.ones(len(self.concepts)), np.zeros((units, 0), np.int64), np.zeros((units, 0), np.float32),
            self.counts, self.counts, 0.0,
        )  # fmt: skip


@pytest.fixture(scope="module")
def tables(shared_data):
    return {name: Table.read(shared_data / f"netdissect_tables/{name}.csv") for name in [*PUBLISHED, *OTHERS]}


@pytest.mark.parametrize("name", [*PUBLISHED, *OTHERS])
def test_every_iou(tables, name):
    """Of each unit with its best concept in each of six categories, to the digits that are printed."""
    table = tables[name]
    iou = table.counts.iou("annotated")
    place = {(c.name, c.category): c.number for c in table.concepts}
    compared = 0
    for unit, row in enumerate(table.rows):
        for category in table.categories:
            if label := row[f"{category}-label"]:
                printed = row[f"{category}-iou"]
                expected, found = float(printed), iou[unit, place[label, category]]
                # Nine decimals; below 1e-4 three digits ("9.38E-05").
                assert abs(found - expected) <= (0.005 * expected if "E" in printed else 5.01e-10)
                compared += 1
    assert compared > 0.9 * len(table.rows) * len(table.categories)


@pytest.mark.parametrize("name", [*PUBLISHED, *OTHERS])
def test_every_label(tables, name):
    table = tables[name]
    found = table.dissection()
    best = {category: found.category_best(category) for category in table.categories}
    for unit, row in enumerate(table.rows):
        concept = table.concepts[found.label[unit]]
        assert (concept.name, concept.category) == (row["label"], row["category"])
        assert abs(found.best[unit] - float(row["score"])) <= 5.01e-10
        for category, own in best.items():
            label = table.concepts[own[unit]].name if own[unit] >= 0 else ""
            assert label == row[f"{category}-label"] or float(row[f"{category}-iou"]) == 0


@pytest.mark.parametrize("name", PUBLISHED)
def test_detectors_and_their_labels(tables, name):
    found = tables[name].dissection()
    assert (int(found.detectors(0.04).sum()), found.unique(0.04)) == PUBLISHED[name]
    by_category = found.by_category(0.04)
    assert sum(n for labels in by_category.values() for n in labels.values()) == PUBLISHED[name][0]
    assert sum(len(labels) for labels in by_category.values()) == PUBLISHED[name][1]
