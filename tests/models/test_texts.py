"""Ids equal the tokenizer's own, special tokens are marked, and nothing is cut without being told."""

import json

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from mmxai.data import contexts, open_data
from mmxai.errors import ArgumentError, DataError
from mmxai.models.texts import TextPipeline
from tests.models.tokenizers_ import word_tokenizer

BOS, EOS, UNK = 1, 2, 3


@pytest.mark.parametrize("template", ["bos", "clip", "none"])
@pytest.mark.parametrize("text", ["a", "", "the cat a b", "the zebra", "a <s> b", "  the   cat "])
def test_ids_equal_the_tokenizers_own(template, text):
    tokenizer = word_tokenizer(template)
    out = TextPipeline(tokenizer, 10)(text)
    assert out.ids.dtype == torch.int64 and out.special.dtype == torch.bool
    assert out.ids.tolist() == tokenizer(text)["input_ids"]
    assert out.cut is None


def test_special_tokens_are_marked_and_unknown_words_are_not():
    out = TextPipeline(word_tokenizer("clip"), 10)("the zebra <s>")
    assert out.ids.tolist()[0] == BOS and out.ids.tolist()[2] == UNK
    assert out.special.tolist() == [True, False, False, True, True]


def test_an_unk_that_is_also_eos_is_special():
    tokenizer = word_tokenizer("bos", unk_token="</s>")
    assert EOS in TextPipeline(tokenizer, 10).special_ids


@pytest.mark.parametrize(
    "template,bos,expected",
    [
        ("bos", "auto", ([BOS], [])),
        ("bos", True, ([BOS], [])),
        ("bos", False, ([], [])),
        ("clip", "auto", ([BOS], [EOS])),
        ("clip", False, ([], [EOS])),
        ("none", "auto", ([], [])),
        ("none", True, ([BOS], [])),
    ],
)
def test_bos_options(template, bos, expected):
    pipeline = TextPipeline(word_tokenizer(template), 10, bos=bos)
    assert (pipeline.prefix, pipeline.suffix) == expected
    body = pipeline.tokenize("the cat")
    assert pipeline("the cat").ids.tolist() == expected[0] + body + expected[1]


def test_long_texts_are_an_error_unless_told():
    text = "a b " * 5
    for long in ("error", "split"):
        with pytest.raises(DataError, match="photo 7: got 12 tokens, expected at most 6"):
            TextPipeline(word_tokenizer("clip"), 6, long=long)(text, key="photo 7")
    assert len(TextPipeline(word_tokenizer("clip"), 12)(text).ids) == 12


@pytest.mark.parametrize("side", ["right", "left"])
def test_truncation_equals_the_tokenizers_own_and_is_recorded(side):
    tokenizer = word_tokenizer("clip", truncation_side=side)
    text = " ".join(f"w{i}" for i in range(20))
    out = TextPipeline(tokenizer, 8, long="truncate")(text)
    assert out.ids.tolist() == tokenizer(text, truncation=True, max_length=8)["input_ids"]
    assert out.cut == 22


def test_context_from_the_tokenizer():
    assert TextPipeline(word_tokenizer("clip", model_max_length=77)).context == 77
    with pytest.raises(ArgumentError, match="knows no limit"):
        TextPipeline(word_tokenizer("clip"))


def test_refusals():
    with pytest.raises(ArgumentError, match="no BOS token"):
        TextPipeline(word_tokenizer("none", bos_token=None), 10, bos=True)
    with pytest.raises(ArgumentError, match="bos: got 'yes'"):
        TextPipeline(word_tokenizer(), 10, bos="yes")
    with pytest.raises(ArgumentError, match="long: got 'cut'"):
        TextPipeline(word_tokenizer(), 10, long="cut")
    with pytest.raises(ArgumentError, match="more than the special tokens"):
        TextPipeline(word_tokenizer("clip"), 2)
    with pytest.raises(DataError, match="got 3 tokens"):
        TextPipeline(word_tokenizer("none"), 2).ready([4, 5, 6])


def test_identity_tells_pipelines_apart():
    pipelines = [
        TextPipeline(word_tokenizer("bos"), 10),
        TextPipeline(word_tokenizer("clip"), 10),
        TextPipeline(word_tokenizer("bos"), 11),
        TextPipeline(word_tokenizer("bos"), 10, bos=False),
        TextPipeline(word_tokenizer("bos"), 10, long="truncate"),
    ]
    identities = [json.dumps(p.identity, sort_keys=True) for p in pipelines]
    assert len(set(identities)) == len(pipelines)
    before = pipelines[0].identity
    pipelines[0]("the cat")
    assert pipelines[0].identity == before


def test_a_vocabulary_without_unknown_words():
    inner = Tokenizer(models.WordLevel({"<s>": 0, "red": 1, "square": 2}, unk_token="none"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>")
    out = TextPipeline(tokenizer, 8, bos=True)("red square")
    assert out.ids.tolist() == [0, 1, 2] and out.special.tolist() == [True, False, False]


def test_bytes_as_tokens():
    """GPT-2's kind: byte-level BPE without a template."""
    inner = Tokenizer(
        models.BPE({c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}, [])
    )
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    end = {"bos_token": "<|end|>", "eos_token": "<|end|>", "unk_token": "<|end|>"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, **end)
    pipeline = TextPipeline(tokenizer, 64, bos=True)
    out = pipeline("naïve 🙂")
    assert out.ids.tolist() == [256, *tokenizer("naïve 🙂")["input_ids"]] and len(out.ids) == 1 + 11
    assert out.special.tolist() == [True] + [False] * 11
    cut = contexts(open_data(["naïve 🙂 " * 9]), pipeline, 8)
    assert sum(len(s.tokens) - 1 for s in cut) == 12 * 9
    assert all(s.text for s in cut)


def test_a_real_tokenizer(shared_data):
    tokenizer = AutoTokenizer.from_pretrained(shared_data / "stories260K")
    pipeline = TextPipeline(tokenizer, 512)
    lines = (shared_data / "text_labels" / "stsa.binary.dev").read_text(encoding="utf-8").splitlines()
    for line in lines:
        out = pipeline(line)
        assert out.ids.tolist() == tokenizer(line)["input_ids"]
        assert out.special.tolist() == [True] + [False] * (len(out.ids) - 1)
    assert pipeline.count(lines[:5]) == [len(pipeline.tokenize(line)) for line in lines[:5]]
