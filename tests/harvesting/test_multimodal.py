"""Harvests of a model with pictures in its text: which rows, which provenance, what was generated."""

import json

import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaImageProcessorPil,
    PreTrainedTokenizerFast,
)

import mmxai
from mmxai.data import Sample
from mmxai.errors import ArgumentError
from mmxai.harvesting import harvest
from mmxai.models import load_model
from mmxai.report.examples import neurons_of
from mmxai.store.verify import verify
from mmxai.types import TOKEN_CODES

WORDS = [
    *["what", "is", "above", "below", "the", "square", "circle", "red", "blue", "left", "of"],
    "USER:",
    "ASSISTANT:",
    "Q:",
    "A:",
    "?",
]
TEMPLATE = (
    "{% for m in messages %}Q: {% for c in m['content'] %}{% if c['type'] == 'image' %}<image> {% else %}"
    "{{ c['text'] }}{% endif %}{% endfor %}{% endfor %}{% if add_generation_prompt %} A:{% endif %}"
)


def tokenizer():
    vocab = {t: i for i, t in enumerate(["<pad>", "<s>", "</s>", "<unk>", *WORDS])}
    inner = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    inner.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    made = PreTrainedTokenizerFast(tokenizer_object=inner, **names)
    made.add_special_tokens({"additional_special_tokens": ["<image>"]})
    return made


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder, words = tmp_path_factory.mktemp("models") / "tiny-llava", tokenizer()
    size = {"hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    torch.manual_seed(0)
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**size, image_size=16, patch_size=4),
        text_config=LlamaConfig(
            **size, vocab_size=len(words), max_position_embeddings=48, eos_token_id=2, bos_token_id=1
        ),
        image_token_id=words.convert_tokens_to_ids("<image>"),
    )
    LlavaForConditionalGeneration(config).save_pretrained(folder)
    words.save_pretrained(folder)
    size16 = {"height": 16, "width": 16}
    LlavaImageProcessorPil(size={"shortest_edge": 16}, crop_size=size16).save_pretrained(folder)
    return folder


def questions(n: int = 10) -> list[Sample]:
    torch.manual_seed(4)
    out = []
    for i in range(n):
        noise = torch.randint(0, 256, (20, 16 + 4 * (i % 3), 3), dtype=torch.uint8).numpy()
        text = ("what is above the square ?", "the circle is red ?")[i % 2]
        out.append(Sample(str(i), image=Image.fromarray(noise), text=text))
    return out


def test_provenance_of_a_sample(folder, tmp_path):
    words = tokenizer()
    words.chat_template = TEMPLATE
    model = load_model(folder, tokenizer=words)
    harvest(model, questions(4), sites="text.*.resid_post", store=tmp_path / "a", progress=False)
    records = [json.loads(line) for line in (tmp_path / "a/mmxai/samples/0.jsonl").read_text().splitlines()]
    first = next(r for r in records if r["sample"] == 0)
    assert first["prompt"] == "Q: <image> what is above the square ? A:"
    assert first["text"] == "what is above the square ?"
    assert first["placement"] == [[2, 16]]  # behind <s> and Q:
    assert first["size"] == [16, 20] and first["tiles"][0]["grid"] == [4, 4]
    identity = json.loads((tmp_path / "a/mmxai/plan.json").read_text())["identity"]
    assert identity["inputs"]["text"]["prompt"]["chat_template"] == TEMPLATE
    assert identity["inputs"]["text"]["pictures"]["patch"] == [4, 4]
    assert not verify(tmp_path / "a").problems
    with mmxai.open_store(tmp_path / "a") as store:
        rows = store.rows["text"].read()
        mine = rows.table[rows.sample == 0]
        cells = mine[mine[:, 4] == TOKEN_CODES["image"]]
        assert cells[:, 1].tolist() == list(range(2, 18))
        assert cells[:, 2:4].tolist() == [[y, x] for y in range(4) for x in range(4)]


def test_a_page_shows_a_soft_token_as_a_piece_of_its_picture(whole):
    with mmxai.open_store(whole) as store:
        record = store.samples[3]
        assert record.prompt.startswith("USER: <image>") and record.placement == [[2, 16]]
        assert record.generated["ids"] == [int(t) for t in record.generated["ids"]]
        examples = [e for n in neurons_of(store, "text.1.resid_post", range(24), 10) for e in n.examples]
    pieces = [e for e in examples if e.kind == "image"]
    words = [e for e in examples if e.kind in ("text", "generated")]
    assert pieces and words
    assert all(e.cell is not None and e.tile["grid"] == [4, 4] and e.heat.shape == (4, 4) for e in pieces)
    assert all(e.tokens and e.tile is None for e in words)


def test_rows_of_image_tokens_alone(folder, tmp_path):
    options = {"sites": ("text.0.resid_pre", "projector"), "tokens": "image", "progress": False}
    harvest(load_model(folder), questions(4), store=tmp_path / "a", **options)
    with mmxai.open_store(tmp_path / "a") as store:
        assert torch.equal(store["text.0.resid_pre"][:], store["projector"][:])
        assert store["projector"].space == "projector"


@pytest.fixture(scope="module")
def whole(folder, tmp_path_factory):
    path = tmp_path_factory.mktemp("stores") / "whole"
    harvest(load_model(folder), questions(), store=path, **OPTIONS)
    return path


OPTIONS = {
    "sites": "text.*.resid_post",
    "generate": 5,
    "samples_per_part": 4,
    "batch_size": 2,
    "store_dtype": "float32",
    "progress": False,
}


def data_of(path):
    return {
        f.name: f.read_bytes() for f in sorted(path.rglob("*")) if f.suffix == ".jsonl" or "c." in f.name[:2]
    }


def test_generated_rows_and_texts(folder, whole):
    model = load_model(folder)
    prompts = [{"image": s.image, "text": s.text} for s in questions()]
    expected = [model.generate([p], max_new_tokens=5).ids[0].tolist() for p in prompts]
    records = {}
    for file in sorted((whole / "mmxai/samples").glob("*.jsonl")):
        records |= {r["sample"]: r for r in map(json.loads, file.read_text().splitlines())}
    assert [records[i]["generated"]["ids"] for i in range(10)] == expected
    assert isinstance(records[0]["generated"]["text"], str)
    with mmxai.open_store(whole) as store:
        rows = store.rows["text"].read()
        for i in range(10):
            said = rows.table[(rows.sample == i) & (rows.token_type == TOKEN_CODES["generated"])]
            assert said[:, 5].tolist() == expected[i] and said[:, 7].tolist() == list(range(len(expected[i])))
        assert store.plan.identity["generate"] == {"tokens": 5, "decoding": "greedy"}
        assert "generated" in store.plan.notes["token_types"]["text"]


def test_workers_that_share_make_the_same_bytes(folder, whole, tmp_path):
    for share in ("0/2", "1/2"):
        harvest(load_model(folder), questions(), store=tmp_path / "b", part_of=share, **OPTIONS)
    assert data_of(tmp_path / "b") == data_of(whole) and data_of(whole)


def test_other_lengths_are_another_plan(folder, whole):
    with pytest.raises(mmxai.errors.PlanMismatchError):
        harvest(load_model(folder), questions(), store=whole, **OPTIONS | {"generate": 4})


def test_what_cannot_be_generated(folder, tmp_path):
    with pytest.raises(ArgumentError, match="sites of a language model"):
        harvest(
            load_model(folder), questions(2), sites="vision.*.resid_post", store=tmp_path / "a", generate=3
        )
    with pytest.raises(ArgumentError, match="context"):
        harvest(
            load_model(folder), questions(2), sites="text.*.resid_post", store=tmp_path / "b", generate=40
        )


@pytest.mark.parametrize("option", [{"long": "split"}, {"pack": True}, {"stride": 4}])
def test_prompts_with_pictures_are_not_cut_into_contexts_without_them(folder, tmp_path, option):
    model, given = load_model(folder), {"sites": "text.1.resid_post", "store": tmp_path / "a", **option}
    with pytest.raises(ArgumentError, match="lack the pictures"):
        harvest(model, questions(2), **given)
    texts = [Sample(q.key, text=q.text) for q in questions(2)]
    assert harvest(model, texts, **given).samples
