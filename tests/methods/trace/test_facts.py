"""ROME's figure: on a model whose facts have a known carrier the trace peaks there; real text runs."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

import mmxai
from mmxai.errors import ArgumentError, DataError
from mmxai.methods.trace.corruptions import Noise
from mmxai.methods.trace.facts import ROLES, Asked, Fact, asked, known, read_facts
from mmxai.methods.trace.facts_question import facts_question, figure
from mmxai.methods.trace.types import Span
from tests.methods.trace.facts_ import BLOCKS, ROWS, SHUT, drawn, trained

FIRST, MIDDLE, LAST, NEXT, FURTHER, END = range(len(ROLES))


@pytest.fixture(scope="module", params=ROWS)
def case(request):
    """A carrier, the model that learned it, new facts, and their study."""
    carrier, model = request.param, trained(request.param)
    question = facts_question(model, drawn(30, carrier, seed=7), draws=3)
    return carrier, model, question, question.run()


def test_the_trace_peaks_at_the_carrier(case):
    """Nothing but the carrier holds the answer in the blocks that were shut, and the last token holds it at
    the end: early site and late site."""
    carrier, _, question, found = case
    stream, attention, mlp = (m.value for m in found.maps)
    here = ROLES.index(carrier)
    assert len(question.known) >= 28 and found.clean.value > 0.9 > 0.7 > found.corrupted.value
    assert [m.kind for m in found.maps] == ["resid_post", "attn_out", "mlp_out"]
    for block in range(SHUT):
        assert stream[block].argmax() == here and stream[block, here] > 0.8
        others = np.delete(stream[block], here)
        assert np.abs(others).max() < 0.1
        low, high = found.maps[0].low[block, here], found.maps[0].high[block, here]
        assert 0.6 < low < stream[block, here] < high < 1.1
    np.testing.assert_allclose(stream[BLOCKS - 1], [0, 0, 0, 0, 0, 1], atol=1e-5)
    # It leaves the carrier by the last token's attention, once the blocks are open.
    assert (attention[:SHUT, END] < 0.1).all() and attention[SHUT:, END].max() > 0.5
    assert mlp[0].argmax() == here


def test_values_are_those_of_one_restored_token_at_a_time(case):
    """Against plain hooks: the noisy run of one draw, and one row put back, for a few cells."""
    _, model, question, _ = case
    fact = question.known[:2]
    one = facts_question(model, [f.fact for f in fact], draws=2, seed=3, kinds=("resid_post",))
    found = one.run()
    part = one.parts[0]
    made = part.corruption(model, part.clean, [0, 1])
    clean = model.run(part.clean, capture="text.*.resid_post")
    answers = torch.tensor([f.answer[0] for f in fact])

    def score(run):
        return run.out.logits[:, -1].softmax(-1).reshape(-1, 2, run.out.logits.shape[-1])[:, [0, 1], answers]

    lost, full = score(model.run(made.inputs, edit=made.edits)), score(clean)
    for block in range(BLOCKS):
        site = f"text.{block}.resid_post"
        for role in (FIRST, MIDDLE, NEXT, FURTHER, END):
            effects = []
            for row in fact[0].rows(ROLES[role]):

                def put(x, row=row, site=site):
                    x = x.clone()
                    x[:, row] = clean.acts[site][:, row].repeat(2, 1)
                    return x

                edits = {k: [v] for k, v in made.edits.items()}
                edits.setdefault(site, []).append(put)
                effects.append(score(model.run(made.inputs, edit=edits)) - lost)
            expected = torch.stack(effects).mean() / (full - lost).mean()
            assert found.maps[0].value[block, role] == pytest.approx(float(expected), abs=1e-5)


def test_windows(case):
    """All blocks' attention put back at the last token is all that reaches it: everything comes back."""
    _, model, question, _ = case
    facts = [one.fact for one in question.known[:4]]
    found = facts_question(model, facts, draws=2, window=BLOCKS, kinds=("attn_out", "mlp_out")).run()
    assert [m.value.shape for m in found.maps] == [(1, len(ROLES))] * 2
    assert found.maps[0].value[0, END] == pytest.approx(1, abs=1e-5)
    with pytest.raises(ArgumentError, match="--window"):
        facts_question(model, facts, window=BLOCKS + 1)


def test_what_is_known(case):
    _, model, question, _ = case
    pipeline = model.feeds.texts("text")
    right = question.known[0].fact
    wrong = replace(right, attribute="w70")
    read = [asked(pipeline, f) for f in (right, wrong)]
    assert [one.fact for one in known(model, read, batch=1)] == [right]
    question = facts_question(model, [right, wrong, replace(right, attribute="zebra")], draws=1)
    assert question.facts == {"facts traced": "1 of 3", "facts that cannot be asked": "1"}
    assert "zebra" in question.notes[0] and question.cells == 3 * BLOCKS * 7
    assert facts_question(model, [right, wrong], only_known=False).facts["facts traced"] == "2 of 2"
    with pytest.raises(ArgumentError, match="knows none"):
        facts_question(model, [wrong])
    with pytest.raises(ArgumentError, match="got none"):
        facts_question(model, [right], limit=0)


def test_noise_is_of_the_subjects_embeddings_fresh_or_shared(case):
    """Three standard deviations of the subjects' embeddings, drawn a fact, or once for all facts."""
    _, model, question, _ = case
    facts = [one.fact for one in question.known[:3]]
    table = model.module.transformer.wte.weight.detach()
    ids = model.feeds.texts("text").tokenizer([f.prompt for f in facts], return_tensors="pt")["input_ids"]
    deviation = float(table[ids[:, 1:4]].std())
    for shared in (False, True):
        part = facts_question(model, facts, draws=2, shared=shared).parts[0]
        made = part.corruption(model, part.clean, [0, 1, 2])
        assert isinstance(part.corruption, Noise)
        assert part.corruption.scale == pytest.approx(deviation, rel=1e-5)
        plain = model.run(made.inputs, capture="text.embed").acts["text.embed"]
        added = model.run(made.inputs, capture="text.embed", edit=made.edits).acts["text.embed"] - plain
        assert not added[:, 0].any() and not added[:, 4:].any()
        assert float(added[:, 1:4].std()) == pytest.approx(3 * deviation, rel=0.2)
        assert torch.allclose(added[0], added[1], atol=1e-6) == shared


def test_roles():
    fact = Fact("b", "a b c d e", "x")
    one = Asked(fact, (1, 1), 5, (7,))
    assert [one.rows(r) for r in ROLES] == [[1], [], [1], [2], [3], [4]]
    one = Asked(fact, (0, 3), 5, (7,))
    assert [one.rows(r) for r in ROLES] == [[0], [1, 2], [3], [4], [], [4]]


def test_roles_that_no_fact_has_are_blank(case):
    """Facts of one subject token have no middle: no number, rather than a zero."""
    _, model, question, _ = case
    fact = question.known[0].fact
    short = Fact(fact.prompt.split()[0], fact.prompt, fact.attribute)
    found = facts_question(model, [short], draws=1, only_known=False).run()
    assert all(np.isnan(m.value[:, MIDDLE]).all() for m in found.maps)
    assert all(np.isfinite(np.delete(m.value, MIDDLE, 1)).all() for m in found.maps)
    np.testing.assert_array_equal(found.maps[0].value[:, FIRST], found.maps[0].value[:, LAST])


def test_figure(case):
    out = figure(case[3])
    panels = [ax for ax in out.axes if ax.get_title()]
    assert len(panels) == 3 and panels[0].get_title() == "the residual stream"
    effect = (case[3].clean.value - case[3].corrupted.value) * case[3].maps[1].value.T
    np.testing.assert_allclose(panels[1].images[0].get_array(), effect)
    assert [t.get_text() for t in panels[0].get_yticklabels()] == list(ROLES)


def test_files(tmp_path):
    path = tmp_path / "facts.json"
    path.write_text(json.dumps([{"subject": "a", "prompt": "a is ", "attribute": " b", "more": 1}]))
    assert read_facts(path) == [Fact("a", "a is", "b")]
    for text, says in (("{", "not JSON"), ("[]", "one at least"), ('[{"subject": "a"}]', "fact 0")):
        path.write_text(text)
        with pytest.raises(DataError, match=says):
            read_facts(path)
    with pytest.raises(DataError, match="No such file"):
        read_facts(tmp_path / "none.json")


def test_subjects_by_offsets(shared_data):
    """Real tokens: the subject's rows hold its words and no other; 1,209 facts of ROME's file are read."""
    model = mmxai.load_model(str(shared_data / "stories260K"))
    pipeline = model.feeds.texts("text")
    facts = read_facts(shared_data / "facts" / "known_1000.json")
    assert len(facts) == 1209
    for fact in facts[::40]:
        one = asked(pipeline, fact)
        ids = pipeline.prefix + pipeline.tokenize(fact.prompt)
        assert one.length == len(ids)
        first, last = one.subject
        said = pipeline.decode(ids[first : last + 1])
        assert fact.subject in said and len(said.strip()) <= len(fact.subject) + 2
        assert fact.attribute in pipeline.decode(list(one.answer))
    with pytest.raises(ArgumentError, match="expected a part of"):
        asked(pipeline, Fact("Mars", "The moon is", "round"))


def test_real_sentences(shared_data):
    """stories260K: sentences it goes on with as told, through all of it; the last block's stream is exact."""
    model = mmxai.load_model(str(shared_data / "stories260K"))
    told = [
        Fact("little girl", "Once upon a time, there was a little girl", "named"),
        Fact("Once upon", "Once upon", "a"),
        Fact("Once upon a", "Once upon a time, there was", "a"),
    ]
    question = facts_question(model, told, draws=3)
    assert len(question.known) >= 2
    planned = question.studies()
    assert planned[0].study.predict().cells == question.cells
    found = question.run(planned)
    assert found.clean.value > found.corrupted.value
    for m in found.maps:
        assert m.value.shape == (5, len(ROLES)) and m.window == 1
    assert found.maps[0].value[4, END] == pytest.approx(1, abs=1e-4)
    rome = facts_question(
        model,
        shared_data / "facts" / "known_1000.json",
        limit=3,
        only_known=False,
        draws=1,
        kinds=("mlp_out",),
    )
    assert np.isfinite(rome.run().maps[0].value).all()


def test_spans_stand_for_single_tokens(case):
    question = case[2]
    spans = question.parts[0].wanted[0].spans
    assert all(isinstance(s, Span) and (s.mask.sum(1) <= 1).all() for s in spans)
