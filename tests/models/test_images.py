"""Pixels equal the processor's own; the map to grid cells is where they really went."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers.models.bit.image_processing_pil_bit import BitImageProcessorPil
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.convnext.image_processing_pil_convnext import ConvNextImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from mmxai.data import Sample, open_data
from mmxai.errors import ArgumentError, ModelError, UnreadableSampleError
from mmxai.models import geometry
from mmxai.models.images import ImagePipeline

NEAREST = Image.Resampling.NEAREST
PROCESSORS = {
    "clip": CLIPImageProcessorPil(),
    "clip_small": CLIPImageProcessorPil(size={"shortest_edge": 64}, crop_size={"height": 64, "width": 64}),
    "crop_rectangle": CLIPImageProcessorPil(
        size={"shortest_edge": 70}, crop_size={"height": 48, "width": 96}
    ),
    "crop_pads": CLIPImageProcessorPil(size={"shortest_edge": 50}, crop_size={"height": 81, "width": 64}),
    "crop_only": CLIPImageProcessorPil(do_resize=False, crop_size={"height": 65, "width": 40}),
    "vit": ViTImageProcessorPil(),
    "dinov2": BitImageProcessorPil(
        size={"shortest_edge": 256}, image_mean=[0.485, 0.456, 0.406], image_std=[0.229, 0.224, 0.225]
    ),
    "siglip": SiglipImageProcessorPil(size={"height": 96, "width": 128}),
    "edges": ViTImageProcessorPil(size={"shortest_edge": 60, "longest_edge": 100}),
    "within": ViTImageProcessorPil(size={"max_height": 64, "max_width": 96}),
    "pads": ViTImageProcessorPil(
        size={"max_height": 64, "max_width": 96}, do_pad=True, pad_size={"height": 64, "width": 96}
    ),
    "no_rescale": CLIPImageProcessorPil(do_rescale=False),
    "no_normalize": CLIPImageProcessorPil(do_normalize=False),
    "nothing": ViTImageProcessorPil(do_resize=False, do_rescale=False, do_normalize=False),
}
SIZES = [(64, 64), (97, 64), (64, 97), (31, 200), (201, 33), (640, 427), (1, 1)]


def picture(width, height, seed=0):
    values = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


@pytest.mark.parametrize("name", PROCESSORS)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_pixels_equal_the_processors_own(name, size):
    processor = PROCESSORS[name]
    image = picture(*size)
    ours = ImagePipeline(processor, patch=16)(image)
    theirs = processor(image, return_tensors="pt")["pixel_values"][0]
    assert ours.pixels.dtype == theirs.dtype
    assert torch.equal(ours.pixels, theirs)
    assert ours.size == size
    assert ours.tiles[0]["grid"] == [theirs.shape[1] // 16, theirs.shape[2] // 16]


@settings(max_examples=60, deadline=None)
@given(
    name=st.sampled_from(["clip_small", "crop_rectangle", "crop_pads", "crop_only", "edges", "pads"]),
    width=st.integers(1, 150),
    height=st.integers(1, 150),
)
def test_pixels_equal_for_any_size(name, width, height):
    image = picture(width, height)
    pipeline = ImagePipeline(PROCESSORS[name])
    if min(pipeline.place(width, height).resized) < 1:
        with pytest.raises(UnreadableSampleError, match="thin: got a picture of"):
            pipeline(image, key="thin")
        return
    theirs = PROCESSORS[name](image, return_tensors="pt")["pixel_values"][0]
    assert torch.equal(pipeline(image).pixels, theirs)


def lit(pixels):
    """Rows and columns of the input that are white, as half-open ranges."""
    white = (pixels[0] > 0.5).numpy()
    ys, xs = np.flatnonzero(white.any(axis=1)), np.flatnonzero(white.any(axis=0))
    return xs[0], ys[0], xs[-1] + 1, ys[-1] + 1


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_a_white_box_lands_where_the_map_says(data):
    """In input pixels (patch 1), within the half pixel that nearest-neighbour sampling rounds."""
    width, height = data.draw(st.integers(20, 300)), data.draw(st.integers(20, 300))
    edge, ch, cw = (data.draw(st.integers(16, 80)) for _ in range(3))
    processor = CLIPImageProcessorPil(
        size={"shortest_edge": edge},
        crop_size={"height": ch, "width": cw},
        resample=NEAREST,
        do_normalize=False,
    )
    pipeline = ImagePipeline(processor)
    x0, y0 = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    x1, y1 = data.draw(st.integers(x0 + 1, width)), data.draw(st.integers(y0 + 1, height))
    values = np.zeros((height, width, 3), dtype=np.uint8)
    values[y0:y1, x0:x1] = 255
    out = pipeline(Image.fromarray(values))
    corners = geometry.apply(out.tiles[0]["affine"], [[x0, y0], [x1, y1]])
    # A pixel is white if its centre maps into the box.
    first, stop = np.ceil(corners - 0.5).astype(int)
    expected = np.zeros((ch, cw), dtype=bool)
    expected[max(0, first[1]) : max(0, stop[1]), max(0, first[0]) : max(0, stop[0])] = True
    white = (out.pixels[0] > 0.5).numpy()
    ties = np.any(np.abs(corners % 1 - 0.5) < 1e-6)  # a centre exactly on the edge may go either way
    if not ties:
        assert (white == expected).all()


@pytest.mark.parametrize("size", [(448, 448), (896, 448), (448, 1120), (576, 448)], ids=str)
def test_box_cells_are_exactly_the_bright_cells(size):
    """Pictures at twice the input's scale, boxes on the grid: bright cells are full, others dark."""
    width, height = size
    pipeline = ImagePipeline(
        CLIPImageProcessorPil(resample=Image.Resampling.BOX, do_normalize=False), patch=32
    )
    tile = pipeline.tile(width, height)
    assert tile["grid"] == [7, 7]
    box = geometry.cell_box(tile, 2, 1)
    box = (*box[:2], *geometry.cell_box(tile, 4, 5)[2:])
    x0, y0, x1, y1 = (round(v) for v in box)
    assert np.allclose(box, (x0, y0, x1, y1))
    values = np.zeros((height, width, 3), dtype=np.uint8)
    values[y0:y1, x0:x1] = 255
    out = pipeline(Image.fromarray(values))
    bright = out.pixels[0].reshape(7, 32, 7, 32).mean(dim=(1, 3))
    cells = geometry.box_cells(tile, box)
    assert cells == [(y, x) for y in range(2, 5) for x in range(1, 6)]
    assert [(int(y), int(x)) for y, x in torch.nonzero(bright > 0)] == cells
    assert all(bright[y, x] == 1 for y, x in cells)
    mask = values[..., 0] > 0
    assert np.allclose(geometry.mask_cells(tile, mask), bright.numpy())


def test_mask_shares_equal_area_resampled_pictures():
    """A random mask through the pipeline with area resampling has, per cell, the mapped mask's share."""
    mask = np.random.default_rng(0).random((150, 275)) > 0.5
    processor = CLIPImageProcessorPil(
        size={"shortest_edge": 75},
        crop_size={"height": 75, "width": 75},
        resample=Image.Resampling.BOX,
        do_normalize=False,
    )
    pipeline = ImagePipeline(processor, patch=25)
    out = pipeline(Image.fromarray(mask.astype(np.uint8) * 255).convert("RGB"))
    cells = out.pixels[0].reshape(3, 25, 3, 25).mean(dim=(1, 3))
    # 275 is resized to 137, not a whole factor, and 8-bit pixels round: half a grey level.
    assert np.allclose(geometry.mask_cells(out.tiles[0], mask), cells.numpy(), atol=0.01)


@settings(max_examples=50, deadline=None)
@given(width=st.integers(1, 500), height=st.integers(1, 500), x=st.floats(-50, 550), y=st.floats(-50, 550))
def test_inverse_map(width, height, x, y):
    affine = ImagePipeline(PROCESSORS["clip"], patch=32).tile(width, height)["affine"]
    back = geometry.apply(geometry.invert(affine), geometry.apply(affine, [x, y]))
    assert np.allclose(back, [x, y], atol=1e-6)


def test_corners_of_the_picture():
    tile = ImagePipeline(ViTImageProcessorPil(), patch=16).tile(640, 427)
    assert np.allclose(geometry.apply(tile["affine"], [[0, 0], [640, 427]]), [[0, 0], [14, 14]])
    crop = ImagePipeline(CLIPImageProcessorPil(), patch=32).tile(448, 224)  # middle 224 of 448
    assert crop["affine"] == [1 / 32, 0, -3.5, 0, 1 / 32, 0]
    assert geometry.cell_box(crop, 0, 0) == (112, 0, 144, 32)


def test_another_grid_of_the_same_input():
    tile = ImagePipeline.make(32).tile(64, 32)
    assert tile["grid"] == [32, 32]
    merged = geometry.on_grid(tile, (8, 4))
    assert merged["grid"] == [8, 4]
    assert np.allclose(geometry.apply(merged["affine"], [64, 32]), [4, 8])


def test_make_for_networks_without_a_processor():
    image = picture(50, 40)
    out = ImagePipeline.make((32, 48), mean=(0.5, 0.4, 0.3), std=(0.2, 0.2, 0.1))(image).pixels
    small = np.asarray(image.resize((48, 32), Image.Resampling.BICUBIC), dtype=np.float64) / 255
    expected = (small - [0.5, 0.4, 0.3]) / [0.2, 0.2, 0.1]
    assert np.allclose(out.permute(1, 2, 0).numpy(), expected, atol=1e-6)
    assert ImagePipeline.make(32)(image).pixels.max() <= 1
    assert ImagePipeline.make(32, crop=True).tile(64, 32)["affine"] == [1, 0, -16, 0, 1, 0]


def test_identity_is_json_and_tells_processors_apart():
    identities = [json.dumps(ImagePipeline(p, 16).identity, sort_keys=True) for p in PROCESSORS.values()]
    assert len(set(identities)) == len(PROCESSORS)
    assert json.dumps(ImagePipeline(CLIPImageProcessorPil(), 16).identity, sort_keys=True) == identities[0]


def test_refusals():
    with pytest.raises(ModelError, match=r"ConvNext.* redefines .*resize"):
        ImagePipeline(ConvNextImageProcessorPil())
    with pytest.raises(ModelError, match='backend="pil"'):
        ImagePipeline(object())
    with pytest.raises(ModelError, match="one mean and std"):
        ImagePipeline(ViTImageProcessorPil(image_mean=[0.5], image_std=[0.5]))
    with pytest.raises(ArgumentError, match="expected RGB"):
        ImagePipeline(PROCESSORS["vit"])(Image.new("L", (4, 4)))
    with pytest.raises(ArgumentError, match="patch"):
        ImagePipeline(PROCESSORS["vit"], patch=0)
    with pytest.raises(ArgumentError, match="square"):
        ImagePipeline.make((32, 48), crop=True)
    with pytest.raises(ArgumentError, match="singular"):
        geometry.invert([0, 0, 0, 0, 1, 0])
    with pytest.raises(ArgumentError, match="rotated"):
        geometry.mask_cells({"affine": [0, 1, 0, 1, 0, 0], "grid": [2, 2]}, np.ones((4, 4)))
    with pytest.raises(ModelError, match="pad_size"):
        ImagePipeline(ViTImageProcessorPil(do_pad=True, pad_size={"height": 8, "width": 8})).place(9, 9)


def test_photographs_and_their_boxes(shared_data):
    """Every COCO photograph decodes; the centre of every instance box lies in a cell that the box covers."""
    source = open_data(shared_data / "coco_mini")
    sizes = {}
    pipeline = ImagePipeline(CLIPImageProcessorPil(), patch=32)
    for i in range(len(source)):
        sample = source[i]
        sizes[sample.key] = sample.image.size
        if i % 20 == 0:
            theirs = pipeline.processor(sample.image, return_tensors="pt")["pixel_values"][0]
            assert torch.equal(pipeline(sample.image).pixels, theirs)
    assert len(sizes) == len(source)
    checked = 0
    for split in ("train2017", "val2017"):
        notes = json.loads((shared_data / f"coco_mini/annotations/instances_{split}.json").read_text())
        names = {image["id"]: image for image in notes["images"]}
        for note in notes["annotations"]:
            info = names[note["image_id"]]
            key = f"{split}/{info['file_name']}"
            if key not in sizes:
                continue
            assert sizes[key] == (info["width"], info["height"])
            x, y, w, h = note["bbox"]
            tile = pipeline.tile(*sizes[key])
            cells = geometry.box_cells(tile, (x, y, x + w, y + h))
            gx, gy = geometry.apply(tile["affine"], [x + w / 2, y + h / 2])
            inside = 0 <= gx < 7 and 0 <= gy < 7
            if inside and w and h:
                assert (int(gy), int(gx)) in cells
                checked += 1
            for cy, cx in cells:
                x0, y0, x1, y1 = geometry.cell_box(tile, cy, cx)
                assert x0 < x + w and x1 > x and y0 < y + h and y1 > y
    assert checked > 1000


def test_a_box_painted_on_a_photograph_is_found_in_its_cells(shared_data):
    """End to end: an instance's box in white on black, at the photographs' own sizes."""
    notes = json.loads((shared_data / "coco_mini/annotations/instances_val2017.json").read_text())
    names = {image["id"]: image for image in notes["images"]}
    pipeline = ImagePipeline(CLIPImageProcessorPil(do_normalize=False), patch=32)
    worst = 0.0
    for note in notes["annotations"][:60]:
        info = names[note["image_id"]]
        x0, y0 = (int(v) for v in note["bbox"][:2])
        x1, y1 = (int(np.ceil(v)) for v in np.add(note["bbox"][:2], note["bbox"][2:]))
        mask = np.zeros((info["height"], info["width"]), dtype=np.uint8)
        mask[y0:y1, x0:x1] = 255
        out = pipeline(Sample("box", Image.fromarray(mask)).image)
        bright = out.pixels[0].reshape(7, 32, 7, 32).mean(dim=(1, 3)).numpy()
        share = geometry.mask_cells(out.tiles[0], mask > 0)
        worst = max(worst, float(np.abs(bright - share).max()))
    assert worst < 0.02  # bicubic resampling rings a little at the edges
