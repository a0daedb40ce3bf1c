"""The page of a store: what it shows is what the store holds, and a browser can show it."""

import re

import numpy as np
import pytest
import torch
from PIL import Image

from mmxai.errors import ArgumentError
from mmxai.report import neuron_page
from mmxai.report.examples import neurons_of
from mmxai.report.pictures import inverse, outline
from mmxai.shapes import ShapesWorld
from mmxai.store import create_store, open_store
from mmxai.types import TOKEN_CODES, Rows
from tests.report.browser import browse, needs_browser

WORLD = ShapesWorld(12, seed=1)
AFFINE = [0.125, 0, 0, 0, 0.125, 0]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """12 pictures of the world on an 8 x 8 grid, 5 tokens of text each; unit 2 fires at cell (3, i % 8)."""
    path = tmp_path_factory.mktemp("stores") / "a<b>.zarr"
    made = torch.Generator().manual_seed(0)
    vision = torch.rand(12, 64, 6, generator=made)
    vision[torch.arange(12), 24 + torch.arange(12) % 8, 2] = 10.0 + torch.arange(12)
    text = torch.rand(12, 5, 4, generator=made)
    text[torch.arange(12), torch.arange(12) % 5, 1] = 5.0 + torch.arange(12)
    cells = torch.arange(64).repeat(12)
    rows = {
        "vision": Rows.make(
            sample=torch.arange(12).repeat_interleave(64), position=cells + 1, y=cells // 8, x=cells % 8,
            image=0, token_type=TOKEN_CODES["patch"],
        ),
        "text": Rows.make(
            sample=torch.arange(12).repeat_interleave(5), position=torch.arange(5).repeat(12),
            token_id=torch.arange(5).repeat(12) + 100, token_type=TOKEN_CODES["text"],
        ),
    }  # fmt: skip
    samples = [
        {"key": f"<key {i}>", "text": f"<script>alert({i})</script>", "size": [64, 64],
         "tiles": [{"affine": AFFINE, "grid": [8, 8]}]} for i in range(12)
    ]  # fmt: skip
    sites = {"vision": {"vision.0.mlp_post": 6}, "text": {"text.0.mlp_post": 4}}
    with create_store(path, sites, samples_per_part=5, durable=False) as writer:
        acts = {"vision.0.mlp_post": vision.reshape(-1, 6), "text.0.mlp_post": text.reshape(-1, 4)}
        writer.write(samples, acts, rows)
    with open_store(path) as opened:
        yield opened


def _picture(index: int) -> Image.Image:
    return WORLD[index].pil


def test_examples_come_from_the_right_samples_and_cells(store):
    (neuron,) = neurons_of(store, "vision.0.mlp_post", [2], top=5)
    assert [e.sample.sample for e in neuron.examples] == [11, 10, 9, 8, 7]
    for example in neuron.examples:
        i = example.sample.sample
        assert example.cell == (3, i % 8) and example.value == 10 + i
        assert example.heat is not None and example.heat.argmax() == 24 + i % 8
        values = store["vision.0.mlp_post"].gather(np.arange(i * 64, i * 64 + 64))[:, 2].float()
        assert np.allclose(np.argsort(example.heat.ravel())[-1], values.argmax())
    (words,) = neurons_of(store, "text.0.mlp_post", [1], top=3)
    assert [[t.top for t in e.tokens].index(True) for e in words.examples] == [11 % 5, 10 % 5, 9 % 5]
    assert words.examples[0].tokens[1].token_id == 101


def test_neurons_that_stand_out_are_picked(store):
    assert neurons_of(store, "vision.0.mlp_post", 1, top=4)[0].unit == 2


def test_no_heat_map_where_a_patch_is_missing(tmp_path):
    rows = Rows.make(
        sample=torch.zeros(3, dtype=torch.int32), y=torch.tensor([0, 0, 1]), x=torch.tensor([0, 1, 0])
    )
    sample = {
        "key": "k",
        "size": [64, 64],
        "tiles": [{"affine": [1 / 32, 0, 0, 0, 1 / 32, 0], "grid": [2, 2]}],
    }
    with create_store(tmp_path / "s", {"vision.0.mlp_post": 2}, durable=False) as writer:
        writer.write([sample], {"vision.0.mlp_post": torch.rand(3, 2)}, rows)
    with open_store(tmp_path / "s") as opened:
        example = neurons_of(opened, "vision.0.mlp_post", [0], top=1)[0].examples[0]
        assert example.heat is None and example.cell is not None


def test_outlines_undo_resize_and_crop():
    # A 300 x 200 picture: shorter side to 64 (factor 0.32), 16 cropped off the left, patches of 8.
    affine = [0.04, 0, -2, 0, 0.04, 0]
    matrix = inverse(affine)
    assert matrix is not None
    corners = outline(matrix, 1, 2)
    np.testing.assert_allclose(corners, [(100, 25), (125, 25), (125, 50), (100, 50)])
    np.testing.assert_allclose(outline(matrix, 0, 0, 8, 8)[::2], [(50, 0), (250, 200)])
    assert inverse([0, 0, 0, 0, 0, 0]) is None


def test_page_is_one_small_escaped_file(store, tmp_path):
    page = neuron_page(
        store, ["vision.0.mlp_post", "text.0.mlp_post"], 2, tmp_path / "new/page.html", _picture,
        decode=lambda t: f"<t{t}>", facts={"rate": "<fast>"}, title="a & b",
    )  # fmt: skip
    html = page.read_text(encoding="utf-8")
    assert page.stat().st_size < 3_000_000
    assert (
        "<script" not in html
        and "&lt;script&gt;" in html
        and "&lt;t101&gt;" in html
        and "&lt;fast&gt;" in html
    )
    assert not re.search(r"(src|href)=\"(?!data:)|url\(|@import|https?://", html)
    assert 'points="24,24 32,24 32,32 24,32"' in html  # sample 11: cell (3, 3) in original pixels


def test_pages_without_pictures_or_decoder(store, tmp_path):
    units = {"text.0.mlp_post": [1], "vision.0.mlp_post": [2]}
    html = neuron_page(store, list(units), units, tmp_path / "page.html").read_text(encoding="utf-8")
    assert "<img" not in html and "&lt;script&gt;alert(11)" in html and "token 1" in html


def test_bad_units(store, tmp_path):
    with pytest.raises(ArgumentError, match=r"units \[9\]"):
        neuron_page(store, ["text.0.mlp_post"], {"text.0.mlp_post": [9]}, tmp_path / "p.html")
    with pytest.raises(ArgumentError, match="units of the sites"):
        neuron_page(store, ["text.0.mlp_post"], {"other": [1]}, tmp_path / "p.html")


@needs_browser
def test_a_browser_decodes_every_picture(store, tmp_path):
    sites = ["vision.0.mlp_post", "text.0.mlp_post"]
    page = neuron_page(store, sites, 2, tmp_path / "page.html", _picture)
    shown = browse(page, "return {}", tmp_path)
    assert shown["pictures"] == 16 and shown["broken"] == 0
    assert shown["wide"] <= 500 and not shown["errors"]  # nothing overflows a narrow screen
