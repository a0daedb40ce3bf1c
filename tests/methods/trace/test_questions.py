"""Studies of one prompt or picture: their maps held against runs edited by hand, and known answers."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import LlamaConfig, LlamaForCausalLM

import mmxai
from mmxai.errors import ArgumentError
from mmxai.methods.trace import answers, metrics
from mmxai.methods.trace.clip_question import clip_question
from mmxai.methods.trace.corrupting import HOW, Asked
from mmxai.methods.trace.findings import Findings, Side, load_findings
from mmxai.methods.trace.picture_question import picture_question
from mmxai.methods.trace.text_question import text_question
from mmxai.models import edits
from mmxai.shapes import ShapesWorld
from mmxai.shapes.llava_model import new_llava, save_llava
from tests.models.tokenizers_ import word_tokenizer

PROMPT = "the cat w1 w2 w3"


@pytest.fixture(scope="module")
def world():
    return ShapesWorld(20, seed=3, split="test")


@pytest.fixture(scope="module")
def llama():
    tokenizer = word_tokenizer()
    sizes = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=2)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = LlamaForCausalLM(
            LlamaConfig(**sizes, vocab_size=len(tokenizer), max_position_embeddings=64, initializer_range=0.3)
        )
    return mmxai.load_model(module, tokenizer=tokenizer)


@pytest.fixture(scope="module")
def llava(tmp_path_factory):
    folder = tmp_path_factory.mktemp("llava") / "tiny"
    save_llava(new_llava(blocks=2, width=64), folder)
    return mmxai.load_model(folder)


def by(found, title):
    return next(m for m in found.maps if m.title.startswith(title))


def test_a_prompt_and_its_counterfactual(llama):
    other = "the cat w9 w2 w3"
    question = text_question(llama, PROMPT, answer="w7", foil="w8", counterfactual=other)
    found = question.run()
    assert question.cells == 3 * 3 * 6 == sum(m.value.size for m in found.maps)
    ids = [llama.feeds.texts("text").tokenize(t)[0] for t in ("w7", "w8")]
    stream = by(found, "the residual stream")
    assert stream.columns == ["<s>", "the", "cat", "w1", "w2", "w3"] and np.isnan(stream.low).all()
    clean = llama.run([PROMPT], capture="text.*.resid_post")
    said = (clean.out.logits[0, -1, ids[0]] - clean.out.logits[0, -1, ids[1]]).item()
    assert found.clean.value == pytest.approx(said, abs=1e-5)
    for block, row in ((0, 3), (1, 4), (1, 5)):
        site = f"text.{block}.resid_post"
        put = edits.only(torch.arange(6) == row, lambda x, site=site: clean.acts[site])
        logits = llama.run([other], edit={site: put}).out.logits[0, -1]
        whole = found.clean.value - found.corrupted.value
        by_hand = ((logits[ids[0]] - logits[ids[1]]).item() - found.corrupted.value) / whole
        assert stream.value[block, row] == pytest.approx(by_hand, abs=1e-4)
    # Behind the last block the last token decides alone, and what stands before the change was never changed.
    np.testing.assert_allclose(stream.value[2], [0, 0, 0, 0, 0, 1], atol=1e-5)
    np.testing.assert_allclose(stream.value[:, :3], 0, atol=1e-6)


def test_noise_on_a_subject_has_intervals(llama):
    found = text_question(llama, PROMPT, answer="w7", subject="cat w1", draws=6, seed=1).run()
    assert found.samples == 6 and "3 sigma on 'cat w1', 6 draws" in found.corruption
    assert found.score == "probability of 'w7'" and len(found.clean.tokens) == 5
    stream = by(found, "the residual stream")
    assert ((stream.low <= stream.value + 1e-9) & (stream.value <= stream.high + 1e-9)).all()
    assert (stream.high - stream.low)[0, 2] > 0 and stream.value[2, 5] == pytest.approx(1, abs=1e-4)


def test_what_is_found_is_saved_and_read(llama, tmp_path):
    found = text_question(llama, PROMPT, answer="w7", subject="cat", draws=2).run()
    path = found.save(tmp_path / "trace.json")
    again = load_findings(path)
    assert again.summary() == found.summary() and again.to_json() == found.to_json()
    frame = again.to_pandas()
    assert len(frame) == 54 and set(frame["map"]) == {m.title for m in found.maps}
    assert again.plot(number=1).get_ylabel() == "block"
    for text in ("{", "[1]", json.dumps({"maps": []})):
        path.write_text(text)
        with pytest.raises(ArgumentError, match="no study of tracing"):
            load_findings(path)


def test_most_are_estimated_and_the_best_run(llama):
    question = text_question(llama, PROMPT, answer="w7", foil="w8", counterfactual="the cat w9 w2 w3")
    exact = question.run()
    told = []
    found = question.run(question.studies(keep=10), progress=lambda done, of: told.append((done, of)))
    assert found.estimated == 44 and told[-1] == (10, 10)
    for ours, theirs in zip(found.maps, exact.maps, strict=True):
        run = ~ours.estimated
        np.testing.assert_allclose(ours.value[run], theirs.value[run], atol=1e-5)
    assert by(found, "the residual stream").value[2, 5] == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (dict(answer="w7"), "neither --subject nor --counterfactual"),
        (dict(answer="w7", subject="dog"), "--subject: got 'dog', expected a part of the text"),
        (dict(answer="dog", subject="cat"), "not in the model's vocabulary"),
        (dict(answer=" ", subject="cat"), "expected a word or more"),
        (dict(answer="w7", foil="w7", subject="cat"), "the answer's own tokens"),
        (dict(answer="w7", counterfactual="the cat"), r"got 2 tokens \['the', 'cat'\], expected 5"),
        (dict(answer="w7", counterfactual=PROMPT), "got the prompt itself"),
        (dict(answer="w7", subject="cat", window=9), "--window: got 9, expected 1 to 3"),
    ],
)
def test_prompts_that_cannot_be(llama, given, said):
    with pytest.raises(ArgumentError, match=said):
        text_question(llama, PROMPT, **given)


def test_answers_that_the_vocabulary_lacks(llama):
    clean = llama.prepare([PROMPT])
    with pytest.raises(ArgumentError, match=r"answers: got 'w1 dog'.*not in the model's vocabulary"):
        metrics.probability("w1 dog").bind(llama, clean)
    assert metrics.probability("<unk>").bind(llama, clean).tokens == [[(3,)]]


def test_tokens_of_an_answer(llama):
    pipeline = llama.feeds.texts("text")
    assert answers.continuation(pipeline, "the cat", "w1 w2") == tuple(pipeline.tokenize("w1 w2"))

    class Merging:
        """A vocabulary in which a space at the end belongs to the word behind it."""

        tokenizer = None

        def tokenize(self, text):
            return [1, 2] if text == "it is " else [1, 3]

    with pytest.raises(ArgumentError, match="leave the space at the prompt's end out"):
        answers.continuation(Merging(), "it is ", "red")


def test_a_picture_and_a_question(llava, world):
    """A random model: what is put back by hand is what the maps say; all rows together are everything."""
    item = next(i for i in world if i.masks[0].sum() > 150)
    twin = world.twin(item.index, "colour", 0).changed
    asked = Asked("other", item.masks[0], twin.pil, whole=True)
    question = picture_question(
        llava, item.pil, "what colour is it ?", answer="red", foil="blue", asked=asked, grid=2
    )
    found = question.run()
    tokens = by(found, "the residual stream at each token")
    assert "[object]" in tokens.columns and "colour" in tokens.columns and tokens.columns[-1] == ":"
    assert tokens.value[-1, -1] == pytest.approx(1, abs=1e-4)
    groups = by(found, "the residual stream at groups of rows, vision")
    assert groups.columns[:3] == ["object", "ring", "background"] and len(groups.random) == 5
    assert groups.control_of == "object" and len(groups.value) == 5  # the last is not read
    clean, other = (
        llava.prepare([{"image": p, "text": "what colour is it ?"}]) for p in (item.pil, twin.pil)
    )
    ids = [llava.feeds.texts("text").tokenize(t)[0] for t in ("red", "blue")]
    site = "vision.1.resid_post"
    states = llava.run(clean, capture=site).acts[site]
    span = next(w for w in question.parts[0].wanted if w.title == groups.title).spans[0]
    put = edits.only(span.mask, lambda x: states)
    logits = llava.run(other, edit={site: put}).out.logits[0, -1]
    by_hand = (logits[ids[0]] - logits[ids[1]]).item() - found.corrupted.value
    whole = found.clean.value - found.corrupted.value
    assert groups.value[1, 0] == pytest.approx(by_hand / whole, abs=2e-3)
    patches = by(found, "the residual stream at each patch, text")
    assert patches.side == 4 and sorted(patches.places) == [(0, y, x) for y in (0, 4) for x in (0, 4)]
    blocked = [m for m in found.maps if m.shows == "knockouts"]
    assert {m.control_of for m in blocked} == {
        "picture to question", "picture to last", "question to last", "object to question", "object to last",
    }  # fmt: skip
    assert [len(m.random) for m in blocked if m.control_of.startswith("object")] == [5, 5]


@pytest.mark.parametrize("how", HOW)
def test_corruptions_of_a_picture(llava, world, how):
    item = world[0]
    asked = Asked(how, item.masks[0], draws=2)
    question = picture_question(
        llava, item.pil, "what colour is it ?", answer="red", asked=asked, grid=1, kinds=("resid_post",)
    )
    made = question.parts[0].corruption(llava, question.parts[0].clean, [0])
    assert made.draws == (2 if how in ("noise", "pixels") else 1)
    clean = llava.run(question.parts[0].clean).out.logits[0, -1]
    corrupted = llava.run(made.inputs, edit=made.edits).out.logits[:, -1]
    assert len(corrupted) == made.draws and ((corrupted - clean).abs().amax(1) > 1e-6).all()
    assert (question.corrupted is None) == (how in ("noise", "drop"))
    assert any(m.spans[0].space == "vision" for m in question.parts[0].wanted) == (how != "drop")


def test_the_shapes_clip_finds_the_object(world):
    """The object's patches carry its colour in the first blocks, the class token in the last."""
    model = mmxai.load_model("shapes-clip")
    item = next(i for i in world if len(i.scene.objects) == 1 and i.masks[0].sum() > 150)
    twin = world.twin(item.index, "colour", 0)
    thing = item.scene.objects[0]
    texts = [f"a {c} {thing.shape}" for c in (twin.change.before, twin.change.after)]
    asked = Asked("other", item.masks[0], twin.changed.pil, whole=True)
    found = clip_question(model, item.pil, texts, asked=asked, grid=4, kinds=("resid_post",)).run()
    assert found.clean.value > 0.05 > -0.05 > found.corrupted.value
    groups = by(found, "the residual stream at groups of rows, vision")
    own, token = groups.columns.index("object"), groups.columns.index("class token")
    others = np.abs(groups.value[0, groups.random]).max()
    assert groups.value[0, own] > 0.35 > 0.25 > others
    assert groups.value[-1, token] == pytest.approx(1, abs=1e-4) and abs(groups.value[-1, own]) < 1e-4
    patches = by(found, "the residual stream at each patch")
    tile, (_, y, x) = found.tiles[0], patches.places[int(patches.value[0].argmax())]
    side = 64 / tile["grid"][0]
    y, x = int(y * side), int(x * side)
    assert item.masks[0][y : y + int(2 * side), x : x + int(2 * side)].any()
    words = by(found, "the residual stream at each token, text")
    end, said = words.columns.index("</s>"), words.columns.index(twin.change.before)
    # Read in the very first block by the token that is pooled; nothing before the word can differ.
    assert words.value[0, end] > 0.8 and words.value[-1, end] == pytest.approx(1, abs=1e-4)
    np.testing.assert_allclose(words.value[:, :said], 0, atol=1e-5)


def test_texts_of_unequal_lengths_leave_the_text_tower_out(world):
    model = mmxai.load_model("shapes-clip")
    texts = ["a red circle", "a big blue circle"]
    question = clip_question(model, world[0].pil, texts, asked=Asked("mean"), kinds=("resid_post",))
    assert len(question.parts) == 1 and "different numbers of tokens" in question.notes[0]
    with pytest.raises(ArgumentError, match="expected one text, or two"):
        clip_question(model, world[0].pil, ["a", "a"], asked=Asked("mean"))


def test_pictures_that_cannot_be(llama, llava, world):
    item = world[0]
    asked = Asked("mean")
    with pytest.raises(ArgumentError, match="a model that reads texts alone"):
        picture_question(llama, item.pil, PROMPT, answer="w7", asked=asked)
    with pytest.raises(ArgumentError, match="of a CLIP give --texts"):
        picture_question(
            mmxai.load_model("shapes-clip"), item.pil, "what colour ?", answer="red", asked=asked
        )
    with pytest.raises(ArgumentError, match="changes no pixel"):
        same = Asked("other", other=item.pil)
        picture_question(llava, item.pil, "what colour is it ?", answer="red", asked=same)
    with pytest.raises(ArgumentError, match="--grid: got 0"):
        picture_question(llava, item.pil, "what colour is it ?", answer="red", asked=asked, grid=0)
    with pytest.raises(ArgumentError, match="expected one of blur"):
        Asked("melt")
    with pytest.raises(ArgumentError, match="no joint space"):
        clip_question(llava, item.pil, ["a"], asked=asked)


def test_a_corruption_that_takes_nothing_is_told(llava, world):
    """One pixel of noise-free grey: the answer hardly moves, and the page says so."""
    item = world[0]
    pixels = item.image.copy()
    pixels[0, 0] = 255 - pixels[0, 0]
    asked = Asked("other", other=Image.fromarray(pixels))
    found = picture_question(
        llava, item.pil, "what colour is it ?", answer="red", asked=asked, grid=1, kinds=("resid_post",)
    ).run()
    assert any("hardly changes" in n for n in found.notes)


def test_a_side_may_have_no_tokens():
    nothing = Side(0.5, float("nan"), float("nan"))
    found = Findings("m", "a", "s", "c", nothing, nothing, 1, [])
    assert "0.5 clean" in found.summary() and found.estimated == 0 and "Hase" in found.limits[1]
