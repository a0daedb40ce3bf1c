"""Row tables: who each position of a batch is."""

import pytest
import torch
from PIL import Image

from mmxai.data import Sample
from mmxai.errors import ArgumentError, DataError, UnreadableSampleError
from mmxai.models.images import ImagePipeline
from mmxai.models.inputs import Inputs, TowerInputs, collate, encode, text_rows_of, vision_rows_of
from mmxai.models.texts import TextPipeline
from mmxai.types import TOKEN_CODES, Rows
from tests.models.tokenizers_ import word_tokenizer


@pytest.fixture
def towers():
    return [
        TowerInputs(
            "vision", images=ImagePipeline.make((32, 48), patch=16), prefix=("cls", "register", "register")
        ),
        TowerInputs("text", texts=TextPipeline(word_tokenizer("clip"), 10)),
    ]


def samples():
    texts = ["the cat", "a", "the zebra a b"]
    return [Sample(f"{i}.png", Image.new("RGB", (40 + i, 30)), t, {"label": i}) for i, t in enumerate(texts)]


def test_vision_rows(towers):
    inputs = collate([encode(s, towers) for s in samples()], towers[:1])
    assert list(inputs.tensors) == ["pixel_values"]
    assert inputs.tensors["pixel_values"].shape == (3, 3, 32, 48)
    table = inputs.rows["vision"]
    assert table.shape == (3, 3 + 2 * 3, 8) and table.dtype == torch.int32
    rows = Rows(table[1])
    assert rows.sample.tolist() == [1] * 9
    assert rows.position.tolist() == list(range(9))
    assert rows.y.tolist() == [-1] * 3 + [0, 0, 0, 1, 1, 1]
    assert rows.x.tolist() == [-1] * 3 + [0, 1, 2, 0, 1, 2]
    kinds = ["cls", "register", "register", *["patch"] * 6]
    assert rows.token_type.tolist() == [TOKEN_CODES[k] for k in kinds]
    assert rows.token_id.tolist() == [-1] * 9 == rows.step.tolist()
    assert rows.image.tolist() == [0] * 9
    assert torch.equal(vision_rows_of(("cls", "register", "register"), (2, 3), 3), table)


def test_text_rows_padding_and_mask(towers):
    batch = [encode(s, towers) for s in samples()]
    for e, index in zip(batch, (40, 7, 1000), strict=True):
        e.index = index
    inputs = collate(batch, towers)
    ids, mask = inputs.tensors["input_ids"], inputs.tensors["attention_mask"]
    assert ids.shape == (3, 6) and mask.sum(1).tolist() == [4, 3, 6]
    assert ids[1].tolist() == [*batch[1].tensors["input_ids"].tolist(), 0, 0, 0]
    rows = Rows(inputs.rows["text"].reshape(-1, 8))
    assert rows.sample.tolist() == [40] * 6 + [7] * 6 + [1000] * 6
    assert rows.position.tolist() == list(range(6)) * 3
    s, t, p = (TOKEN_CODES[k] for k in ("special", "text", "pad"))
    assert inputs.rows["text"][:, :, 4].tolist() == [
        [s, t, t, s, p, p],
        [s, t, s, p, p, p],
        [s, t, t, t, t, s],
    ]
    assert torch.equal(inputs.rows["text"][:, :, 5], torch.where(mask.bool(), ids, -1).int())
    again = text_rows_of(ids, mask, towers[1].texts, torch.tensor([40, 7, 1000], dtype=torch.int32))
    assert torch.equal(again, inputs.rows["text"])
    assert text_rows_of(ids, None, None)[:, :, 4].unique().tolist() == [t]


def test_record(towers):
    e = encode(samples()[2], towers)
    e.index = 5
    assert e.record() == {
        "sample": 5,
        "key": "2.png",
        "hash": samples()[2].digest,
        "text": "the zebra a b",
        "size": [42, 30],
        "tiles": [{"affine": [48 / 42 / 16, 0.0, 0.0, 0.0, 32 / 30 / 16, 0.0], "grid": [2, 3]}],
        "columns": {"label": 2},
    }
    cut = TowerInputs("text", texts=TextPipeline(word_tokenizer("clip"), 4, long="truncate"))
    assert encode(samples()[2], [cut]).record()["truncated"] == 6


def test_ready_tokens_are_taken_as_they_are(towers):
    sample = Sample("doc#0", text="whatever", tokens=[1, 9, 10])
    inputs = collate([encode(sample, towers[1:])], towers[1:])
    assert inputs.tensors["input_ids"].tolist() == [[1, 9, 10]]


def test_an_empty_text_still_has_a_position_to_run_on():
    tower = TowerInputs("text", texts=TextPipeline(word_tokenizer("none"), 4))
    inputs = collate([encode(Sample("empty", text=""), [tower])], [tower])
    assert inputs.tensors["input_ids"].shape == (1, 1)
    assert inputs.rows["text"][0, 0, 4] == TOKEN_CODES["pad"]


def test_moving_converts_floats_only(towers):
    inputs = collate([encode(s, towers) for s in samples()], towers).to(dtype=torch.bfloat16)
    assert isinstance(inputs, Inputs) and inputs.batch_size == 3
    assert inputs.tensors["pixel_values"].dtype == torch.bfloat16
    assert inputs.tensors["input_ids"].dtype == torch.int64
    assert inputs.rows["text"].dtype == torch.int32


def test_names_and_towers_without_rows(towers):
    tower = TowerInputs("vision", images=ImagePipeline.make(8), rows=False, pixels="x")
    inputs = collate([encode(s, [tower]) for s in samples()], [tower])
    assert list(inputs.tensors) == ["x"] and inputs.rows == {}
    text = TowerInputs("text", texts=towers[1].texts, ids="tokens", mask=None)
    assert list(collate([encode(samples()[0], [text])], [text]).tensors) == ["tokens"]


def test_refusals(towers):
    with pytest.raises(UnreadableSampleError, match="x: got no picture, expected one for tower vision"):
        encode(Sample("x", text="a"), towers)
    with pytest.raises(UnreadableSampleError, match=r"x: got no text.*text_column"):
        encode(Sample("x", Image.new("RGB", (4, 4))), towers)
    with pytest.raises(ArgumentError, match="exactly one"):
        TowerInputs("vision")
    with pytest.raises(ArgumentError, match="token types"):
        TowerInputs("vision", images=towers[0].images, prefix=("class",))
    with pytest.raises(ArgumentError, match="no samples"):
        collate([], towers)
    loose = ImagePipeline.make(8)
    loose.processor.do_resize = False
    tower = TowerInputs("vision", images=loose)
    with pytest.raises(DataError, match="different sizes"):
        collate([encode(s, [tower]) for s in samples()], [tower])
