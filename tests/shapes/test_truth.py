"""Truth of many sentences at once is truth of each; near scenes are near; batches are what they say."""

import numpy as np
import torch

from mmxai.shapes import ShapesWorld, swapped
from mmxai.shapes.captions import say
from mmxai.shapes.check import parse
from mmxai.shapes.facts import Phrase
from mmxai.shapes.feed import KINDS, Encoder, Feed
from mmxai.shapes.model import BOS, EOS, PAD, SPECIAL, build_tokenizer
from mmxai.shapes.pairs import near, unseen
from mmxai.shapes.prompts import middle_prompts, place_prompts, prompts, relation_prompts, short_relation
from mmxai.shapes.rng import Choices
from mmxai.shapes.scene import COLOURS, HELD_OUT, SHAPES
from mmxai.shapes.truth import truth

WORLD = ShapesWorld(300, seed=5, split="train")


def test_truth_is_what_each_sentence_says_of_each_scene():
    batch = WORLD.batch(range(60), texts=6)
    facts = [c.facts for written in batch.captions for c in written]
    facts += [
        f.facts
        for g, cs in zip(batch.graphs, batch.captions, strict=True)
        for c in cs
        for _, f in swapped(c, g)
    ]
    expected = [[f.hold(scene) for scene in batch.graphs] for f in facts]
    assert np.array_equal(truth(facts, batch.graphs), expected)


def test_an_emptied_scene_and_nothing_at_all():
    twin = next(WORLD.twin(i, "remove") for i in range(300) if len(WORLD[i].scene.objects) == 1)
    scenes = [twin.original.scene, twin.changed.scene]
    facts = [c.facts for c in (*twin.original.captions, *twin.changed.captions)]
    assert np.array_equal(truth(facts, scenes), [[f.hold(s) for s in scenes] for f in facts])
    assert truth([], scenes).shape == (0, 2)


def test_near_scenes_differ_in_one_kind_of_attribute_and_stay_in_the_split():
    indices = np.arange(300)
    scenes = WORLD.scenes(indices)
    others = near(scenes, 7, indices)
    assert np.array_equal(others.things, near(scenes, 7, indices).things)
    some = near(scenes.take(indices[50:60]), 7, indices[50:60])
    assert np.array_equal(some.things, others.things[50:60])
    differ = (scenes.things != others.things).any(axis=1)[:, :5]
    # A swap may find nothing to exchange; nearly all find something, and only ever one kind.
    assert (differ.sum(axis=1) <= 1).all() and differ.sum() > 290
    assert differ.any(axis=0).all()
    present = np.arange(3) < scenes.count[:, None]
    assert not (unseen(others.things) & present).any()


def test_encoder_is_the_tokenizer():
    encode, tokenizer = Encoder(), build_tokenizer()
    for item in WORLD[:100]:
        for caption in item.captions:
            assert encode(caption.text) == tokenizer(caption.text)["input_ids"]
        for question in item.questions:
            assert encode(question.text) == tokenizer(question.text)["input_ids"]


def test_a_batch_is_a_pure_function_of_seed_and_step():
    feed = Feed(100, 16, seed=3)
    one, two, other = feed[4], Feed(100, 16, seed=3)[4], feed[5]
    assert torch.equal(one.images, two.images) and torch.equal(one.true, two.true)
    assert not torch.equal(one.images, other.images)
    texts = sum(len(t) for t in one.tokens)
    assert one.images.shape == (16, 64, 64, 3) and one.true.shape == (texts, 16) == (len(one.kinds), 16)
    assert set(one.kinds.tolist()) == set(range(len(KINDS)))
    for ids in one.tokens:
        assert (ids[:, 0] == SPECIAL.index(BOS)).all() and ((ids == SPECIAL.index(EOS)).sum(1) == 1).all()
        assert (ids[:, -1] != SPECIAL.index(PAD)).any()
    # Every picture has true sentences, and there are sentences true of none: the false swaps.
    assert one.true.any(0).all() and (~one.true.any(1)).any()


def test_nothing_held_out_is_seen_or_said():
    """Of the pairs that the compositional split is about, training has neither pictures nor sentences."""
    feed, tokenizer = Feed(100, 64, seed=1), build_tokenizer()
    for step in range(4):
        batch = feed[step]
        lines = [s for ids in batch.tokens for s in tokenizer.batch_decode(ids, skip_special_tokens=True)]
        facts = [parse(line.replace(" ,", ",")) for line in lines]
        assert len(facts) == len(batch.kinds) and not any(f.held_out for f in facts)
    shape, colour = HELD_OUT["shape", "colour"][0]
    assert parse(f"a {COLOURS[colour]} {SHAPES[shape]}").held_out
    assert sum(p.held_out for p in map(parse, ("a red circle", "a circle", "a red thing"))) == 0


def test_prompts_are_every_attribute_and_pair_once():
    found = prompts()
    assert len(found) == len(set(found)) == 31 + (64 - 8) + 16 + 32 + 16 + (32 - 4) + 8
    scene = WORLD[0].scene
    told = {p.phrases[0] for p in found if p.hold(scene)}
    for thing in scene.objects:
        assert Phrase(shape=thing.shape) in told and Phrase(place=thing.place) in told


def test_place_prompts_say_what_they_claim():
    facts, middle = place_prompts(), middle_prompts()
    assert len(set(facts)) == 21 * 9 and len({(begin, end) for begin, end, _ in middle}) == 21 * 4
    assert [parse(say(fact, 3)) for fact in facts] == list(facts)
    assert [parse(f"{say(begin, 3)} {end}") for begin, end, _ in middle] == [fact for _, _, fact in middle]
    late, never = Feed(10, 16, seed=3, places_from=5), Feed(10, 16, seed=3, places_from=10)
    assert torch.equal(late[4].true, never[4].true)
    asked = KINDS.index("place")
    assert (late[5].kinds == asked).sum() > 200
    assert not (never[5].kinds == asked).any()


def test_relation_prompts_are_asked_from_a_step_on():
    found = relation_prompts()
    assert len(set(found)) == 20 * 4 and not any(f.held_out for f in found)
    late, early = Feed(10, 16, seed=3, relations_from=5), Feed(10, 16, seed=3)
    assert torch.equal(late[6].true, early[6].true)
    assert (early[4].kinds == KINDS.index("relation")).sum() > (
        late[4].kinds == KINDS.index("relation")
    ).sum()
    tall = next(s for s in (i.scene for i in WORLD) if len(s.objects) == 2 and "above" in s.relations(0, 1))
    told = {(p.phrases[0], p.relations[0][1]) for p in found if p.hold(tall)}
    assert (Phrase(colour=tall.objects[0].colour), "above") in told
    assert (Phrase(shape=tall.objects[1].shape), "below") in told


def test_short_relations_are_true():
    scenes = [item.scene for item in WORLD[:100]]
    for index, scene in enumerate(scenes):
        facts = short_relation(scene, Choices(5, index))
        assert (facts is None) == (len(scene.objects) < 2)
        assert facts is None or (facts.hold(scene) and len(facts.relations) == 1)
