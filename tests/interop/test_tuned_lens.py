"""Our tuned lens in the tuned-lens package, its own here: equal logits (`make interop`)."""

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import GPT2Config, GPT2LMHeadModel

import mmxai
from mmxai.bench.peers import Rival
from mmxai.bench.peers.environment import environment
from mmxai.methods.lens.tuned import TunedLens, load_tuned_lens, save_tuned_lens
from mmxai.methods.lens.tuned.layout import unembed_hash
from mmxai.models.unembedding import unembedding
from tests.models.contract import shake

pytestmark = [
    pytest.mark.skipif(
        "MMXAI_INTEROP" not in os.environ, reason="`make interop` runs it: it installs other libraries"
    ),
    pytest.mark.timeout(3600),
]

SCRIPT = Path(__file__).parent / "peers" / "tuned_lens_.py"
PACKAGES = ("tuned-lens==0.2.0", "torch=={torch}", "transformers==4.57.6", "safetensors==0.8.0")
CONFIG = {"vocab_size": 90, "n_positions": 16, "n_embd": 24, "n_layer": 3, "n_head": 4}


@pytest.fixture(scope="module")
def rival():
    with Rival("tuned-lens", environment("tuned-lens", PACKAGES), SCRIPT, {}) as rival:
        yield rival


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A tiny GPT-2: its weights, its configuration, ids."""
    folder = tmp_path_factory.mktemp("tuned")
    torch.manual_seed(0)
    module = shake(GPT2LMHeadModel(GPT2Config(**CONFIG, bos_token_id=1, eos_token_id=2)))
    kept = {k: v.contiguous() for k, v in module.state_dict().items() if k != "lm_head.weight"}
    save_file(kept, folder / "gpt2.safetensors")
    (folder / "gpt2.json").write_text(json.dumps(CONFIG))
    ids = torch.randint(3, 90, (2, 11))
    save_file({"ids": ids}, folder / "ids.safetensors")
    return folder, mmxai.load_model(module), ids


def here(model, ids, lens):
    """Our logits of each state of the stream."""
    end = unembedding(model)
    run = model.run({"input_ids": ids}, capture="text.*.resid_pre")
    out = {}
    for depth in range(CONFIG["n_layer"]):
        site = f"text.{depth}.resid_pre"
        x = run.acts[site].flatten(0, 1)
        out[str(depth)] = end.logits(lens.to_final(site, x)).unflatten(0, ids.shape)
    return out


def equal(found, expected):
    for depth, logits in expected.items():
        torch.testing.assert_close(found[depth], logits, atol=2e-5, rtol=1e-5)


def test_ours_in_the_package(rival, home, tmp_path):
    folder, model, ids = home
    draw = torch.Generator().manual_seed(1)
    depths = range(CONFIG["n_layer"])
    lens = TunedLens(
        "gpt2", "text", CONFIG["n_layer"], CONFIG["n_embd"],
        {d: torch.randn(24, 24, generator=draw) * 0.1 for d in depths},
        {d: torch.randn(24, generator=draw) for d in depths},
        unembed_hash(unembedding(model).weight),
    )  # fmt: skip
    save_tuned_lens(lens, tmp_path / "lens")
    rival.run("load", folder, tmp_path / "lens", tmp_path / "out.safetensors")
    found = load_file(tmp_path / "out.safetensors")
    equal(found, here(model, ids, lens))
    assert bool(found["same"]), "the package finds another unembedding than ours"


def test_theirs_here(rival, home, tmp_path):
    folder, model, ids = home
    rival.run("make", folder, tmp_path / "lens", tmp_path / "out.safetensors")
    assert sorted(p.name for p in (tmp_path / "lens").iterdir()) == ["config.json", "params.pt"]
    lens = load_tuned_lens(tmp_path / "lens")
    equal(load_file(tmp_path / "out.safetensors"), here(model, ids, lens))
    assert lens.unembed_hash == unembed_hash(unembedding(model).weight)
