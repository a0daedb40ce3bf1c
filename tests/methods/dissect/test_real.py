"""Real networks over real photographs: counts against an independent recount, detectors against controls."""

import json

import numpy as np
import pytest
import torch

import mmxai
from mmxai.concepts import open_concepts
from mmxai.methods.dissect import DissectConfig, dissect
from tests.networks import resnet, tiny_darknet
from tests.networks.photographs import annotated

HELD_OUT = DissectConfig(held_out=0.5, bootstrap=50, correlation=False)


def harvested(network, pipeline, photos, sites, path):
    model = mmxai.wrap(network, prepare=pipeline, name="network")
    mmxai.harvest(
        model, photos, sites=sites, store=path, store_dtype="float32", batch_size=16, progress=False
    )
    return mmxai.open_store(path)


@pytest.fixture(scope="module")
def photos(shared_data, tmp_path_factory):
    torch.set_num_threads(1)
    return annotated(shared_data / "coco_mini", tmp_path_factory.mktemp("photographs"))


@pytest.fixture(scope="module")
def darknets(shared_data, photos, tmp_path_factory):
    """Stores of the trained network and of one of random weights."""
    home, sites = tmp_path_factory.mktemp("darknets"), ["module:act10", "module:act14", "module:conv16"]
    torch.manual_seed(0)
    networks = {
        "trained": tiny_darknet.load_tiny_darknet(shared_data / "tiny_darknet"),
        "untrained": tiny_darknet.TinyDarknet().eval(),
    }
    made = {
        name: harvested(network, tiny_darknet.pipeline(), photos, sites, home / f"{name}.zarr")
        for name, network in networks.items()
    }
    yield made
    for store in made.values():
        store.close()


@pytest.fixture(scope="module")
def found(darknets, shared_data):
    concepts = open_concepts(shared_data / "coco_mini", darknets["trained"])
    return dissect(darknets["trained"], concepts, HELD_OUT, untrained=darknets["untrained"])


def recount(coco, store, site, units, threshold, category):
    """Pixels of masks, of a category and of both, photograph by photograph, from COCO's own tools and the
    geometry of a resize to 224 pixels and a crop of the middle: `[units]`, one number, `[units]`."""
    mask = pytest.importorskip("pycocotools.mask")
    space, values = store[site].space, store[site][:, units].numpy()
    rows = store.rows[space][:]
    side = int(space.partition(".")[2].partition("x")[0])
    by_file = {}
    for path in coco.glob("annotations/instances_*.json"):
        told = json.loads(path.read_text())
        wanted = next(c["id"] for c in told["categories"] if c["name"] == category)
        for image in told["images"]:
            own = [
                a for a in told["annotations"] if (a["image_id"], a["category_id"]) == (image["id"], wanted)
            ]
            by_file[image["file_name"]] = (image, own)
    inter, area, label = np.zeros(len(units), np.int64), np.zeros(len(units), np.int64), 0
    for sample in store.samples:
        image, objects = by_file[sample.key.rpartition("/")[2]]
        height, width = image["height"], image["width"]
        thing = np.zeros((height, width), bool)
        for one in objects:
            runs = mask.frPyObjects(one["segmentation"], height, width)
            thing |= mask.decode(mask.merge(runs) if isinstance(runs, list) else runs).astype(bool)
        short = min(height, width)
        resized = [int(224 * n / short) if n != short else 224 for n in (height, width)]
        cells = []
        for pixels, size in zip((height, width), resized, strict=True):
            at = ((np.arange(pixels) + 0.5) * size / pixels - (size - 224) // 2) / (224 / side)
            cells.append(np.where((at >= 0) & (at < side), np.floor(at), -1).astype(int))
        seen = (cells[0] >= 0)[:, None] & (cells[1] >= 0)
        label += int((thing & seen).sum())
        own = (rows.sample == sample.sample).numpy()
        grid = np.zeros((side, side, len(units)), bool)
        grid[rows.y.numpy()[own], rows.x.numpy()[own]] = values[own] > threshold
        pixels = grid[cells[0][:, None], cells[1]] & seen[..., None]
        area += pixels.sum((0, 1))
        inter += (pixels & thing[..., None]).sum((0, 1))
    return inter, label, area


@pytest.mark.parametrize("site, concept", [("module:act14", "zebra"), ("module:act10", "person")])
def test_counts_are_those_of_a_plain_loop(found, darknets, shared_data, site, concept):
    one = found.sites[site]
    units = np.argsort(-one.best)[:8]
    number = next(c.number for c in one.concepts if c.name == concept)
    counts = one.counts
    inter, label, area = recount(
        shared_data / "coco_mini", darknets["trained"], site, units, one.threshold[units], concept
    )
    assert counts.pictures == 159
    assert counts.truth[number] == label > 0
    assert counts.unit[units].tolist() == area.tolist()
    assert counts.inter[units, number].tolist() == inter.tolist()
    assert inter.any()


def test_a_trained_network_has_detectors_that_hold(found):
    """Labels chosen on one half of the photographs, scored on the other. Deep channels detect things; an
    untrained network's and labels of other photographs give next to none."""
    deep, middle = found.sites["module:act14"], found.sites["module:act10"]
    real = int(deep.detectors().sum())
    assert real > 50
    assert deep.unique() > 15
    assert real / deep.units > 3 * int(middle.detectors().sum()) / middle.units
    assert deep.controls["shuffled"].detectors(0.04) < real / 8
    assert deep.controls["untrained"].detectors(0.04) < real / 8
    assert deep.controls["rotated"].detectors(0.04) < real
    assert deep.controls["rotated"].unique(0.04) < deep.unique(), "its mixtures find the same few things"
    best = {deep.concepts[deep.label[u]].name for u in np.argsort(-deep.best)[:20]}
    assert {"zebra", "elephant"} & best or "dog" in best, best
    sure = (deep.low[:, 0] > 0.04) & deep.detectors()
    assert 0 < sure.sum() < real / 2, "80 photographs leave wide intervals"


def test_logits_are_named_as_the_network_was_taught(found, shared_data):
    """Units whose name is known: maps of classes, of which the dissection knows nothing."""
    taught = {
        "zebra": "zebra", "ice bear": "bear", "television": "tv", "monitor": "tv", "broccoli": "broccoli",
        "Newfoundland": "dog", "laptop": "laptop",
    }  # fmt: skip
    names = tiny_darknet.class_names(shared_data)
    logits = found.sites["module:conv16"]
    for word, concept in taught.items():
        unit = next(k for k, name in enumerate(names) if name.startswith(word))
        assert logits.concepts[logits.label[unit]].name == concept
        assert logits.detectors()[unit]


def test_resnet_of_small_pictures_sees_little(shared_data, photos, tmp_path):
    """ResNet-20 of CIFAR-10, whose classes are few and whose pictures were 32 x 32: hardly a detector."""
    network = resnet.load_resnet20(shared_data / "resnet_cifar10")
    sites = ["module:layer1.2", "module:layer3.2"]
    with harvested(network, resnet.pipeline(64), photos, sites, tmp_path / "a.zarr") as store:
        found = dissect(store, open_concepts(shared_data / "coco_mini", store), HELD_OUT)
    first, last = (found.sites[site] for site in sites)
    assert (first.units, last.units) == (16, 64)
    assert first.detectors().sum() <= 1
    assert last.best.max() > first.best.max()
    car = last.concepts[last.label[last.best.argmax()]]
    assert car.category == "vehicle", car
