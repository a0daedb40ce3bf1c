from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from mmxai.errors import ArgumentError
from mmxai.models import load_model, wrap
from mmxai.models import registry as registry_module
from mmxai.models.adapter import Tap
from mmxai.models.check import check

from . import test_clip, test_opt, test_siglip, test_text, test_vision
from .contract import count_hooks, shake

FAMILIES = [
    case
    for module in (test_clip, test_opt, test_siglip, test_text, test_vision)
    for name, case in vars(module).items()
    if name.startswith("Test")
]


@pytest.mark.parametrize("case", FAMILIES, ids=lambda c: c.__name__)
def test_every_family_passes(case):
    model = load_model(shake(case().make()))
    report = check(model)
    assert report.ok, str(report)
    assert not report.problems and "every check passed" in str(report)


def test_own_inputs_of_one_tower():
    case = test_clip.TestCLIP()
    model = load_model(shake(case.make()))
    report = check(model, {"pixel_values": torch.randn(2, 3, 16, 16)})
    assert report.ok and report.lines["resid_mid = resid_pre + attn_out"].count == 3


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [
        ("z", Tap("self_attn.q_proj", width="q")),
        ("mlp_post", Tap("mlp.up_proj", width="mlp")),
        ("resid_mid", Tap("input_layernorm", "in", in_place=True)),
        ("attn_out", Tap("mlp")),
        ("k", Tap("self_attn.v_proj", width="kv")),
    ],
)
def test_a_wrong_adapter_is_found_out(monkeypatch, kind, wrong):
    module = shake(test_text.TestLlama().make())
    family = registry_module.family_of(module.config)
    tower = family.towers[0]
    broken = replace(family, towers=(replace(tower, block={**tower.block, kind: wrong}),))
    monkeypatch.setattr("mmxai.models.load.family_of", lambda config: broken)
    report = check(load_model(module))
    assert not report.ok
    assert any("text.0" in p for p in report.problems), report.problems
    assert "FAILED" in str(report)


def test_leftover_hooks_are_no_ones_business_but_counted(monkeypatch):
    model = load_model(shake(test_text.TestLlama().make()))
    model.module.model.layers[0].register_forward_hook(lambda *a: None)
    report = check(model)
    assert report.ok
    assert count_hooks(model.module) >= 1


def test_wrapped_modules_have_nothing_to_check():
    with pytest.raises(ArgumentError):
        check(wrap(nn.Linear(3, 4), example=torch.zeros(2, 3)))


def test_real_checkpoint(shared_data):
    model = load_model(shared_data / "stories260K")
    report = check(model, ["Once upon a time", "Lily and Tim went to the park."])
    assert report.ok, str(report)
    assert report.seconds < 60
