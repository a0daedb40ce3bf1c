"""Folders of other libraries' layouts, made by hand, compute here what their sources say."""

import json

import pytest
import torch
from safetensors.torch import save_file

from mmxai.errors import ArgumentError, SAEFormatError
from mmxai.methods.sae.interop import detect, read_sae
from tests.methods.sae.interop import foreign

D, E, M, K = 10, 7, 24, 4


def draw(**shapes):
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(shape, generator=generator) * 0.4 for name, shape in shapes.items()}


@pytest.fixture
def x():
    return torch.randn(50, D, generator=torch.Generator().manual_seed(1)) * 2 + 0.3


def agree(sae, x, latents, out):
    torch.testing.assert_close(sae.encode_dense(x), latents, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(sae(x), out, atol=1e-5, rtol=1e-5)
    assert (latents > 0).any()


BASE = {"W_enc": (D, M), "b_enc": (M,), "W_dec": (M, D), "b_dec": (D,)}
CROSS = BASE | {"W_dec": (M, E), "b_dec": (E,)}
GATED = {"W_enc": (D, M), "W_dec": (M, D), "b_dec": (D,), "b_gate": (M,), "r_mag": (M,), "b_mag": (M,)}
SAELENS = {
    "standard": ({}, BASE, "relu"),
    "uncentred": ({"architecture": "standard", "apply_b_dec_to_input": False}, BASE, "relu"),
    "topk": ({"k": K, "rescale_acts_by_decoder_norm": False}, BASE, "topk"),
    "rescaled": ({"architecture": "topk", "k": K, "rescale_acts_by_decoder_norm": True}, BASE, "topk"),
    "normed": ({"architecture": "topk", "k": K, "normalize_activations": "layer_norm"}, BASE, "topk"),
    "jumprelu": ({}, BASE | {"threshold": (M,)}, "jumprelu"),
    "gated": ({}, GATED, "jumprelu"),
    "batchtopk": (
        {"k": 3.5, "rescale_acts_by_decoder_norm": True}, BASE | {"topk_threshold": ()}, "batchtopk",
    ),
    "matryoshka_batchtopk": (
        {"k": 3.0, "matryoshka_widths": [6, 12]}, BASE | {"topk_threshold": ()}, "matryoshka",
    ),
    "transcoder": ({"d_out": E, "apply_b_dec_to_input": False}, CROSS, "relu"),
    "skip_transcoder": (
        {"d_out": E, "apply_b_dec_to_input": False}, CROSS | {"W_skip": (E, D)}, "relu",
    ),
    "jumprelu_skip_transcoder": (
        {"d_out": E, "apply_b_dec_to_input": False},
        CROSS | {"W_skip": (E, D), "threshold": (M,)},
        "jumprelu",
    ),
}  # fmt: skip


def saelens_folder(path, config, tensors):
    save_file(tensors, path / "sae_weights.safetensors")
    about = {"sae_lens_version": "6.54.0", "hook_name": "blocks.3.hook_resid_post", "model_name": "gpt2"}
    base = {"d_in": D, "d_sae": M, "dtype": "float32", "metadata": about}
    (path / "cfg.json").write_text(json.dumps(base | config))
    return path


@pytest.mark.parametrize("name", SAELENS)
def test_saelens(name, tmp_path, x):
    config, shapes, arch = SAELENS[name]
    tensors = draw(**shapes)
    if "topk_threshold" in tensors:
        tensors["topk_threshold"] = torch.tensor(0.7, dtype=torch.float64)
    folder = saelens_folder(tmp_path, {"architecture": name} | config, tensors)
    assert detect(folder) == "saelens"
    sae = read_sae(folder)
    assert sae.spec.arch == arch and sae.spec.sites_in == ("text.3.resid_post",)
    assert sae.spec.identity["model_name"] == "gpt2"
    assert (sae.spec.kind == "transcoder") == ("transcoder" in name)
    if arch == "matryoshka":
        assert sae.spec.prefixes == (6, 12, M)  # the last one is SAELens's own addition
    agree(sae, x, *foreign.saelens(folder, x))


def test_saelens_latent_that_reconstructs_nothing(tmp_path, x):
    tensors = draw(**BASE)
    tensors["W_dec"][3] = 0
    config = {"architecture": "topk", "k": K, "rescale_acts_by_decoder_norm": True}
    folder = saelens_folder(tmp_path, config, tensors)
    agree(read_sae(folder), x, *foreign.saelens(folder, x))


def test_saelens_before_version_six(tmp_path, x):
    old = {
        "d_in": D, "d_sae": M, "dtype": "torch.float32", "hook_point": "blocks.7.hook_mlp_out",
        "model_name": "gpt2-small", "activation_fn_str": "topk", "activation_fn_kwargs": {"k": K},
        "normalize_activations": False,
    }  # fmt: skip
    tensors = draw(**BASE)
    save_file(tensors | {"scaling_factor": torch.ones(M)}, tmp_path / "sae_weights.safetensors")
    (tmp_path / "cfg.json").write_text(json.dumps(old))
    sae = read_sae(tmp_path)
    assert sae.spec.arch == "topk" and sae.spec.k == K and sae.spec.sites_in == ("text.7.mlp_out",)
    agree(sae, x, *foreign.saelens(tmp_path, x))


def test_saelens_checkpoint_with_its_scale(tmp_path, x):
    config = {"architecture": "standard", "normalize_activations": "expected_average_only_in"}
    folder = saelens_folder(tmp_path, config, draw(**BASE))
    with pytest.raises(SAEFormatError, match=r"without its factor in activation_scaler\.json"):
        read_sae(folder)
    (folder / "activation_scaler.json").write_text(json.dumps({"scaling_factor": 0.25}))
    latents, out = foreign.saelens(folder, x * 0.25)
    agree(read_sae(folder), x, latents, out / 0.25)


@pytest.mark.parametrize(
    ("config", "tensors", "says"),
    [
        ({"architecture": "temporal"}, draw(**BASE), "architecture 'temporal'"),
        ({"architecture": "topk"}, draw(**BASE), "k = None"),
        ({"activation_fn_str": "tanh-relu"}, draw(**BASE), "activation_fn = 'tanh-relu'"),
        ({"architecture": "standard"}, draw(**BASE, more=(M,)), "'more'"),
        ({"architecture": "jumprelu"}, draw(**BASE), "'threshold'"),
        ({"architecture": "standard", "normalize_activations": "covariance_whitening"}, draw(**BASE), "wh"),
        ({"architecture": "standard"}, draw(**BASE, scaling_factor=(M,)), "scaling_factor"),
        ({"architecture": "standard"}, draw(**BASE) | draw(b_dec=(D + 1,)), "b_dec"),
    ],
)  # fmt: skip
def test_saelens_that_ours_cannot_be(tmp_path, config, tensors, says):
    with pytest.raises(SAEFormatError, match=says):
        read_sae(saelens_folder(tmp_path, config, tensors))


SPARSIFY = {"encoder.weight": (M, D), "encoder.bias": (M,), "W_dec": (M, D), "b_dec": (D,)}


def sparsify_folder(path, tensors, **config):
    path.mkdir(exist_ok=True)
    base = {"activation": "topk", "expansion_factor": 32, "normalize_decoder": True, "num_latents": 0, "k": K,
            "multi_topk": False, "skip_connection": False, "transcode": False, "d_in": D}  # fmt: skip
    save_file(tensors, path / "sae.safetensors")
    (path / "cfg.json").write_text(json.dumps(base | config))
    return path


def test_sparsify(tmp_path, x):
    folder = sparsify_folder(tmp_path / "layers.5.mlp", draw(**SPARSIFY))
    sae = read_sae(folder)
    assert sae.spec.kind == "sae" and sae.spec.sites_in == ("module:layers.5.mlp",) and sae.spec.k == K
    agree(sae, x, *foreign.sparsify(folder, x))


def test_sparsify_transcoder(tmp_path, x):
    tensors = draw(**SPARSIFY, W_skip=(D, D))
    folder = sparsify_folder(tmp_path / "layers.5.mlp", tensors, skip_connection=True, transcode=True)
    sae = read_sae(folder, site="text.5.mlp_in", site_out="text.5.mlp_out")
    assert sae.spec.kind == "transcoder" and sae.spec.sites_out == ("text.5.mlp_out",)
    agree(sae, x, *foreign.sparsify(folder, x))


def test_sparsify_that_ours_cannot_be(tmp_path):
    with pytest.raises(SAEFormatError, match="groupmax"):
        read_sae(sparsify_folder(tmp_path / "a", draw(**SPARSIFY), activation="groupmax"))
    with pytest.raises(SAEFormatError, match="signed"):
        read_sae(sparsify_folder(tmp_path / "b", draw(**SPARSIFY), signed=True))
    encoder = {k: v for k, v in draw(**SPARSIFY).items() if k != "W_dec"}
    with pytest.raises(SAEFormatError, match="W_dec"):
        read_sae(sparsify_folder(tmp_path / "c", encoder))
    with pytest.raises(ArgumentError, match="site_out"):
        read_sae(sparsify_folder(tmp_path / "d", draw(**SPARSIFY)), site_out="text.1.mlp_out")


def test_nothing_there(tmp_path):
    (tmp_path / "readme.md").write_text("hello")
    with pytest.raises(SAEFormatError, match=r"readme\.md.*expected sae\.json"):
        read_sae(tmp_path)
    for name in ("auto", "saelens", "sparsify", "dictionary_learning", "prisma"):
        with pytest.raises(SAEFormatError, match="nowhere"):
            read_sae(tmp_path / "nowhere", name)
        with pytest.raises(SAEFormatError, match=r"readme\.md"):
            read_sae(tmp_path / "readme.md", name)
    with pytest.raises(ArgumentError, match="saelen'"):
        read_sae(tmp_path, "saelen")
    (tmp_path / "cfg.json").write_text("{")
    (tmp_path / "sae.safetensors").write_bytes(b"no")
    with pytest.raises(SAEFormatError, match="not JSON"):
        read_sae(tmp_path)
    (tmp_path / "cfg.json").write_text(json.dumps({"k": 1}))
    with pytest.raises(SAEFormatError, match="not safetensors"):
        read_sae(tmp_path)
