"""Which rows: patches of an object through the tile's map, random ones, words of a text."""

import numpy as np
import pytest
import torch

from mmxai.errors import ArgumentError
from mmxai.methods.trace import groups
from mmxai.methods.trace.pictures import region
from mmxai.models.geometry import cell_box
from mmxai.models.images import ImagePipeline
from mmxai.models.inputs import text_rows_of, vision_rows_of
from mmxai.types import ROW_COLUMNS, TOKEN_CODES
from tests.models.tokenizers_ import word_tokenizer

TILE = ROW_COLUMNS.index("image")


def cells_of(rows, group):
    return {tuple(r.tolist()) for r in rows[group][:, [TILE, *map(ROW_COLUMNS.index, "yx")]]}


def test_object_ring_and_background_by_area():
    """A cropped picture: each group is what comparing every cell's box with the region says."""
    tile = ImagePipeline.make(64, patch=8, crop=True).tile(200, 120)
    rows = vision_rows_of(("cls",), (8, 8), 1)[0]
    box = (75.0, 31.0, 122.0, 66.0)
    found = groups.patch_groups(rows, [tile], region((200, 120), box=box), 0.5)
    assert list(found) == ["object", "ring", "background"]
    covered = np.zeros((8, 8))
    for y in range(8):
        for x in range(8):
            x0, y0, x1, y1 = cell_box(tile, y, x)
            shared = max(0, min(x1, box[2]) - max(x0, box[0])) * max(0, min(y1, box[3]) - max(y0, box[1]))
            covered[y, x] = shared / ((x1 - x0) * (y1 - y0))
    inside = {(0, *map(int, at)) for at in np.argwhere(covered >= 0.5)}
    assert cells_of(rows, found["object"]) == inside
    near = {
        (0, y, x) for y in range(8) for x in range(8)
        if covered[y, x] > 0 or any(abs(y - b) <= 1 and abs(x - c) <= 1 for _, b, c in inside)
    }  # fmt: skip
    assert cells_of(rows, found["ring"]) == near - inside
    whole = torch.stack(list(found.values())).sum(0)
    assert whole.tolist() == [0] + [1] * 64  # the class token is in none


def test_a_small_object_has_the_cells_that_hold_most_of_it():
    tile = {"affine": [1 / 16, 0, 0, 0, 1 / 16, 0], "grid": [4, 4]}
    rows = vision_rows_of((), (4, 4), 1)[0]
    found = groups.patch_groups(rows, [tile], region((64, 64), box=(17, 33, 20, 36)))
    assert cells_of(rows, found["object"]) == {(0, 2, 1)} and found["ring"].sum() == 8
    with pytest.raises(ArgumentError, match="cropped there"):
        away = {"affine": [1 / 16, 0, -2, 0, 1 / 16, 0], "grid": [4, 4]}
        groups.patch_groups(rows, [away], region((64, 64), box=(1, 1, 4, 4)))


def test_tiles_are_told_apart_and_other_rows_are_in_no_group():
    """Rows of a language model: text, a whole picture, its left half enlarged, newline rows, text."""
    first, half = vision_rows_of((), (2, 2), 1)[0], vision_rows_of((), (2, 2), 1)[0]
    half[:, TILE] = 1
    for table in (first, half):
        table[:, ROW_COLUMNS.index("token_type")] = TOKEN_CODES["image"]
    newline = first[:1].clone()
    newline[:, ROW_COLUMNS.index("x")] = -1
    text = text_rows_of(torch.tensor([[5, 6]]), None, None)[0]
    rows = torch.cat([text, first, newline, half, text])
    tiles = [
        {"affine": [2 / 64, 0, 0, 0, 2 / 64, 0], "grid": [2, 2]},
        {"affine": [2 / 32, 0, 0, 0, 2 / 64, 0], "grid": [2, 2]},
    ]
    found = groups.patch_groups(rows, tiles, region((64, 64), box=(16, 0, 32, 32)))
    assert cells_of(rows, found["object"]) == {(0, 0, 0), (1, 0, 1)}
    assert int(torch.stack(list(found.values())).sum()) == 8
    squares = groups.squares(rows, 2)
    assert {k: int(v.sum()) for k, v in squares.items()} == {(0, 0, 0): 4, (1, 0, 0): 4}
    assert len(groups.squares(rows)) == 8
    with pytest.raises(ArgumentError, match="got a row of tile 1"):
        groups.patch_groups(rows, tiles[:1], region((64, 64), box=(16, 0, 32, 32)))
    with pytest.raises(ArgumentError, match="without a cell"):
        groups.patch_groups(text, tiles, region((64, 64), box=(16, 0, 32, 32)))


def test_random_groups():
    allowed = torch.arange(20) % 2 == 0
    drawn = groups.random_groups(allowed, 4, 30)
    assert all(int(g.sum()) == 4 and not (g & ~allowed).any() for g in drawn)
    assert len({tuple(g.tolist()) for g in drawn}) > 20
    assert torch.stack(drawn).any(0).equal(allowed)
    assert torch.equal(torch.stack(drawn), torch.stack(groups.random_groups(allowed, 4, 30)))
    with pytest.raises(ArgumentError, match="groups of 11 among 10 rows"):
        groups.random_groups(allowed, 11, 1)


def test_words_of_a_text():
    tokenizer = word_tokenizer("clip")
    ids = torch.tensor([tokenizer("the cat w1 a cat w12")["input_ids"] + [0, 0]])
    mask = (ids != 0).long()
    rows = text_rows_of(ids, mask, None)[0]
    rows[[0, 7], ROW_COLUMNS.index("token_type")] = TOKEN_CODES["special"]
    asked = {"cat": [2], "w1 a": [3, 4], "the": [1], "at w": [2, 3], "w12": [6]}
    for text, places in asked.items():
        assert groups.words(rows, tokenizer.decode, text).nonzero().flatten().tolist() == places
    for text in ("dog", ""):
        with pytest.raises(ArgumentError, match="expected a part of the text 'the cat w1 a cat w12'"):
            groups.words(rows, tokenizer.decode, text)


def test_words_of_tokens_that_are_parts_of_characters():
    """Bytes as tokens: the three of a character belong to it, and to no neighbour."""
    text = "aéb\N{SNOWMAN}c"
    ids = list(text.encode())
    rows = text_rows_of(torch.tensor([ids]), None, None)[0]

    def decode(given):
        return bytes(given).decode("utf-8", errors="replace")

    assert groups.words(rows, decode, "é").nonzero().flatten().tolist() == [1, 2]
    assert groups.words(rows, decode, "\N{SNOWMAN}").nonzero().flatten().tolist() == [4, 5, 6]
    assert groups.words(rows, decode, "b").nonzero().flatten().tolist() == [3]
    assert groups.words(rows, decode, "c").nonzero().flatten().tolist() == [7]
