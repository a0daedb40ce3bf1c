"""tuned-lens loads our lens, and saves its own, over a tiny GPT-2 whose weights it is given."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import GPT2Config, GPT2LMHeadModel
from tuned_lens import TunedLens


def prepare(job):
    return {"load": load, "make": make}, None


def model_of(folder):
    config = GPT2Config(**json.loads((Path(folder) / "gpt2.json").read_text()))
    model = GPT2LMHeadModel(config).eval()
    model.load_state_dict(load_file(Path(folder) / "gpt2.safetensors"), strict=False)
    model.tie_weights()
    return model


@torch.no_grad()
def load(folder, lens, out):
    """Logits of every state of the stream through the lens in folder `lens`."""
    model = model_of(folder)
    tuned = TunedLens.from_model_and_pretrained(model, str(lens), map_location="cpu")
    ids = load_file(Path(folder) / "ids.safetensors")["ids"]
    states = model(ids, output_hidden_states=True).hidden_states[:-1]
    found = {f"{i}": tuned(h, idx=i).contiguous() for i, h in enumerate(states)}
    save_file({**found, "same": torch.tensor(tuned.config.unembed_hash == _hash(lens))}, out)


def make(folder, lens, out):
    """A lens with weights of its own, saved by the package, and its logits."""
    tuned = TunedLens.from_model(model_of(folder))
    torch.manual_seed(0)
    for parameter in tuned.layer_translators.parameters():
        parameter.data.normal_(0, 0.1)
    tuned.save(lens)
    load(folder, lens, out)


def _hash(lens):
    return json.loads((Path(lens) / "config.json").read_text())["unembed_hash"]
