"""NetDissect-Lite's loop (Bau et al. 2017) written out, on a Broden folder: the same IoUs and labels."""

import csv

import numpy as np
import pytest
import torch
from PIL import Image

import mmxai
from mmxai.concepts import open_concepts
from mmxai.methods.dissect import DissectConfig, dissect
from mmxai.shapes import ShapesWorld
from mmxai.shapes.export import export_broden, export_folder
from tests.networks import resnet

SITE, PICTURES, SIZE = "module:layer2.2", 48, 64
CATEGORIES = ("color", "object", "texture", "scene")


@pytest.fixture(scope="module")
def broden(tmp_path_factory):
    """Shapes in Broden's layout, a third of them without annotated textures; and the pictures alone."""
    home = tmp_path_factory.mktemp("broden")
    world = ShapesWorld(PICTURES, seed=5, size=SIZE)
    export_folder(world, home / "pictures")
    export_broden(world, home / "broden")
    path = home / "broden" / "index.csv"
    rows = list(csv.DictReader(path.open()))
    for row in rows[::3]:
        row["texture"] = ""
    with path.open("w", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)
    return home, rows


def netdissect(network, home, rows, threshold):
    """IoU of every unit with every label `[units, labels]` of NetDissect-Lite: a unit's area counts in the
    pictures in which the label's category is annotated. Its labels by number, 0 unused."""
    kept = []
    hook = network.get_submodule(SITE.removeprefix("module:")).register_forward_hook(
        lambda m, a, out: kept.append(out)
    )
    labels = list(csv.DictReader((home / "broden" / "label.csv").open()))
    category_of = np.array([-1] + [CATEGORIES.index(r["category"].partition("(")[0]) for r in labels])
    both = np.zeros((len(threshold), len(category_of)))
    unit = np.zeros((len(threshold), len(CATEGORIES)))
    truth = np.zeros(len(category_of))
    for row in rows:
        picture = Image.open(home / "pictures" / "images" / row["image"]).convert("RGB")
        with torch.no_grad():
            network(resnet.normalise(picture)[None])
        up = torch.nn.functional.interpolate(
            kept.pop(), (int(row["sh"]), int(row["sw"])), mode="bilinear", align_corners=False
        )[0]
        mask = (up > threshold[:, None, None]).numpy()
        for k, category in enumerate(CATEGORIES):
            if not row[category]:
                continue
            unit[:, k] += mask.sum((1, 2))
            if row[category].isdecimal():
                numbers = np.full(mask.shape[1:], int(row[category]))
            else:
                pixels = np.array(Image.open(home / "broden" / "images" / row[category])).astype(int)
                numbers = pixels[..., 0] + 256 * pixels[..., 1]
            for number in np.unique(numbers[numbers > 0]):
                truth[number] += (numbers == number).sum()
                both[:, number] += mask[:, numbers == number].sum(1)
    hook.remove()
    return both / (unit[:, category_of] + truth - both + 1e-10), truth


def test_it_is_netdissect(shared_data, broden, tmp_path):
    home, rows = broden
    torch.set_num_threads(1)
    network = resnet.load_resnet20(shared_data / "resnet_cifar10")
    model = mmxai.wrap(network, prepare=resnet.pipeline(SIZE), name="resnet20")
    mmxai.harvest(
        model, home / "pictures" / "images", sites=[SITE], store=tmp_path / "a.zarr",
        store_dtype="float32", progress=False,
    )  # fmt: skip
    with mmxai.open_store(tmp_path / "a.zarr") as store:
        concepts = open_concepts(home / "broden", store)
        config = DissectConfig(
            mode="bilinear", area="annotated", quantile=0.02, exact=True, bootstrap=0, controls=()
        )
        found = dissect(store, concepts, config).sites[SITE]
    wanted, truth = netdissect(network, home, rows, torch.from_numpy(found.threshold))
    # Broden's numbers run over the categories in this order, from 1 on, as ours from 0.
    assert [c.name for c in found.concepts] == [
        r["name"] for r in csv.DictReader((home / "broden" / "label.csv").open())
    ]
    iou, wanted = found.counts.iou("annotated"), wanted[:, 1:]
    assert found.counts.truth.tolist() == truth[1:].tolist()
    # Interpolated values within rounding of a threshold may fall on either side: a pixel or two of thousands.
    np.testing.assert_allclose(iou, wanted, atol=5e-5)
    sure = np.sort(wanted, 1)[:, -1] - np.sort(wanted, 1)[:, -2] > 1e-3
    assert sure.sum() > 20
    assert (found.label == wanted.argmax(1))[sure].all()
    everywhere = found.counts.iou("everywhere")
    texture = [c.category == "texture" for c in found.concepts]
    assert (iou[:, texture] >= everywhere[:, texture]).all() and (
        iou[:, texture] > everywhere[:, texture]
    ).any()
