"""The tuned lens: its start finds known drift, its descent lowers KL, a run resumes to the same bits."""

from dataclasses import replace

import pytest
import torch
from torch import nn

import mmxai
from mmxai.bench.memory import growth
from mmxai.errors import ArgumentError, CheckpointError, LensFormatError, NonFiniteError, SelectionError
from mmxai.methods.lens import lens
from mmxai.methods.lens.tuned import TunedLens, TunedLensConfig, load_tuned_lens, save_tuned_lens, tune_lens
from mmxai.methods.lens.tuned import train as training
from mmxai.methods.lens.tuned.loss import kl_and_gradients, kl_to_final
from mmxai.models.unembedding import Unembedding, unembedding
from mmxai.types import Rows
from tests.memory import linux
from tests.models.contract import shake
from tests.models.test_text import SIZES, LlamaConfig, LlamaForCausalLM

D, V, BLOCKS = 12, 60, 3
SMALL = {
    "sites": ("*.resid_post",),
    "batch": 128,
    "steps": 60,
    "eval_every": 20,
    "save_every": 7,
    "lr": 3e-3,
    "progress": False,
}


def end(vocab=V, width=D, **options):
    """A norm with weights of its own and a matrix of `vocab` names."""
    draw = torch.Generator().manual_seed(3)
    norm = nn.LayerNorm(width)
    nn.init.normal_(norm.weight, 1.0, 0.3, generator=draw)
    weight = torch.randn(vocab, width, generator=draw)
    return Unembedding("made", "text", width, weight, str, final=norm, blocks=BLOCKS, **options)


def drifted(rows, curve=0.0, seed=0):
    """States whose last one is h_2 (1 + A) + b exactly, and h_1, h_0 likewise of the one behind; `curve` adds
    what no affine map follows."""
    draw = torch.Generator().manual_seed(seed)
    first = torch.randn(rows, D, generator=draw) * torch.logspace(0, -1, D) + 0.5
    states, maps = [first], []
    fixed = torch.Generator().manual_seed(11)
    for _ in range(BLOCKS):
        a, b = torch.randn(D, D, generator=fixed) * 0.15, torch.randn(D, generator=fixed) * 0.3
        x = states[-1]
        states.append(x + x @ a.T + b + curve * torch.tanh(3 * x.flip(1)) ** 2)
        maps.append((a, b))
    return states, maps


@pytest.fixture
def store(tmp_path):
    return made(tmp_path / "acts.zarr", drifted(2000)[0])


def made(path, states, per_sample=8):
    n = len(states[0])
    index = torch.arange(n, dtype=torch.int32)
    rows = Rows.make(sample=index // per_sample, position=index % per_sample, token_type=4)
    names = ["text.0.resid_pre", *(f"text.{i}.resid_post" for i in range(len(states) - 1))]
    width = states[0].shape[1]
    with mmxai.create_store(path, sites=dict.fromkeys(names, width), dtype="float32", space="text") as w:
        w.write(range(n // per_sample), dict(zip(names, states, strict=True)), rows=rows)
    return mmxai.open_store(path)


def test_the_start_recovers_affine_drift(store):
    """The regression finds the composed maps: the lens then is the model, and nothing is left to descend."""
    _, maps = drifted(8)
    result = tune_lens(store, end(), steps=0, penalties=(1e-9, 1e-2), progress=False)
    whole, offset = torch.eye(D), torch.zeros(D)
    for depth in range(BLOCKS - 1, -1, -1):
        a, b = maps[depth]
        whole, offset = whole @ (torch.eye(D) + a), offset + whole @ b
        torch.testing.assert_close(result.lens.weight[depth], whole - torch.eye(D), atol=2e-4, rtol=0)
        torch.testing.assert_close(result.lens.bias[depth], offset, atol=2e-4, rtol=0)
    assert result.lens.sites == ["text.0.resid_pre", "text.0.resid_post", "text.1.resid_post"]
    for site in result.sites:
        assert site.kept == "least squares" and site.penalty == 1e-9
        assert site.kl < 1e-6 < 0.05 < site.kl_plain


def test_without_penalties_the_start_is_the_plain_lens(store):
    result = tune_lens(store, end(), penalties=(), steps=1, eval_every=1, batch=64, lr=1e-9, progress=False)
    assert all(s.kl_start == s.kl_plain and s.penalty == 0 for s in result.sites)


def test_descent_lowers_what_the_start_leaves(tmp_path):
    with made(tmp_path / "acts.zarr", drifted(3000, curve=0.8)[0]) as store:
        result = tune_lens(store, end(), **{**SMALL, "steps": 300})
        for optimiser, lr in (("sgd", 0.1), ("adamw", 3e-3)):
            cold = tune_lens(
                store, end(), penalties=(), optimiser=optimiser, **{**SMALL, "steps": 200, "lr": lr}
            )
            assert all(s.kl < 0.3 * s.kl_plain and s.kept == "descent" for s in cold.sites)
    for site in result.sites:
        assert site.kept == "descent" and 0 < site.step <= 300
        assert site.kl < 0.97 * site.kl_start < 0.01 * site.kl_plain
    assert "least" not in result.summary() and len(result.to_pandas()) == 2
    assert result.to_json()["sites"][0]["kl"] == pytest.approx(result.sites[0].kl, rel=1e-8)
    assert [line.get_label() for line in result.plot().lines] == ["logit lens", "tuned lens"]


def test_early_stop(store):
    """Done after `patience` looks without gain, and what is kept is the best, not the last."""
    result = tune_lens(
        store, end(), penalties=(1e-9,), lr=0.5, patience=2, **{k: v for k, v in SMALL.items() if k != "lr"}
    )
    assert result.steps == 40 and all(s.kept == "least squares" for s in result.sites)
    assert all(s.kl == s.kl_start for s in result.sites)


@pytest.mark.parametrize("softcap, scale, biased", [(None, 1.0, False), (2.0, 0.4, True)])
def test_gradients_are_those_of_autograd(softcap, scale, biased):
    bias = torch.randn(V) if biased else None
    last = end(softcap=softcap, scale=scale, bias=bias)
    final, states = torch.randn(37, D), [torch.randn(37, D), torch.randn(37, D) * 3]
    kl, gradients = kl_and_gradients(last, states, final, block_bytes=4 * V * 10)

    def dense(x):
        z = last.norm(x) @ last.weight.T * scale + (0 if bias is None else bias)
        return (z if softcap is None else torch.tanh(z / softcap) * softcap).log_softmax(1)

    for x, found, gradient in zip(states, kl, gradients, strict=True):
        x = x.requires_grad_(True)
        log_p = dense(final).detach()
        expected = (log_p.exp() * (log_p - dense(x))).sum(1)
        torch.testing.assert_close(found, expected, atol=2e-6, rtol=1e-5)
        torch.testing.assert_close(gradient, torch.autograd.grad(expected.sum(), x)[0], atol=2e-6, rtol=1e-5)
    (zero,) = kl_to_final(last, [final], final, block_bytes=4 * V * 10)
    assert not zero.any()


@pytest.mark.parametrize("optimiser", ["adamw", "sgd"])
def test_stopped_and_resumed_is_the_same_to_the_last_bit(store, tmp_path, monkeypatch, optimiser):
    options = {**SMALL, "penalties": (1e-2,), "optimiser": optimiser}
    whole = tune_lens(store, end(), **options)
    looks, before = [], training._Run._measure

    def interrupt(self, descents):
        looks.append(self.step)
        if self.step == 40 and len(looks) < 4:
            raise OSError("the disk is gone")
        return before(self, descents)

    monkeypatch.setattr(training._Run, "_measure", interrupt)
    with pytest.raises(OSError, match="the disk is gone"):
        tune_lens(store, end(), out=tmp_path / "run", **options)
    again = tune_lens(store, end(), out=tmp_path / "run", **options)
    assert looks == [0, 20, 40, 40, 60]  # from step 35 on; the start was not solved again
    assert again.sites == whole.sites and again.steps == whole.steps
    for depth in whole.lens.weight:
        assert torch.equal(again.lens.weight[depth], whole.lens.weight[depth])
        assert torch.equal(again.lens.bias[depth], whole.lens.bias[depth])
    done = tune_lens(store, end(), out=tmp_path / "run", **options)
    assert done.sites == whole.sites and looks == [0, 20, 40, 40, 60]
    with pytest.raises(CheckpointError, match=r"lr: was 0\.003, now 0\.1"):
        tune_lens(store, end(), out=tmp_path / "run", **{**options, "lr": 0.1})
    (tmp_path / "run" / "checkpoint.safetensors").write_bytes(b"no")
    with pytest.raises(CheckpointError, match="remove it to begin anew"):
        tune_lens(store, end(), out=tmp_path / "run", **options)


@linux
def test_memory_is_a_few_blocks_of_logits(tmp_path):
    vocab, rows = 40_000, 2048
    draw = torch.Generator().manual_seed(0)
    last, state, final = (
        end(vocab),
        torch.randn(rows, D, generator=draw),
        torch.randn(rows, D, generator=draw),
    )
    block = 4 << 20
    kl_and_gradients(last, [state[:8]], final[:8], block_bytes=block)
    _, taken = growth(lambda: kl_and_gradients(last, [state, state], final, block_bytes=block))
    assert taken < 12 * block < rows * vocab * 4 / 6  # of two states and the last one


def test_to_final():
    lens = TunedLens("m", "text", 2, 3, {1: torch.eye(3)}, {1: torch.tensor([1.0, 2.0, 3.0])})
    x = torch.randn(4, 3)
    expected = 2 * x + lens.bias[1]
    for site in ("text.0.resid_post", "text.1.resid_pre"):
        torch.testing.assert_close(lens.to_final(site, x), expected)
    assert lens.to_final("text.1.resid_post", x) is x
    half = lens.to_final("text.0.resid_post", x.bfloat16())
    assert half.dtype == torch.bfloat16 and lens.sites == ["text.0.resid_post"]
    with pytest.raises(ArgumentError, match=r"text\.0\.resid_pre.*expected one of \['text\.0\.resid_post'\]"):
        lens.to_final("text.0.resid_pre", x)
    for site in ("text.0.mlp_out", "vision.0.resid_post"):
        with pytest.raises(ArgumentError, match="translates the stream"):
            lens.to_final(site, x)
    with pytest.raises(ArgumentError, match=r"\(4, 2\)"):
        lens.to_final("text.0.resid_post", x[:, :2])


def test_layout(store, tmp_path):
    lens = tune_lens(store, end(), sites=("*.resid_post",), steps=0, progress=False).lens
    folder = save_tuned_lens(lens, tmp_path / "lens")
    assert sorted(p.name for p in folder.iterdir()) == ["config.json", "params.pt", "params.safetensors"]
    for pickled in (False, True):
        if pickled:
            (folder / "params.safetensors").unlink()
        again = load_tuned_lens(folder)
        assert (again.model, again.tower, again.blocks, again.width) == ("made", "text", BLOCKS, D)
        assert again.sites == lens.sites == ["text.0.resid_post", "text.1.resid_post"]
        assert again.identity == lens.identity and again.unembed_hash == lens.unembed_hash
        assert all(torch.equal(again.weight[d], lens.weight[d]) for d in lens.weight)
    with pytest.raises(LensFormatError, match=r"no config\.json"):
        load_tuned_lens(tmp_path)
    config = (folder / "config.json").read_text()
    (folder / "config.json").write_text(config.replace("linear_tuned_lens", "conv"))
    with pytest.raises(LensFormatError, match="'conv'"):
        load_tuned_lens(folder)
    (folder / "config.json").write_text(config.replace(f'"d_model": {D}', '"d_model": 7'))
    with pytest.raises(LensFormatError, match=r"expected a weight \(7, 7\)"):
        load_tuned_lens(folder)
    (folder / "params.pt").write_bytes(b"\x80\x02}q\x00")
    with pytest.raises(LensFormatError, match="damaged"):
        load_tuned_lens(folder)


def test_what_cannot_be_is_said_before_the_first_step(store, tmp_path):
    last = end()
    with pytest.raises(ArgumentError, match="'rate'"):
        tune_lens(store, last, rate=1)
    with pytest.raises(ArgumentError, match=r"before text\.2\.resid_post"):
        tune_lens(store, last, sites=("text.2.resid_post",))
    with pytest.raises(ArgumentError, match=r"expected text\.4\.resid_post"):
        tune_lens(store, replace(last, blocks=5))
    with pytest.raises(ArgumentError, match="a batch of 9,999"):
        tune_lens(store, last, batch=9999)
    with pytest.raises(SelectionError, match="no row is left"):
        tune_lens(store, last, splits=(1.0, 0.0, 0.0))
    for wrong in ({"lr": 0.0}, {"penalties": (0.0,)}, {"optimiser": "lion"}, {"batch": 0}):
        with pytest.raises(ArgumentError):
            TunedLensConfig(**wrong)
    states = drifted(400)[0]
    states[1][77] = float("nan")
    with made(tmp_path / "bad.zarr", states) as bad, pytest.raises(NonFiniteError):
        tune_lens(bad, last, **SMALL)


def test_real_text(shared_data, tmp_path):
    """stories260K: at every block the tuned lens is nearer to the output than the plain one, held out."""
    model = mmxai.load_model(str(shared_data / "stories260K"))
    lines = (shared_data / "text_labels" / "stsa.binary.train").read_text(errors="replace").splitlines()
    texts = [line.split(" ", 1)[1] for line in lines[:500]]
    mmxai.harvest(
        model, [{"text": t} for t in texts], sites=["text.0.resid_pre", "text.*.resid_post"],
        store=tmp_path / "acts.zarr", long="truncate", store_dtype="float32", progress=False,
    )  # fmt: skip
    last = unembedding(model)
    with mmxai.open_store(tmp_path / "acts.zarr") as store:
        result = tune_lens(
            store, last, sites=("text.0.resid_pre", "text.*.resid_post"), tokens=("text",), steps=60,
            batch=512, eval_rows=1024, lr=1e-3, progress=False,
        )  # fmt: skip
    assert len(result.sites) == 5
    assert all(s.kl < 0.8 * s.kl_plain and s.kl <= s.kl_start for s in result.sites), result
    assert [s.kl for s in result.sites] == sorted((s.kl for s in result.sites), reverse=True)
    run = model.run("Once upon a time there was a little girl", capture="text.*.resid_post")
    final = run.acts["text.4.resid_post"][0]
    for i in range(4):
        x = run.acts[f"text.{i}.resid_post"][0]
        tuned = result.lens.to_final(f"text.{i}.resid_post", x)
        before, after = kl_to_final(last, [x, tuned], final, block_bytes=1 << 20)
        assert after.mean() < before.mean()


def test_it_plugs_into_the_lens():
    """`lens(translator=)`: what it says of a state is what the translated state says."""
    torch.manual_seed(0)
    model = mmxai.load_model(shake(LlamaForCausalLM(LlamaConfig(**SIZES))))
    ids = torch.randint(3, 60, (2, 7))
    draw = torch.Generator().manual_seed(1)
    weight = {d: torch.randn(32, 32, generator=draw) * 0.1 for d in (1, 2)}
    tuned = TunedLens("llama", "text", 3, 32, weight, {d: torch.ones(32) for d in (1, 2)})
    found = lens(model, {"input_ids": ids}, sites="text.*.resid_post", translator=tuned)
    acts = {
        s: x.flatten(0, 1) for s, x in model.run({"input_ids": ids}, capture="text.*.resid_post").acts.items()
    }
    translated = [tuned.to_final(site, x) for site, x in acts.items()]
    expected = kl_to_final(unembedding(model), translated, acts["text.2.resid_post"], block_bytes=1 << 20)
    for site, kl in zip(acts, expected, strict=True):
        torch.testing.assert_close(found.kl[found.states.index(site)], kl, atol=1e-5, rtol=1e-4)
