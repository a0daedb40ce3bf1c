"""What the world's LLaVA is trained on is true; a run cut in two is the same run; the folder loads."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoProcessor, LlavaForConditionalGeneration

from mmxai.errors import ArgumentError, ModelError, PlanMismatchError
from mmxai.shapes import ShapesWorld, parse, true_of
from mmxai.shapes.checkpoint import read_state
from mmxai.shapes.llava import Train, main, train
from mmxai.shapes.llava_card import write_card
from mmxai.shapes.llava_feed import HEAD, KINDS, RELATED, Pool, batches, encode, pack, vision_features
from mmxai.shapes.llava_model import PROMPT, SEES, WORDS, build_processor, load_llava, new_llava
from mmxai.shapes.llava_score import answered, chance, predict, right
from mmxai.shapes.model import EOS
from mmxai.shapes.questions import questions
from mmxai.shapes.relative import PLACED, description, named_questions, relative_questions
from mmxai.shapes.rng import Choices
from mmxai.shapes.scene import ATTRIBUTES
from mmxai.shapes.words import article

TINY = {
    "pictures": 4, "pool": 24, "blocks": 1, "width": 32, "warmup": 2, "score_pictures": 8, "named": 2,
    "related": 3,
}  # fmt: skip


@pytest.fixture(scope="module")
def scenes():
    return ShapesWorld(400, seed=3).batch(range(400), texts=0).graphs


@pytest.fixture(scope="module")
def model():
    return new_llava(0, blocks=2, width=64)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def claim(asked, value, noun, rest=""):
    """A sentence saying that the object meant has the value."""
    words = {
        "colour": f"{value} {noun}",
        "size": f"{value} {noun}",
        "fill": f"{value} {noun}",
        "shape": value,
    }
    return f"{article(words[asked])} {words[asked]} {rest}".strip()


def test_relative_questions_have_one_answer_and_it_is_true(scenes):
    seen = set()
    for i, scene in enumerate(scenes):
        for q in relative_questions(scene, Choices(1, i), 3):
            asked, noun, words = q.text.split()[1], q.text.split()[4], q.text.removesuffix(" ?").split()
            relation = next(r for r in PLACED if f" {r} the " in q.text)
            referent = " ".join(words[words.index("the", 5) + 1 :])
            other = f"{article(referent)} {referent}"
            assert parse(other).unambiguous(scene), q
            for value in ATTRIBUTES[asked]:
                true = true_of(claim(asked, value, noun, f"{relation} {other}"), scene)
                assert true == (value == q.answer), q
            assert noun != asked
            seen.add((asked, relation))
    assert seen == {(a, r) for a in ("colour", "size", "fill", "shape") for r in PLACED}


def test_named_questions_mean_one_object(scenes):
    found = 0
    for i, scene in enumerate(scenes):
        for q in named_questions(scene, Choices(2, i), 4):
            words = q.text.removesuffix(" ?").split()
            if words[0] == "where":
                noun = " ".join(words[3:])
                assert true_of(f"{article(noun)} {noun} {_where(q.answer)}", scene), q
            elif "at" not in words:
                noun, asked = " ".join(words[4:]), words[1]
                things = [
                    t for p in parse(f"{article(noun)} {noun}").phrases for t in scene.objects if p.fits(t)
                ]
                assert [getattr(t, asked) for t in things] == [q.answer], q
            found += 1
    assert found == 4 * len(scenes)


def _where(place):
    return f"in the {place}" if place == "centre" else f"at the {place}" if " " in place else _edge(place)


def _edge(place):
    return f"at the {place}" if place in ("top", "bottom") else f"on the {place}"


def test_descriptions_say_everything_in_the_order_of_reading(scenes):
    for scene in scenes:
        facts = parse(description(scene).answer)
        assert facts.hold(scene) and facts.unambiguous(scene)
        assert len(facts.phrases) == len(scene.objects) and all(p.complete for p in facts.phrases)
        places = [ATTRIBUTES["place"].index(p.place) for p in facts.phrases]
        assert places == sorted(places)


def test_words_are_the_tokenizer_s(scenes):
    tokenizer = build_processor().tokenizer
    assert len(tokenizer) == len(WORDS) == len(set(WORDS))
    texts = [q.text for i, s in enumerate(scenes[:50]) for q in questions(s, 5, i)]
    texts += [description(s).answer for s in scenes[:50]]
    for text in texts:
        assert tokenizer(text, add_special_tokens=False).input_ids == encode(text)
        assert tokenizer.unk_token_id not in encode(text)


def test_the_vision_tower_is_the_shapes_clip_s(model):
    own = model.model.vision_tower.state_dict()
    clip = {k.removeprefix("vision_model."): v for k, v in load_file(SEES / "model.safetensors").items()}
    for name, tensor in own.items():
        torch.testing.assert_close(tensor, clip[name.removeprefix("vision_model.")].float(), atol=0, rtol=0)
        assert not tensor.requires_grad


def test_a_packed_question_is_answered_as_if_alone(model):
    """The mask, the positions and the features of training against transformers' own forward pass."""
    pool, processor = Pool(model, 3, 0, "train"), build_processor()
    asked = [pool.asked(i) for i in range(3)]
    packed, number = pack(asked), 0
    features = vision_features(model, pool.world.batch(range(3), texts=0).images)
    with torch.no_grad():
        logits = predict(model, features, packed)
        for p, several in enumerate(asked):
            for q in several:
                text = f"{PROMPT.format(question=q.text)} {q.answer}"
                alone = processor(images=pool.world[p].pil, text=text, return_tensors="pt")
                mine = packed.question == number
                expected = model(**alone).logits[0, -int(mine.sum()) :]
                torch.testing.assert_close(logits[mine], expected, atol=1e-4, rtol=1e-4)
                assert alone["input_ids"][0, : len(HEAD)].tolist() == HEAD
                answer = [*encode(q.answer), WORDS.index(EOS)]
                assert packed.targets[mine].tolist() == answer and KINDS[packed.kinds[number]] == q.kind
                number += 1
    assert number == len(packed.kinds)


def test_right_is_what_generate_writes(model):
    """Teacher-forced and greedy agree on which answers are right, also where only some words are."""
    pool, processor = Pool(model, 4, 0, "val"), build_processor()
    written = []
    for i in range(4):
        question = pool.asked(i)[0]
        text = PROMPT.format(question=question.text)
        inputs = processor(images=pool.world[i].pil, text=text, return_tensors="pt")
        out = model.generate(**inputs, max_new_tokens=2, do_sample=False)[0, inputs["input_ids"].shape[1] :]
        written.append((question, processor.tokenizer.decode(out)))
    true = [[replace(q, answer=text)] for q, text in written]
    # An untrained model does not end: its two words are right, and the end after them is not.
    packed = pack(true)
    with torch.no_grad():
        logits = predict(model, pool.features.float(), packed)
    ends = packed.targets == WORDS.index(EOS)
    assert (logits.argmax(-1) == packed.targets)[~ends].all()
    assert not right(logits, packed).any()
    asked, hits = answered(model, pool, true)
    assert [q for q, _ in zip(asked, hits, strict=True)] == [several[0] for several in true]


def test_a_run_cut_in_two_is_the_same_run(tmp_path, monkeypatch):
    monkeypatch.setattr("mmxai.shapes.llava_card.FEW", 16)
    whole = Train(tmp_path / "whole", steps=4, **TINY)
    cut = replace(whole, out=tmp_path / "cut")
    done = train(whole)
    assert train(replace(cut, minutes=0.0)) is None
    assert read_state(cut.out)["step"] == 1
    assert train(cut) == cut.out / "model"
    one, two = (load_file(c.out / "state.safetensors") for c in (whole, cut))
    assert one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one)
    assert not [k for k in one if "vision" in k]
    entries = [json.loads(line) for line in (cut.out / "log.jsonl").read_text().splitlines()]
    assert [e["step"] for e in entries] == sorted(e["step"] for e in entries)
    assert set(entries[-1]["scores"]) <= set(KINDS)
    with pytest.raises(PlanMismatchError, match="blocks: was 1, now 2"):
        train(replace(cut, blocks=2))
    with pytest.raises(PlanMismatchError, match="rate falls already"):
        train(replace(cut, steps=9))

    card = tmp_path / "card"
    write_card(whole.out, card, pictures=24)
    assert {p.name for p in card.iterdir()} >= {"README.md", "scores.json", "curve.png", "tokenizer.json"}
    text = (card / "README.md").read_text()
    assert "mmxai.shapes.llava train --out RUN --steps 4" in text and "| relative |" in text
    assert {t.dtype for t in load_file(card / "model.safetensors").values()} == {torch.float16}
    model = LlavaForConditionalGeneration.from_pretrained(card, dtype="float32")
    processor = AutoProcessor.from_pretrained(card)
    talk = [{"type": "image"}, {"type": "text", "text": "what colour is the star ?"}]
    prompt = processor.apply_chat_template([{"role": "user", "content": talk}], add_generation_prompt=True)
    assert prompt == PROMPT.format(question="what colour is the star ?")
    inputs = processor(images=ShapesWorld(1)[0].pil, text=prompt, return_tensors="pt")
    assert model.generate(**inputs, max_new_tokens=1).shape[1] == inputs["input_ids"].shape[1] + 1
    assert done.is_dir()


def test_a_step_learns(tmp_path):
    """Over and over the same few pictures: the answers come."""
    config = Train(tmp_path, steps=60, pictures=8, pool=16, blocks=1, width=64, warmup=5, rate=3e-3, named=60)
    train(replace(config, score_pictures=8))
    log = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    losses = [e["loss"] for e in log if "loss" in e]
    assert losses[-1] < 0.5 * losses[0]


def test_chances(scenes):
    by_kind = {q.kind: chance(q) for i, s in enumerate(scenes[:40]) for q in questions(s, 5, i)}
    assert by_kind["relation"] == by_kind["existence"] == 0.5 and by_kind["place"] == 1 / 9
    assert chance(description(scenes[0])) == 0
    asked = {
        q.text.split()[1]: chance(q)
        for i, s in enumerate(scenes)
        for q in relative_questions(s, Choices(1, i), 1)
    }
    assert asked == {"colour": 1 / 8, "shape": 1 / 8, "fill": 1 / 4, "size": 1 / 2}


@pytest.mark.parametrize(
    ("wrong", "said"),
    [({"steps": 0}, "steps"), ({"width": 48}, "multiple of 32"), ({"pool": 4}, "pool of 4")],
)
def test_settings_that_cannot_be(tmp_path, wrong, said):
    with pytest.raises(ArgumentError, match=said):
        train(replace(Train(tmp_path / "run"), **wrong))
    assert not (tmp_path / "run").exists()


def test_a_run_without_a_model_has_no_card(tmp_path, capsys):
    with pytest.raises(ModelError, match="trained to its end"):
        write_card(tmp_path, tmp_path / "card")
    with pytest.raises(ModelError, match="no LLaVA"):
        load_llava(tmp_path)
    assert main(["card", "--run", str(tmp_path), "--out", str(tmp_path / "card")]) == 1
    assert "error:" in capsys.readouterr().err


def test_pictures_of_several_objects_come_first(model):
    pool = Pool(model, 16, 0, "train")
    assert all(len(pool.scenes[i].objects) > 1 for i in pool.chosen(3, 4, several=True))
    assert np.array_equal(pool.chosen(3, 4, several=True), pool.chosen(3, 4, several=True))
    kinds = {q.kind for i in range(16) for q in pool.asked(i, 3, named=True)}
    assert kinds == {"attribute", "place"}
    assert {q.kind for i in range(16) for q in pool.asked(i, 3)} == set(KINDS)


def test_the_last_stage_asks_for_relations(model):
    pool = Pool(model, 16, 0, "train")
    stages = [packed.kinds for _, packed in batches(pool, 0, 3, 4, named=1, related=2)]
    relation, relative = KINDS.index("relation"), KINDS.index("relative")
    assert not (stages[0] == relation).any()
    for kinds, index in zip(stages[1:], (1, 2), strict=True):
        several = sum(len(pool.scenes[i].objects) > 1 for i in pool.chosen(index, 4, several=False))
        assert 0 < (kinds == relation).sum() <= several * (1 if index == 1 else 1 + RELATED)
    assert (stages[2] == relation).sum() > (stages[1] == relation).sum()
    assert (stages[1] == relative).sum() > (stages[2] == relative).sum()
    facts = [q.facts for i in range(16) for q in pool.asked(i, 2, related=3) if q.kind == "relation"]
    assert len(facts) > 16 and len(set(facts)) > 16
