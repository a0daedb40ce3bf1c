"""Captions are true of their scenes, hard negatives are false, and both read back."""

import pytest

from mmxai.errors import ArgumentError
from mmxai.shapes import ShapesWorld, parse, prompt, swapped, true_of
from mmxai.shapes.words import all_words


@pytest.fixture(scope="module")
def described():
    batch = ShapesWorld(800, seed=5).batch(range(800), texts=6)
    return [(g, c) for g, written in zip(batch.graphs, batch.captions, strict=True) for c in written]


def test_every_caption_parses_back_to_its_facts_and_holds(described):
    for graph, caption in described:
        facts = parse(caption.text)
        assert facts == caption.facts and facts.hold(graph), caption.text


def test_kinds_and_ambiguity(described):
    assert {c.kind for _, c in described} == {"full", "relation", "partial", "count", "background"}
    full = [c for _, c in described if c.kind == "full"]
    assert all(c.unambiguous and all(p.complete for p in c.facts.phrases) for c in full)
    for graph, caption in described:
        if caption.kind in ("relation", "partial"):
            assert caption.unambiguous == (len(list(caption.facts.assignments(graph))) == 1)
    assert any(not c.unambiguous for _, c in described if c.kind == "partial")


def test_full_captions_of_other_scenes_are_rarely_true(described):
    full = [(g, c) for g, c in described if c.kind == "full"][::8]
    hits = sum(c.facts.hold(g) for g, _ in full for _, c in full)
    assert len(full) <= hits <= 1.05 * len(full)


def test_swaps_are_false_and_keep_the_wording(described):
    seen = set()
    for graph, caption in described:
        for what, other in swapped(caption, graph):
            seen.add(what)
            assert not true_of(other.text, graph) and parse(other.text) == other.facts
            if what in ("colour", "shape"):
                assert len(caption.text.split()) == len(other.text.split())
    assert seen == {"colour", "shape", "size", "fill", "relation"}


def test_wordings_vary_and_draws_differ():
    world = ShapesWorld(50, seed=2)
    one, two = world.batch(range(50)), world.batch(range(50), draw=1)
    assert sum(a[0].text != b[0].text for a, b in zip(one.captions, two.captions, strict=True)) > 40
    texts = [world.batch([4], draw=d).captions[0][0].text for d in range(60)]
    assert len(set(texts)) > 40


def test_the_vocabulary_holds_every_word(described):
    words = set(all_words())
    for _, caption in described:
        assert set(caption.text.replace(",", " ,").split()) <= words
    for item in ShapesWorld(200, seed=9):
        for question in item.questions:
            assert set(f"{question.text} {question.answer}".split()) <= words


def test_the_issues_own_example():
    facts = parse("a small red circle above a striped blue square")
    assert facts.relations == ((0, "above", 1),)
    assert (facts.phrases[0].size, facts.phrases[1].fill) == ("small", "striped")
    assert prompt("circle", "orange") == "an orange circle"


@pytest.mark.parametrize("text", ["a red", "a red blue circle", "red circle", "a circle circle", "a foo box"])
def test_what_is_not_a_caption_is_refused(text):
    with pytest.raises(ArgumentError, match="caption"):
        parse(text)


def test_every_kind_of_claim_can_be_false():
    item = next(i for i in ShapesWorld(50, seed=1) if len(i.scene.objects) == 2)
    other = "light" if item.scene.tone == "dark" else "dark"
    assert not true_of(f"a {other} {item.scene.background} background".replace("noise", "noisy"), item.scene)
    assert not true_of("three objects", item.scene) and true_of("two objects", item.scene)
    assert not true_of("nothing", item.scene)
