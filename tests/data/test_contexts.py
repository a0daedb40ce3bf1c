"""Every token appears, where the columns say; packed and unpacked, sources and streams alike."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from mmxai.data import Sample, Skipped, Stream, contexts, load_samples, open_data
from mmxai.errors import ArgumentError, DataError, UnreadableSampleError
from mmxai.models.inputs import TowerInputs, encode
from mmxai.models.texts import TextPipeline
from tests.models.tokenizers_ import word_tokenizer

BOS, EOS = 1, 2
PIPELINES = {
    "none": TextPipeline(word_tokenizer("none"), 16),
    "bos": TextPipeline(word_tokenizer("bos"), 16),
    "clip": TextPipeline(word_tokenizer("clip"), 16),
}
documents = st.lists(st.integers(0, 40), min_size=1, max_size=6).map(
    lambda lengths: [" ".join(f"w{(7 * d + i) % 100}" for i in range(n)) for d, n in enumerate(lengths)]
)


def parts(sample, pipeline):
    """The context's own tokens."""
    tokens = list(sample.tokens)
    assert tokens[: len(pipeline.prefix)] == pipeline.prefix
    stop = len(tokens) - len(pipeline.suffix)
    assert tokens[stop:] == pipeline.suffix
    return tokens[len(pipeline.prefix) : stop]


@settings(max_examples=80, deadline=None)
@given(texts=documents, name=st.sampled_from(sorted(PIPELINES)), data=st.data())
def test_every_token_appears_where_the_columns_say(texts, name, data):
    pipeline = PIPELINES[name]
    fixed = len(pipeline.prefix) + len(pipeline.suffix)
    length = data.draw(st.integers(fixed + 1, 16))
    stride = data.draw(st.none() | st.integers(1, length - fixed))
    pack = data.draw(st.booleans())
    source = contexts(open_data(texts), pipeline, length, stride=stride, pack=pack)
    samples = list(source)
    assert len(samples) == len(source)
    ids = {str(d): pipeline.tokenize(text) for d, text in enumerate(texts)}
    seen = {(key, i) for key in ids for i in range(len(ids[key]))}
    for sample in samples:
        assert len(sample.tokens) <= length
        parts(sample, pipeline)
        for piece in sample.columns["context"]["documents"]:
            start, stop = piece["tokens"]
            at = piece["at"]
            assert list(sample.tokens[at : at + stop - start]) == ids[piece["key"]][start:stop]
            seen -= {(piece["key"], i) for i in range(start, stop)}
    assert not seen
    assert len({sample.key for sample in samples}) == len(samples)
    stream = contexts(open_data(iter(texts)), pipeline, length, stride=stride, pack=pack)
    for one, other in zip(samples, list(stream), strict=True):
        assert (one.key, one.text, one.tokens, one.columns) == (
            other.key,
            other.text,
            other.tokens,
            other.columns,
        )
        assert one.digest == other.digest


def test_unpacked_by_hand():
    source = open_data([Sample("d", text="w0 w1  w2 w3 w4", columns={"label": 1}), Sample("e", text="")])
    pipeline = PIPELINES["bos"]
    cut = contexts(source, pipeline, 4, stride=2)
    assert [s.key for s in cut] == ["d#0", "d#1", "e#0"]
    assert [s.text for s in cut] == ["w0 w1  w2", "w2 w3 w4", ""]
    assert [parts(s, pipeline) for s in cut] == [[4, 5, 6], [6, 7, 8], []]
    assert cut[1].columns == {"label": 1, "context": {"documents": [{"key": "d", "tokens": [2, 5], "at": 1}]}}
    assert cut[2].tokens == [BOS]


def test_packed_by_hand():
    source = open_data([Sample("d", text="w0 w1 w2"), Sample("e", text=""), Sample("f", text="w3 w4 w5")])
    pipeline = PIPELINES["bos"]
    cut = contexts(source, pipeline, 5, pack=True)
    assert [list(s.tokens) for s in cut] == [[BOS, 4, 5, 6, EOS], [BOS, EOS, 7, 8, 9], [BOS, EOS]]
    assert [s.key for s in cut] == ["packed#0", "packed#1", "packed#2"]
    assert cut[1].columns["context"]["documents"] == [
        {"key": "e", "tokens": [0, 0], "at": 1},
        {"key": "f", "tokens": [0, 3], "at": 2},
    ]


def test_defaults_fill_the_models_context_and_leave_short_texts_whole():
    pipeline = PIPELINES["clip"]
    cut = contexts(open_data(["a b", "a " * 30]), pipeline)
    assert list(cut[0].tokens) == pipeline("a b").ids.tolist()
    assert [len(s.tokens) for s in cut] == [4, 16, 16, 4]


def test_contexts_reach_the_model_as_they_are():
    pipeline = PIPELINES["bos"]
    tower = TowerInputs("text", texts=pipeline)
    cut = contexts(open_data(["a b " * 20]), pipeline, 8)
    loader = load_samples(cut, [3, 0, 5], encode=lambda s: encode(s, [tower]))
    for index, encoded in loader:
        assert encoded.tensors["input_ids"].tolist() == list(cut[index].tokens)
        assert encoded.special.tolist() == [True] + [False] * (len(cut[index].tokens) - 1)


class Broken(Stream):
    """The second document cannot be read."""

    identity = {"kind": "broken"}  # noqa: RUF012

    def __iter__(self):
        return map(self._read, "abc")

    def _read(self, key):
        if key == "b":
            raise UnreadableSampleError("b: broken", key="b")
        return Sample(key, text="w0 w1 w2")


@pytest.mark.parametrize("pack", [False, True])
def test_unreadable_documents_of_a_stream_are_skipped(pack):
    tower = TowerInputs("text", texts=PIPELINES["none"])
    cut = contexts(Broken(), PIPELINES["none"], 4, pack=pack)
    out = [e for _, e in load_samples(cut, encode=lambda s: encode(s, [tower]), on_error="skip")]
    assert [type(e) for e in out].count(Skipped) == 1
    kept = [e for e in out if not isinstance(e, Skipped)]
    assert [d["key"] for e in kept for d in e.columns["context"]["documents"]] == ["a", "c"]


def test_unreadable_documents_of_a_source_are_one_unreadable_context(tmp_path):
    (tmp_path / "f.txt").write_bytes(b"w0 w1 w2\n\xff\nw3\n")
    cut = contexts(open_data(tmp_path / "f.txt"), PIPELINES["none"], 2)
    assert len(cut) == 4
    with pytest.raises(UnreadableSampleError, match=r"f\.txt:2"):
        cut[2]
    assert cut[3].text == "w3"
    with pytest.raises(UnreadableSampleError, match=r"f\.txt:2"):
        contexts(open_data(tmp_path / "f.txt"), PIPELINES["none"], 2, pack=True)


def test_identity():
    pipeline, texts = PIPELINES["bos"], open_data(["a b", "the cat"])
    one = contexts(texts, pipeline, 8).identity
    assert one["kind"] == "contexts" and one["count"] == 2 and one["of"] == texts.identity
    others = [
        contexts(texts, pipeline, 7),
        contexts(texts, pipeline, 8, stride=1),
        contexts(texts, pipeline, 8, pack=True),
        contexts(texts, PIPELINES["clip"], 8),
    ]
    assert all(other.identity != one for other in others)


def test_refusals():
    texts = open_data(["a b"])
    for length in (2, 17):
        with pytest.raises(ArgumentError, match=f"length: got {length}, expected 3 to 16"):
            contexts(texts, PIPELINES["clip"], length)
    for stride in (0, 7):
        with pytest.raises(ArgumentError, match=f"stride: got {stride}, expected 1 to 6"):
            contexts(texts, PIPELINES["clip"], 8, stride=stride)
    with pytest.raises(ArgumentError, match="no EOS"):
        contexts(texts, TextPipeline(word_tokenizer("none", eos_token=None), 8), pack=True)
    with pytest.raises(DataError, match="got no text"):
        contexts(open_data([Sample("x")]), PIPELINES["bos"])
    with pytest.raises(DataError, match="column named 'context'"):
        contexts(open_data([Sample("x", text="a", columns={"context": 1})]), PIPELINES["bos"])[0]


def test_a_real_tokenizer(shared_data):
    """A long document: the pieces of text join to the whole, the tokens to the tokenizer's own."""
    tokenizer = AutoTokenizer.from_pretrained(shared_data / "stories260K")
    pipeline = TextPipeline(tokenizer, 512)
    text = (shared_data / "text_labels" / "stsa.binary.test").read_text(encoding="utf-8")[:30_000]
    cut = contexts(open_data([text]), pipeline, 128)
    samples = list(cut)
    assert "".join(s.text for s in samples) == text
    body = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    assert [i for s in samples for i in s.tokens[1:]] == body
    assert all(s.tokens[0] == tokenizer.bos_token_id for s in samples)
    packed = contexts(open_data(text.split("\n")), pipeline, 128, pack=True)
    assert {len(s.tokens) for s in list(packed)[:-1]} == {128}
