"""Checkpoints that are pickles: read by another process, and only where they hold nothing but data."""

import json
import sys
import types

import pytest
import torch

from mmxai.errors import SAEFormatError
from mmxai.methods.sae.interop import detect, read_sae
from mmxai.pickled import read_pickled
from tests.methods.sae.interop import foreign
from tests.methods.sae.interop.test_reading import BASE, GATED, D, E, K, M, agree, draw, x  # noqa: F401

LINEAR = {"encoder.weight": (M, D), "encoder.bias": (M,), "decoder.weight": (D, M)}
NUMBERS = {"k": torch.tensor(K, dtype=torch.int32), "threshold": torch.tensor(0.8)}
DICTIONARIES = {
    "AutoEncoder": (draw(**LINEAR, bias=(D,)), "relu"),
    "AutoEncoderNew": (draw(**LINEAR) | draw(**{"decoder.bias": (D,)}), "relu"),
    "GatedAutoEncoder": (
        draw(**{"encoder.weight": (M, D), "decoder.weight": (D, M)}, decoder_bias=(D,), r_mag=(M,),
             gate_bias=(M,), mag_bias=(M,)),
        "jumprelu",
    ),
    "AutoEncoderTopK": (draw(**LINEAR, b_dec=(D,)) | NUMBERS, "topk"),
    "BatchTopKSAE": (draw(**LINEAR, b_dec=(D,)) | NUMBERS, "batchtopk"),
    "MatryoshkaBatchTopKSAE": (draw(**BASE) | NUMBERS | {"group_sizes": torch.tensor([8, 16])}, "matryoshka"),
    "JumpReluAutoEncoder": (draw(**BASE, threshold=(M,)), "jumprelu"),
}  # fmt: skip


@pytest.mark.parametrize("kind", DICTIONARIES)
def test_dictionary_learning(kind, tmp_path, x):  # noqa: F811
    tensors, arch = DICTIONARIES[kind]
    torch.save(tensors, tmp_path / "ae.pt")
    trainer = {"dict_class": kind, "k": K, "lm_name": "pythia", "submodule_name": "resid_post_layer_3"}
    (tmp_path / "config.json").write_text(json.dumps({"trainer": trainer, "buffer": {}}))
    sae = read_sae(tmp_path)
    assert sae.spec.arch == arch and sae.spec.sites_in == ("text.3.resid_post",)
    assert sae.spec.identity == {"lm_name": "pythia"}
    if arch == "matryoshka":
        assert sae.spec.prefixes == (8, M)
    agree(sae, x, *foreign.dictionary_learning(tmp_path, x))


def test_a_dictionary_whose_tensors_tell_its_class(tmp_path, x):  # noqa: F811
    torch.save(DICTIONARIES["JumpReluAutoEncoder"][0], tmp_path / "ae.pt")
    agree(read_sae(tmp_path), x, *foreign.dictionary_learning(tmp_path, x, "JumpReluAutoEncoder"))
    torch.save(DICTIONARIES["BatchTopKSAE"][0], tmp_path / "ae.pt")
    with pytest.raises(SAEFormatError, match="dict_class alone"):
        read_sae(tmp_path)


def test_a_dictionary_of_an_older_version(tmp_path, x):  # noqa: F811
    """k stood in the configuration alone, and there was no threshold."""
    tensors = {k: v for k, v in DICTIONARIES["AutoEncoderTopK"][0].items() if k not in NUMBERS}
    torch.save(tensors, tmp_path / "ae.pt")
    trainer = {"dict_class": "AutoEncoderTopK"}
    (tmp_path / "config.json").write_text(json.dumps({"trainer": trainer}))
    with pytest.raises(SAEFormatError, match=r"trainer\.k = None"):
        read_sae(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"trainer": trainer | {"k": K}}))
    old = read_sae(tmp_path)
    torch.save(DICTIONARIES["AutoEncoderTopK"][0], tmp_path / "ae.pt")
    agree(old, x, *foreign.dictionary_learning(tmp_path, x))


def test_a_latent_that_reconstructs_nothing(tmp_path, x):  # noqa: F811
    """A decoder column of zeros has no length to be divided by."""
    tensors = {name: tensor.clone() for name, tensor in DICTIONARIES["AutoEncoder"][0].items()}
    tensors["decoder.weight"][:, 3] = 0
    torch.save(tensors, tmp_path / "ae.pt")
    sae = read_sae(tmp_path)
    torch.testing.assert_close(sae.W_dec.norm(dim=1), (torch.arange(M) != 3).float())
    _, out = foreign.dictionary_learning(tmp_path, x, "AutoEncoder")
    torch.testing.assert_close(sae(x), out, atol=1e-5, rtol=1e-5)


PRISMA = {
    "is_transcoder": False, "architecture": "standard", "activation_fn_str": "relu",
    "activation_fn_kwargs": {}, "normalize_activations": "layer_norm", "hook_point_layer": 9,
    "layer_subtype": "hook_resid_post", "model_name": "open-clip:x", "out_hook_point_layer": 9,
    "layer_out_subtype": "hook_mlp_out",
}  # fmt: skip
CASES = {
    "relu": ({}, BASE),
    "topk": ({"activation_fn_str": "topk", "activation_fn_kwargs": {"k": K}}, BASE),
    "gated": ({"architecture": "gated", "normalize_activations": "none"}, GATED | {"b_enc": (M,)}),
    "transcoder": (
        {"is_transcoder": True, "normalize_activations": "none"},
        BASE | {"W_dec": (M, E), "b_dec_out": (E,), "W_skip": (E, D)},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_prisma(name, tmp_path, x):  # noqa: F811
    change, shapes = CASES[name]
    config, tensors = PRISMA | change, draw(**shapes)
    torch.save(tensors, tmp_path / "weights.pt")
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert detect(tmp_path) == "prisma"
    sae = read_sae(tmp_path)
    assert sae.spec.sites_in == ("vision.9.resid_post",)
    agree(sae, x, *foreign.prisma(config, tensors, x))


def test_prisma_with_a_factor_that_is_not_there(tmp_path):
    torch.save(draw(**BASE), tmp_path / "weights.pt")
    config = PRISMA | {"normalize_activations": "expected_average_only_in"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(SAEFormatError, match="'expected_average_only_in', expected none or layer_norm"):
        read_sae(tmp_path)


def test_prisma_with_a_python_object_inside(tmp_path, x, monkeypatch):  # noqa: F811
    """Its own checkpoints hold the configuration as an object of a class that is not installed here."""
    module = types.ModuleType("vit_prisma.sae.config")
    made = type("VisionModelSAERunnerConfig", (), {"__module__": module.__name__})
    module.VisionModelSAERunnerConfig = made
    for part in ("vit_prisma", "vit_prisma.sae"):
        monkeypatch.setitem(sys.modules, part, types.ModuleType(part))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    config, tensors = made(), draw(**BASE)
    vars(config).update(PRISMA, _dtype="float32", vit_model_cfg=None)
    torch.save({"cfg": config, "state_dict": tensors}, tmp_path / "n_images_100.pt")
    sae = read_sae(tmp_path / "n_images_100.pt")
    assert sae.spec.row_norm == "layer_norm"
    agree(sae, x, *foreign.prisma(PRISMA, tensors, x))


class Malice:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_a_pickle_that_would_run_code_does_not(tmp_path):
    evidence = tmp_path / "evidence"
    torch.save({"W_enc": torch.ones(2), "cfg": Malice(evidence)}, tmp_path / "ae.pt")
    with pytest.raises(SAEFormatError, match="may run any code"):
        read_sae(tmp_path)
    assert not evidence.exists()


def test_damaged_and_absent(tmp_path):
    (tmp_path / "ae.pt").write_bytes(b"\x80\x02}q\x00")
    with pytest.raises(SAEFormatError, match="damaged"):
        read_pickled(tmp_path / "ae.pt")
    with pytest.raises(SAEFormatError, match="no such file"):
        read_pickled(tmp_path / "b.pt")


def test_two_checkpoints_in_a_folder(tmp_path):
    for name in ("a.pt", "b.pt"):
        torch.save(draw(**BASE), tmp_path / name)
    with pytest.raises(SAEFormatError, match=r"got 2 \.pt files"):
        read_sae(tmp_path)
    with pytest.raises(SAEFormatError, match="without a configuration"):
        read_sae(tmp_path / "a.pt")
