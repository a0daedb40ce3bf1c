"""The lens against transformers' own modules applied to its own hidden states, figure by figure."""

import numpy as np
import pytest
import torch

from mmxai.errors import ArgumentError, RowSpaceError, UnknownSiteError
from mmxai.methods.lens import lens, load_lens
from mmxai.models import load_model
from tests.models import test_clip, test_text
from tests.models.contract import shake

FAMILIES = {
    "gpt2": test_text.TestGPT2,
    "llama": test_text.TestLlama,
    "gemma2": test_text.TestGemma2,
    "neox": test_text.TestNeoX,
}
_PAD, _SAMPLE, _POSITION, _TOKEN = 7, 0, 1, 5


def made(name):
    case = FAMILIES[name]()
    torch.manual_seed(1)
    model = load_model(shake(case.make()))
    return model, case.tensors()


def dense(model, states):
    """Log-probabilities `[.., V]` by the modules of the model, float64 behind them."""
    module = model.module
    base = getattr(module, "transformer", None) or getattr(module, "gpt_neox", None) or module.model
    norm = next(m for n in ("ln_f", "final_layer_norm", "norm") if (m := getattr(base, n, None)) is not None)
    head = module.get_output_embeddings()
    with torch.no_grad():
        logits = head(norm(states)).double()
        if (cap := getattr(module.config, "final_logit_softcapping", None)) is not None:
            logits = torch.tanh(logits / cap) * cap
        return logits.log_softmax(-1)


@pytest.mark.parametrize("name", FAMILIES)
def test_every_figure_against_transformers(name):
    model, tensors = made(name)
    with torch.no_grad():
        out = model.module(**tensors, output_hidden_states=True)
    # transformers' last hidden state is normed already: the last block's own comes by a hook.
    last = f"text.{model.towers['text'].dims.blocks - 1}.resid_post"
    hidden = [*out.hidden_states[:-1], model.run(tensors, capture=last).acts[last]]
    found = lens(model, tensors, k=4, targets=[3, 11])
    mask = tensors.get("attention_mask", torch.ones_like(tensors["input_ids"])).bool()
    final = dense(model, hidden[-1])[mask]
    torch.testing.assert_close(out.logits.double().log_softmax(-1)[mask], final, rtol=0, atol=1e-5)
    assert len(found.states) == len(hidden) and found.rows.shape == (int(mask.sum()), 8)
    assert torch.equal(found.table.token_id.long(), tensors["input_ids"][mask])
    for s, state in enumerate(hidden):
        logs = dense(model, state)[mask]
        best = logs.topk(4)
        torch.testing.assert_close(found.logprobs[s].double(), best.values, rtol=0, atol=1e-5)
        assert (found.ids[s] == best.indices).float().mean() > 0.99  # ties apart
        chances = logs.exp()
        torch.testing.assert_close(found.entropy[s].double(), -(chances * logs).sum(1), rtol=0, atol=1e-5)
        kl = (final.exp() * (final - logs)).sum(1)
        torch.testing.assert_close(found.kl[s].double(), kl, rtol=0, atol=1e-5)
        for t, token in enumerate((3, 11)):
            torch.testing.assert_close(
                found.target_logprobs[s, :, t].double(), logs[:, token], rtol=0, atol=1e-5
            )
            rank = (logs > logs[:, token, None] + 1e-9).sum(1)
            assert (found.target_ranks[s, :, t] == rank).float().mean() > 0.99
    assert torch.equal(found.best.long(), final.argmax(1))
    assert torch.equal(found.ids[-1, :, 0], found.best)


def test_the_next_token_is_the_row_behind_of_the_same_sample():
    model, tensors = made("llama")
    found = lens(model, tensors, targets="next")
    for at in range(len(found.rows)):
        row = found.rows[at]
        behind = [r for r in found.rows if r[_SAMPLE] == row[_SAMPLE] and r[_POSITION] == row[_POSITION] + 1]
        assert int(found.targets[at, 0]) == (int(behind[0][_TOKEN]) if behind else -1)
    none = found.targets[:, 0] < 0
    assert none.sum() == len(found.table.sample.unique())
    assert found.target_logprobs[:, none].isnan().all() and (found.target_ranks[:, none] == -1).all()
    assert not found.target_logprobs[:, ~none].isnan().any()


def test_targets_of_each_sample():
    model, tensors = made("gpt2")
    every = lens(model, tensors, targets=[4, 9])
    own = lens(model, tensors, targets={0: [4], 1: [9]})
    first = own.table.sample == 0
    second = own.table.sample == 1
    torch.testing.assert_close(own.target_logprobs[:, first, 0], every.target_logprobs[:, first, 0])
    torch.testing.assert_close(own.target_logprobs[:, second, 0], every.target_logprobs[:, second, 1])
    assert (own.targets[own.table.sample > 1] == -1).all() and own.target_names == ["target"]


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2", "neox"])
def test_heads_sum_to_what_attention_adds_but_for_its_bias(name):
    """Before the norm behind them (Gemma 2, whose factor of a row the final norm drops)."""
    from mmxai.methods.lens.states import states_of
    from mmxai.models.linear import matrix_of
    from mmxai.models.unembedding import unembedding

    model, tensors = made(name)
    tower = model.towers["text"]
    states = states_of(["text.1.z"], model.sites(), unembedding(model), model)
    assert len(states) == tower.dims.heads and states[2].name == "text.1.z.2"
    run = model.run(tensors, capture=["text.1.z", "text.1.attn_out"])
    z, whole = run.acts["text.1.z"].flatten(0, 1), run.acts["text.1.attn_out"].flatten(0, 1)
    added = torch.stack([s.rows(z) for s in states]).sum(0)
    _, bias = matrix_of(tower.sites["text.1.z"].point.module, "z")
    if name == "gemma2":  # its norm divides each row by a number
        ratio = whole / added
        torch.testing.assert_close(ratio, ratio[:, :1].expand_as(ratio), rtol=1e-3, atol=1e-3)
        return
    torch.testing.assert_close(added if bias is None else added + bias, whole, rtol=1e-4, atol=1e-5)


def test_values_are_what_a_row_gives_whoever_looks_at_it_alone():
    """With grouped keys: against attention that is set to look at one row."""
    model, tensors = made("llama")
    run = model.run(tensors, capture=["text.1.v", "text.1.pattern"])
    heads, length = model.towers["text"].dims.heads, model.rows_per_sample("text")

    def alone(pattern):
        made = torch.zeros_like(pattern).unflatten(-1, (heads, length))
        made[..., 0] = 1  # everybody reads the first row
        return made.flatten(-2)

    edited = model.run(tensors, capture=["text.1.attn_out"], edit={"text.1.pattern": alone})
    found = lens(model, tensors, sites=["text.1.v"])
    from mmxai.methods.lens.states import states_of
    from mmxai.models.unembedding import unembedding

    (state,) = states_of(["text.1.v"], model.sites(), unembedding(model), model)
    given = state.rows(run.acts["text.1.v"][:, 0])
    bias = model.module.model.layers[1].self_attn.o_proj.bias
    torch.testing.assert_close(given + bias, edited.acts["text.1.attn_out"][:, 2], rtol=1e-4, atol=1e-5)
    assert found.states == ["text.1.v"]


def test_a_translator_stands_before_the_norm():
    model, tensors = made("gpt2")

    class Turned:
        def to_final(self, site, x):
            return x.flip(1) if site == "text.0.resid_post" else x

    plain = lens(model, tensors)
    moved = lens(model, tensors, translator=Turned())
    own = plain.states.index("text.0.resid_post")
    changed = (plain.entropy - moved.entropy).abs().amax(1)
    assert changed[own] > 1e-6 and changed[[i for i in range(len(changed)) if i != own]].max() == 0


def test_figures_over_rows(tmp_path):
    model, tensors = made("llama")
    tensors["input_ids"][:, 0] = 1  # the first token of a text, which is special
    found = lens(model, tensors, targets="next", sites=["text.*.resid_post", "text.1.z"])
    entropy = found.curve("entropy")
    np.testing.assert_allclose(entropy.mean, found.entropy.double().mean(1), rtol=1e-6)
    assert entropy.rows == len(found.rows) and (entropy.low <= entropy.mean).all()
    assert (entropy.mean <= entropy.high).all() and (entropy.low < entropy.high).any()
    first = found.curve("the next token comes first")
    known = found.targets[:, 0] >= 0
    expected = (found.target_ranks[:, known, 0] == 0).double().mean(1)
    np.testing.assert_allclose(first.mean, expected, rtol=1e-6)
    kinds = found.table.token_type
    for kind, code in (("special", 3), ("text", 4)):
        own = found.kl[:, kinds == code].double().mean(1)
        np.testing.assert_allclose(found.curve("kl", kind).mean, own, rtol=1e-5)
    with pytest.raises(ArgumentError, match="expected one of"):
        found.curve("nothing")
    # `first_final` by hand.
    said = found.ids[found.stream(), :, 0]
    for row, first_at in enumerate(found.first_final()):
        agree = [bool(x) for x in said[:, row] == found.best[row]]
        assert all(agree[first_at:]) and (first_at == 0 or not agree[first_at - 1])
    again = load_lens(found.save(tmp_path / "lens.json"))
    assert again.states == found.states and torch.equal(again.ids, found.ids)
    assert torch.equal(again.kl, found.kl) and again.tokens == found.tokens
    np.testing.assert_allclose(again.curve("kl").high, found.curve("kl").high, rtol=1e-8)
    frame = found.to_pandas()
    assert len(frame) == len(found.states) * len(found.rows) and "kl" in frame
    pytest.importorskip("matplotlib").use("Agg")
    assert found.plot() is not None
    assert str(found).startswith("LlamaForCausalLM, text: 7 states")
    (tmp_path / "lens.json").write_text("{}")
    with pytest.raises(ArgumentError, match="damaged"):
        load_lens(tmp_path / "lens.json")


def test_only_the_first_rows_are_kept_and_all_are_counted():
    model, tensors = made("gpt2")
    every, some = lens(model, tensors), lens(model, tensors, keep=5)
    assert len(some.rows) == 5 and some.seen == every.seen > 5
    assert torch.equal(some.ids, every.ids[:, :5]) and torch.equal(some.rows, every.rows[:5])
    np.testing.assert_array_equal(some.curve("kl").mean, every.curve("kl").mean)


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"sites": "text.1.mlp_post"}, ArgumentError, "expected states of the residual stream"),
        ({"sites": "text.9.resid_post"}, UnknownSiteError, "did you mean"),
        ({"k": 0}, ArgumentError, "k=0"),
        ({"targets": [10**6]}, ArgumentError, "expected a number from 0"),
        ({"targets": ["red"]}, ArgumentError, "no tokenizer"),
        ({"targets": {0: [1], 1: [2, 3]}}, ArgumentError, "as many of each"),
        ({"texts": ["a"]}, ArgumentError, "the bank of a CLIP"),
        ({"tower": "vision"}, ArgumentError, "expected one of"),
    ],
)
def test_refusals(options, error, said):
    model, tensors = made("gpt2")
    with pytest.raises(error, match=said):
        lens(model, tensors, **options)


def test_a_target_that_the_vocabulary_lacks():
    from tests.models.tokenizers_ import word_tokenizer

    model, tensors = FAMILIES["gpt2"]().make(), FAMILIES["gpt2"]().tensors()
    model = load_model(model, tokenizer=word_tokenizer())
    with pytest.raises(ArgumentError, match="target 'dog': is not in the model's vocabulary"):
        lens(model, tensors, targets=["dog"])
    assert lens(model, tensors, targets=["<unk>"]).targets.eq(3).all()


def test_sites_of_one_row_space():
    torch.manual_seed(0)
    case = test_clip.TestCLIP()
    model = load_model(case.make())
    bank = torch.randn(3, model.sites()["vision.embeds"])
    with pytest.raises(ArgumentError, match="row spaces"):
        lens(model, case.tensors(), texts=bank, sites=["vision.*.resid_post", "vision.ln_final"])
    with pytest.raises(RowSpaceError, match="vision tower"):
        lens(model, case.tensors(), texts=bank, tower="vision", sites=["text.*.resid_post"])
    pooled = lens(model, case.tensors(), texts=bank, tower="vision", sites=["vision.ln_final"])
    tokens = lens(model, case.tensors(), texts=bank, tower="vision", sites=["vision.*.resid_post"])
    cls = tokens.table.token_type == 0
    torch.testing.assert_close(pooled.logprobs[0], tokens.logprobs[-1, cls], rtol=0, atol=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_what_comes_first_has_rank_0(seed):
    """However long states and weights are, against which rounding of a single logit counts."""
    from mmxai.methods.lens.passes import look
    from mmxai.methods.lens.states import Stack, State
    from mmxai.models.unembedding import Unembedding

    made = torch.Generator().manual_seed(seed)
    weight = torch.randn(300, 192, generator=made) + 30 * torch.randn(1, 192, generator=made)
    states = torch.randn(400, 192, generator=made)
    end = Unembedding("m", "text", 192, weight, str, blocks=1)
    stack = Stack([State("text.0.resid_post", "text.0.resid_post", 0, "resid_post")], end)
    best = (states.double() @ weight.double().T).topk(5)
    sure = (best.values[:, 0] - best.values[:, 1]) > 1e-2
    found = look(stack, {"text.0.resid_post": states}, best.indices[:, :3], None, k=5)
    assert sure.sum() > 300 and (found.target_ranks[0, sure, 0] == 0).all()
    foremost = found.ids[0, :, :, None].long() == best.indices[:, None, :3]
    place = torch.where(foremost.any(1), foremost.int().argmax(1), -1)
    assert torch.equal(found.target_ranks[0][place >= 0].long(), place[place >= 0])
