from __future__ import annotations

import json
from collections import UserDict

import pytest
import torch
from PIL import Image
from torch import nn
from transformers import AutoModelForCausalLM

from mmxai.errors import ArgumentError, ModelError, RowSpaceError, UnknownSiteError
from mmxai.models import load_model
from mmxai.models.feeds import samples_of
from mmxai.types import Batch

from .contract import close, shake
from .test_clip import TestCLIP as Clip
from .test_text import TestBert as Bert
from .test_text import TestLlama as Llama


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "tiny-llama"
    shake(Llama().make()).save_pretrained(path)
    return path


# Real weights


def test_every_resid_post_of_real_weights(shared_data):
    path = shared_data / "stories260K"
    model = load_model(path)
    reference = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    inputs = model.prepare(
        ["Once upon a time, there was a little girl named Lily.", "Tim saw a big dog.", "The"]
    )
    run = model.run(inputs, capture=["text.*.resid_post", "text.ln_final"])
    with torch.no_grad():
        hidden = reference(**inputs.tensors, output_hidden_states=True).hidden_states
    keep = inputs.tensors["attention_mask"].bool()
    for i in range(4):
        close(run.acts[f"text.{i}.resid_post"][keep], hidden[i + 1][keep])
    close(run.acts["text.ln_final"][keep], hidden[5][keep])
    close(reference.model.norm(run.acts["text.4.resid_post"])[keep].detach(), hidden[5][keep])


def test_capture_of_texts_drops_padding_and_marks_special_tokens(shared_data):
    model = load_model(shared_data / "stories260K")
    out, batch = model.capture(["Once upon a time", "Lily"], "blocks.{0,2}.hook_resid_post")
    assert isinstance(batch, Batch) and batch.sites == ["text.0.resid_post", "text.2.resid_post"]
    assert batch.space == "text" and batch.num_rows == 7
    assert batch.rows.sample.tolist() == [0] * 5 + [1] * 2
    assert batch.rows.token_type.tolist() == [3, 4, 4, 4, 4, 3, 4]
    assert out.logits.shape[:2] == (2, 5)


def test_identity_of_real_weights_does_not_depend_on_the_folder(shared_data, tmp_path):
    model = load_model(shared_data / "stories260K")
    model.module.save_pretrained(tmp_path / "copy")
    copy = load_model(tmp_path / "copy")
    assert json.loads(json.dumps(model.identity)) == model.identity
    assert {**copy.identity, "name": ""} == {**model.identity, "name": ""}
    with torch.no_grad():
        copy.module.model.layers[2].mlp.up_proj.weight[0, 0] += 1e-3
    from mmxai.models.identity import fingerprint

    assert fingerprint(copy.module) != model.identity["weights"]


def test_large_models_are_sampled(monkeypatch):
    from mmxai.models import identity

    module = nn.Linear(300, 300)
    whole = identity.fingerprint(module)
    monkeypatch.setattr(identity, "FULL_BYTES", 1000)
    sampled = identity.fingerprint(module)
    assert sampled != whole
    with torch.no_grad():
        module.weight.mul_(1.001)
    assert identity.fingerprint(module) != sampled


# What is loaded


def test_half_precision_checkpoints_become_float32_on_the_cpu(tmp_path):
    shake(Llama().make()).to(torch.float16).save_pretrained(tmp_path / "half")
    assert load_model(tmp_path / "half").dtype == torch.float32
    assert load_model(tmp_path / "half", dtype="bfloat16").dtype == torch.bfloat16
    with pytest.raises(ModelError, match="float33"):
        load_model(tmp_path / "half", dtype="float33")


def test_objects_keep_their_dtype_and_go_to_eval_mode():
    module = Llama().make().to(torch.bfloat16).train()
    model = load_model(module)
    assert model.dtype == torch.bfloat16 and not module.training and model.module is module


def test_wrappers_are_looked_through():
    class Lora(nn.Module):
        """A twin of peft's wrapper: the model two levels down, attributes forwarded."""

        def __init__(self, model):
            super().__init__()
            self.base_model = nn.Module()
            self.base_model.model = model
            self.peft_config = {}

        def __getattr__(self, name):
            try:
                return super().__getattr__(name)
            except AttributeError:
                return getattr(self._modules["base_model"].model, name)

    class LoraLinear(nn.Module):
        def __init__(self, base):
            super().__init__()
            self.base_layer = base
            self.extra = nn.Linear(base.in_features, base.out_features, bias=False)

        def forward(self, x):
            return self.base_layer(x) + self.extra(x)

    module = shake(Llama().make())
    before = load_model(module).run(Llama().tensors(), capture="text.1.v").acts["text.1.v"]
    module.model.layers[1].self_attn.v_proj = LoraLinear(module.model.layers[1].self_attn.v_proj)
    wrapped = Lora(module)
    assert wrapped.config is module.config
    for outer in (wrapped, nn.DataParallel(module)):
        model = load_model(outer)
        assert model.module is module
        assert not torch.equal(model.run(Llama().tensors(), capture="text.1.v").acts["text.1.v"], before)


def test_modules_without_an_adapter_are_pointed_to_wrap():
    with pytest.raises(ModelError, match=r"mmxai\.wrap"):
        load_model(nn.Linear(2, 2))


# What is refused


def test_missing_folder_names_the_nearest(folder):
    with pytest.raises(ModelError, match="tiny-llama"):
        load_model(folder.parent / "tiny-lama")
    with pytest.raises(ModelError, match="got a file"):
        load_model(folder / "config.json")
    with pytest.raises(ModelError, match="tiny-llama"):
        load_model(folder.parent)


def test_unknown_hub_id_offline(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match="hub"):
        load_model("nobody-at-all/no-such-model")


def test_pickles_are_refused_with_the_way_out(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match="save_pretrained"):
        load_model(folder)
    (folder / "pytorch_model.bin").unlink()
    with pytest.raises(ModelError, match="no weights"):
        load_model(folder)


def test_broken_folders(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 4}))
    with pytest.raises(ModelError, match="stay random"):
        load_model(folder)
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "lama"}))
    with pytest.raises(ModelError):
        load_model(folder)
    (folder / "config.json").write_text(
        json.dumps({**config, "model_type": "mine", "auto_map": {"AutoModel": "x.Y"}})
    )
    with pytest.raises(ModelError, match="own code"):
        load_model(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(ModelError, match="JSON"):
        load_model(folder)


def test_truncated_weights(folder):
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ModelError, match="cannot load"):
        load_model(folder)


def test_model_types_without_adapter():
    from transformers import BloomConfig, BloomModel

    module = BloomModel(BloomConfig(hidden_size=16, n_layer=1, n_head=2, vocab_size=8))
    with pytest.raises(ModelError, match="'bloom' has no adapter"):
        load_model(module)


# Names


def test_names_globs_ranges_and_aliases():
    model = load_model(Clip().make())
    assert model.resolve("vision.*.resid_post") == [f"vision.{i}.resid_post" for i in range(3)]
    assert model.resolve(["vision.1-2.q", "text.-1.z"]) == ["vision.1.q", "vision.2.q", "text.1.z"]
    assert model.resolve("vision.{0,2}.mlp_post") == ["vision.0.mlp_post", "vision.2.mlp_post"]
    assert model.resolve(["text.0.q", "vision.0.q"]) == ["vision.0.q", "text.0.q"]
    assert model.resolve("text.0.embed") == ["text.embed"]
    assert model.resolve("*") == list(model.sites())
    with pytest.raises(UnknownSiteError, match=r"vision\.2\.resid_post"):
        model.resolve("vision.2.resid_pots")
    with pytest.raises(UnknownSiteError):
        model.resolve("blocks.0.hook_resid_post")  # which tower?
    with pytest.raises(UnknownSiteError):
        model.resolve("vision.7.q")
    llama = load_model(Llama().make())
    assert llama.resolve("lm.2.attn_out") == ["text.2.attn_out"]
    assert llama.resolve("blocks.1.attn.hook_z") == ["text.1.z"]
    assert llama.resolve("blocks.*.mlp.hook_post") == [f"text.{i}.mlp_post" for i in range(3)]
    assert llama.resolve(["hook_embed", "ln_final.hook_normalized"]) == ["text.embed", "text.ln_final"]
    assert llama.resolve("model.layers.0.mlp") == ["module:model.layers.0.mlp"]
    assert load_model(Bert().make()).resolve("text.*.resid_mid")


# Inputs and runs


def test_inputs_that_do_not_fit():
    model = load_model(Clip().make())
    tensors = Clip().tensors()
    with pytest.raises(ArgumentError, match="pixel_values"):
        model.run({"input_ids": tensors["input_ids"]}, capture="vision.0.q")
    with pytest.raises(ArgumentError, match="expected"):
        model.run({"pixels": tensors["pixel_values"]})
    with pytest.raises(ArgumentError, match="no tensors"):
        model.run({"pixel_values": [1, 2]})
    with pytest.raises(ModelError, match="tokenizer"):
        model.run(["a photo"])
    with pytest.raises(ArgumentError):
        model.run([UserDict()])
    with pytest.raises(RowSpaceError):
        model.capture(tensors, ["vision.0.q", "vision.ln_final"])


def test_rows_of_a_data_set_are_samples():
    """With a key and whatever other columns; a misspelt column is not dropped unseen."""
    row = {"key": "a.png", "image": Image.new("RGB", (8, 8)), "label": 3}
    (sample,), pair = samples_of(row), samples_of([row, {**row, "key": "b.png", "text": "b"}])
    assert sample.key == "a.png" and sample.image.size == (8, 8) and sample.text is None
    assert [(s.key, s.text) for s in pair] == [("a.png", None), ("b.png", "b")]
    for wrong in ({"key": "a", "img": row["image"]}, {"key": ["a"], "image": [row["image"]]}):
        with pytest.raises(ArgumentError, match="inputs: got"):
            samples_of(wrong)
    with pytest.raises(ArgumentError, match="inputs: got"):
        samples_of([{"key": "a", "img": row["image"]}])


def test_stop_and_grad_that_contradict_themselves():
    model = load_model(Llama().make())
    tensors = Llama().tensors()
    with pytest.raises(ArgumentError, match="stop"):
        model.run(tensors, stop=True)
    with pytest.raises(ArgumentError, match="stop"):
        model.run(tensors, capture="text.0.q", stop=True, grad=lambda out: out.logits.sum())
    with pytest.raises(ArgumentError, match=r"text\.2\.z"):
        model.run(tensors, capture="text.0.q", edit={"text.2.z": lambda x: x}, stop=True)
    model.run(tensors, capture="text.2.q", edit={"text.0.z": lambda x: x * 0}, stop=True)
    with pytest.raises(ArgumentError, match="captured"):
        model.run(tensors, grad=lambda out: out.logits.sum())
    with pytest.raises(ArgumentError, match="one element"):
        model.run(tensors, capture="text.0.q", grad=lambda out: out.logits)
    with pytest.raises(ArgumentError, match="autograd"):
        model.run(tensors, capture="text.0.q", grad=lambda out: out.logits.detach().sum())


def test_frozen_and_inference_mode_models_still_give_gradients():
    module = shake(Llama().make()).requires_grad_(False)
    model = load_model(module)
    with torch.inference_mode():
        run = model.run(Llama().tensors(), capture="text.*.resid_post", grad=lambda out: out.logits.sum())
    assert all(g.abs().sum() > 0 for g in run.grads.values())


def test_grad_true_keeps_the_graph():
    model = load_model(shake(Llama().make()))
    weight = torch.ones(32, requires_grad=True)
    run = model.run(
        Llama().tensors(),
        capture="text.2.mlp_out",
        edit={"text.1.resid_post": lambda x: x * weight},
        grad=True,
    )
    run.out.logits.square().mean().backward()
    assert weight.grad.abs().sum() > 0 and run.acts["text.2.mlp_out"].requires_grad


def test_several_edits_at_a_site_run_in_order_and_reads_see_the_result():
    model = load_model(shake(Llama().make()))
    seen = []
    run = model.run(
        Llama().tensors(),
        capture="text.1.mlp_post",
        edit={"text.1.mlp_post": [lambda x: x * 0 + 3, lambda x: (x - 1).double()]},
        read={"text.1.mlp_post": lambda x: seen.append(x.unique().tolist())},
    )
    assert seen == [[2.0]] and run.acts["text.1.mlp_post"].dtype == torch.float32


def test_pattern_needs_a_length_that_fits():
    module = Llama().make()
    model = load_model(module)
    model.set_length("text", 7)
    assert model.sites()["text.0.pattern"] == 4 * 7
    assert model.rows_per_sample("text") == 7
    assert model.run(Llama().tensors(), capture="text.0.pattern").acts["text.0.pattern"].shape == (3, 7, 28)
    model.set_length("text", 5)
    with pytest.raises(ArgumentError, match="set_length"):
        model.run(Llama().tensors(), capture="text.0.pattern")
    with pytest.raises(ArgumentError):
        model.set_length("vision", 5)
