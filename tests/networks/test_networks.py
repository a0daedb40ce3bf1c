"""The real networks: loaded right, and their maps lie where the pictures say."""

import numpy as np
import pytest
import torch
from PIL import Image

import mmxai
from mmxai.concepts import open_concepts
from mmxai.models.geometry import pixel_cells
from tests.networks import resnet, tiny_darknet
from tests.networks.photographs import annotated

LIKE = {  # COCO's category: a word of the ImageNet class that is that thing
    "zebra": "zebra", "pizza": "pizza", "bear": "brown bear", "bed": "four-poster", "toilet": "toilet seat",
    "tv": "television", "laptop": "laptop", "keyboard": "computer keyboard", "microwave": "microwave",
    "elephant": "African elephant", "skis": "ski", "traffic light": "traffic light", "train": "passenger car",
    "bus": "trolleybus", "airplane": "airliner", "vase": "vase", "baseball bat": "ballplayer",
    "refrigerator": "refrigerator", "tennis racket": "racket", "cat": "tabby",
}  # fmt: skip


@pytest.fixture(scope="module")
def darknet(shared_data, tmp_path_factory):
    """Harvested: the maps of classes, of every photograph that has masks."""
    torch.set_num_threads(1)
    photos = shared_data / "coco_mini"
    model = mmxai.wrap(
        tiny_darknet.load_tiny_darknet(shared_data / "tiny_darknet"),
        prepare=tiny_darknet.pipeline(), name="tiny_darknet",
    )  # fmt: skip
    store = tmp_path_factory.mktemp("darknet") / "acts.zarr"
    folder = annotated(photos, tmp_path_factory.mktemp("photographs"))
    mmxai.harvest(
        model, folder, sites=["module:conv16"], store=store, store_dtype="float32",
        batch_size=16, progress=False,
    )  # fmt: skip
    with mmxai.open_store(store) as opened:
        yield opened, open_concepts(photos, opened)


@pytest.fixture(scope="module")
def classes(shared_data):
    return tiny_darknet.class_names(shared_data)


def test_parameters(shared_data):
    """As published: 1.0 and 0.27 million."""
    count = sum(p.numel() for p in tiny_darknet.load_tiny_darknet(shared_data / "tiny_darknet").parameters())
    assert count == 1_042_104
    assert (
        sum(p.numel() for p in resnet.load_resnet20(shared_data / "resnet_cifar10").parameters()) == 269_722
    )


def test_tiny_darknet_sees_what_is_there(darknet, classes):
    """The logits of a class rank the photographs that have the thing first."""
    store, concepts = darknet
    maps = store["module:conv16"][:].reshape(-1, 196, 1000)
    samples = store.rows["module.14x14"][:].sample.reshape(-1, 196)[:, 0].tolist()
    logits = maps.mean(1)
    present = np.zeros((len(samples), len(concepts)), bool)
    for row, sample in zip(present, samples, strict=True):
        row[concepts.labels(sample).present()] = True
    areas = []
    for name, word in LIKE.items():
        has = torch.from_numpy(present[:, concepts.number(name)])
        if has.sum() >= 2:
            score = logits[:, _class(classes, word)]
            areas.append((score[has][:, None] > score[~has]).float().mean().item())
    assert len(areas) >= 12
    assert np.mean(areas) > 0.85, areas


def test_class_maps_lie_on_the_masks(darknet, classes):
    """IoU of class maps with COCO's masks, cells taken to pixels by the stored tiles; with left and right
    exchanged each loses some of it, though things stand in the middle of photographs."""
    store, concepts = darknet
    space = store["module:conv16"].space
    assert space == "module.14x14"
    rows = store.rows[space][:]
    order = torch.from_numpy(np.lexsort((rows.x, rows.y, rows.sample)))
    maps = store["module:conv16"].gather(order).reshape(-1, 14, 14, 1000).numpy()
    samples = rows.sample[order].reshape(-1, 196)[:, 0].tolist()
    found = {}
    masks = [concepts.labels(sample) for sample in samples]
    for name in ("zebra", "pizza", "elephant", "train", "bus"):
        values, concept = maps[..., _class(classes, LIKE[name])], concepts.number(name)
        things, cells, pixels = [], [], 0
        for sample, labels in zip(samples, masks, strict=True):
            stored = store.samples[sample]
            y, x = pixel_cells(stored.tile_in(space), stored.size, labels.shape)
            seen = np.ix_(y >= 0, x >= 0)
            things.append(labels.mask(concept)[seen])
            cells.append(np.ix_(y[y >= 0], x[x >= 0]))
            pixels += things[-1].size
        threshold = np.quantile(values, 1 - sum(t.sum() for t in things) / pixels)
        found[name] = [_iou(values[..., ::step] > threshold, cells, things) for step in (1, -1)]
    assert all(own > flipped for own, flipped in found.values()), found
    own, flipped = np.mean(list(found.values()), 0)
    assert own > 0.15 and own > 1.2 * flipped, found


def _iou(grids, cells, things):
    masks = [grid[at] for grid, at in zip(grids, cells, strict=True)]
    inter = sum(int((m & t).sum()) for m, t in zip(masks, things, strict=True))
    return inter / sum(int((m | t).sum()) for m, t in zip(masks, things, strict=True))


def _class(classes, word):
    return next(k for k, label in enumerate(classes) if label.startswith(word))


def test_resnet_maps_and_their_tiles(shared_data, tmp_path):
    """Values against plain hooks; tiles of three grids of one picture say the same places."""
    network = resnet.load_resnet20(shared_data / "resnet_cifar10")
    paths = sorted((shared_data / "coco_mini" / "train2017").glob("*.jpg"))[:6]
    images = [Image.open(path).convert("RGB") for path in paths]
    model = mmxai.wrap(network, prepare=resnet.pipeline(64), name="resnet20")
    sites = ["module:layer1.2", "module:layer2.2", "module:layer3.2"]
    mmxai.harvest(
        model, images, sites=sites, store=tmp_path / "a.zarr", store_dtype="float32", progress=False
    )
    with mmxai.open_store(tmp_path / "a.zarr") as store:
        for site, side in zip(sites, (64, 32, 16), strict=True):
            space = store[site].space
            assert space == f"module.{side}x{side}"
            kept = []
            hook = network.get_submodule(site.removeprefix("module:")).register_forward_hook(
                lambda m, a, out, kept=kept: kept.append(out)
            )
            with torch.no_grad():
                network(
                    torch.stack(
                        [resnet.normalise(i.resize((64, 64), Image.Resampling.BICUBIC)) for i in images]
                    )
                )
            hook.remove()
            rows = store.rows[space][:]
            expected = kept[0][rows.sample.long(), :, rows.y.long(), rows.x.long()]
            torch.testing.assert_close(store[site][:], expected, rtol=1e-4, atol=1e-4)
            for sample, image in enumerate(images):
                tile = store.samples[sample].tile_in(space)
                y, x = pixel_cells(tile, image.size, (image.height, image.width))
                # The cell that a pixel's centre is in, in whole numbers.
                centres = (2 * np.arange(image.height) + 1) * side // (2 * image.height)
                assert np.array_equal(y, centres)
                assert np.array_equal(x, (2 * np.arange(image.width) + 1) * side // (2 * image.width))
