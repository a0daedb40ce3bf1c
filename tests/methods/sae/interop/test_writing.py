"""What is written in another library's layout computes there what it did here, and comes back the same."""

import json
from dataclasses import replace

import pytest
import torch

from mmxai.errors import ArgumentError
from mmxai.methods.sae import SAE, SAESpec
from mmxai.methods.sae.interop import detect, read_sae, write_sae
from tests.methods.sae.interop import foreign

D, E, M, K = 10, 7, 24, 4
ONE = {"sites_in": ("text.3.resid_post",), "widths_in": (D,), "identity": {"model_name": "gpt2"}}
SPECS = {
    "topk": SAESpec("topk", M, k=K, scale=(0.4,), **ONE),
    "uncentred": SAESpec("topk", M, k=K, centred=False, **ONE),
    "batchtopk": SAESpec("batchtopk", M, k=K, scale=(0.4,), **ONE),
    "matryoshka": SAESpec("matryoshka", M, k=K, prefixes=(6, M), **ONE),
    "jumprelu": SAESpec("jumprelu", M, scale=(2.0,), **ONE),
    "relu": SAESpec("relu", M, scale=(0.5,), **ONE),
    "normed": SAESpec("topk", M, k=K, row_norm="layer_norm", scale=(0.5,), **ONE),
}
OTHER = {"sites_out": ("text.3.mlp_out",), "widths_out": (E,), "scale": (0.5,), "scale_out": (3.0,)}
TRANSCODERS = {
    "relu": SAESpec("relu", M, **OTHER, **ONE),
    "skip": SAESpec("relu", M, skip=True, **OTHER, **ONE),
    "jumprelu_skip": SAESpec("jumprelu", M, skip=True, **OTHER, **ONE),
}
SQUARE = SAESpec("topk", M, k=K, skip=True, **(OTHER | {"widths_out": (D,)}), **ONE)


def filled(spec):
    """Random weights; all latents have one threshold, as BatchTopK's do, but JumpReLU's."""
    sae, generator = SAE.zeros(spec), torch.Generator().manual_seed(0)
    for name, tensor in sae.tensors().items():
        tensor.normal_(0, 0.4, generator=generator)
        if name == "threshold":
            tensor.abs_() if spec.arch == "jumprelu" else tensor.fill_(0.6)
    return sae


@pytest.fixture
def x():
    return torch.randn(50, D, generator=torch.Generator().manual_seed(1)) * 2 + 0.3


def check(sae, layout, folder, x):
    write_sae(sae, folder, layout)
    assert detect(folder) == layout
    latents, out = getattr(foreign, layout)(folder, x)
    torch.testing.assert_close(latents, sae.encode_dense(x), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(out, sae(x), atol=1e-5, rtol=1e-5)
    back = read_sae(folder)
    assert back.spec.sites_in == sae.spec.sites_in and back.spec.sites_out == sae.spec.sites_out
    assert back.spec.identity == sae.spec.identity
    torch.testing.assert_close(back.encode_dense(x), latents, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(back(x), out, atol=1e-5, rtol=1e-5)
    return back


@pytest.mark.parametrize("name", SPECS)
def test_saelens(name, tmp_path, x):
    back = check(filled(SPECS[name]), "saelens", tmp_path / "s", x)
    # Of a trained BatchTopK or Matryoshka SAE its thresholds are left, in SAELens too.
    wanted = SPECS[name].arch
    assert back.spec.arch == ("jumprelu" if wanted in ("batchtopk", "matryoshka") else wanted)
    config = json.loads((tmp_path / "s" / "cfg.json").read_text())
    assert config["metadata"]["hook_name"] == "blocks.3.hook_resid_post"
    assert config["metadata"]["model_name"] == "gpt2"


@pytest.mark.parametrize("name", TRANSCODERS)
def test_saelens_transcoders(name, tmp_path, x):
    back = check(filled(TRANSCODERS[name]), "saelens", tmp_path / "s", x)
    assert back.spec.kind == "transcoder"


@pytest.mark.parametrize(
    "spec", [SPECS["topk"], SPECS["uncentred"], SQUARE], ids=["sae", "uncentred", "skip"]
)
def test_sparsify(spec, tmp_path, x):
    assert check(filled(spec), "sparsify", tmp_path / "s", x).spec.kind == spec.kind


@pytest.mark.parametrize("name", [n for n in SPECS if n not in ("normed", "relu")])
def test_dictionary_learning(name, tmp_path, x):
    back = check(filled(SPECS[name]), "dictionary_learning", tmp_path / "s", x)
    assert back.spec.arch == SPECS[name].arch and back.spec.prefixes == SPECS[name].prefixes


def test_dictionary_learning_makes_decoder_rows_unit_vectors(tmp_path, x):
    """Its `from_pretrained` does, for ReLU: latents are as much larger, the reconstruction is the same."""
    sae = filled(SPECS["relu"])
    write_sae(sae, tmp_path, "dictionary_learning")
    latents, out = foreign.dictionary_learning(tmp_path, x)
    torch.testing.assert_close(out, sae(x), atol=1e-5, rtol=1e-5)
    back = read_sae(tmp_path)
    torch.testing.assert_close(back.encode_dense(x), latents, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(back.W_dec.norm(dim=1), torch.ones(M))


def test_bfloat16_stays_where_nothing_is_folded(tmp_path, x):
    sae = filled(replace(SPECS["topk"], scale=(1.0,), scale_out=(1.0,))).to(dtype=torch.bfloat16)
    for layout in ("saelens", "sparsify"):
        write_sae(sae, tmp_path / layout, layout)
        back = read_sae(tmp_path / layout)
        assert back.dtype == torch.bfloat16 and torch.equal(back.W_dec, sae.W_dec)


@pytest.mark.parametrize(
    ("layout", "spec"),
    [
        ("sparsify", SPECS["uncentred"]),
        ("sparsify", SPECS["topk"]),
        ("saelens", SPECS["topk"]),
        ("saelens", SAESpec("relu", M, skip=True, **ONE)),
        ("saelens", TRANSCODERS["jumprelu_skip"]),
    ],
    ids=["centred", "scaled", "saelens", "uncentred", "transcoder"],
)
def test_bfloat16_becomes_float32_where_something_is_folded(layout, spec, tmp_path, x):
    """A bias that makes up for another centre, rounded to 8 bits, would move every latent."""
    sae = filled(spec).to(dtype=torch.bfloat16)
    write_sae(sae, tmp_path, layout)
    exact = sae.to(dtype=torch.float32)
    latents, out = getattr(foreign, layout)(tmp_path, x)
    torch.testing.assert_close(latents, exact.encode_dense(x), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(out, exact(x), atol=1e-5, rtol=1e-5)
    back = read_sae(tmp_path)
    assert back.dtype == torch.float32
    torch.testing.assert_close(back(x), out, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("spec", "layout", "says"),
    [
        (SAESpec("topk", M, ("a", "b"), (D, D), k=K), "saelens", "crosscoder"),
        (SAESpec("topk", M, k=K, **OTHER, **ONE), "saelens", "TopK transcoder"),
        (SPECS["relu"], "sparsify", "relu SAE, expected topk"),
        (SPECS["normed"], "sparsify", "row_norm"),
        (SAESpec("topk", M, k=K, **OTHER, **ONE), "sparsify", "10 wide in and 7 out"),
        (TRANSCODERS["relu"], "dictionary_learning", "transcoder"),
        (SPECS["normed"], "dictionary_learning", "row_norm"),
        (SPECS["topk"], "prisma", "pickle"),
        (SPECS["topk"], "nobody", "expected one of mmxai, saelens"),
    ],
)
def test_layouts_that_cannot_hold_it(spec, layout, says, tmp_path):
    with pytest.raises(ArgumentError, match=says):
        write_sae(filled(spec), tmp_path / "out", layout)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "identity", [{"model_name": "gpt2"}, {"lm_name": "gpt2"}, {"model": {"name": "gpt2"}, "store": "a.zarr"}]
)
def test_the_model_is_named(identity, tmp_path):
    sae = filled(replace(SPECS["topk"], identity=identity))
    write_sae(sae, tmp_path / "s", "saelens")
    assert json.loads((tmp_path / "s" / "cfg.json").read_text())["metadata"]["model_name"] == "gpt2"
    write_sae(sae, tmp_path / "d", "dictionary_learning")
    assert json.loads((tmp_path / "d" / "config.json").read_text())["trainer"]["lm_name"] == "gpt2"
    assert read_sae(tmp_path / "s").spec.identity == read_sae(tmp_path / "d").spec.identity == identity


def test_a_threshold_a_latent_is_not_batchtopk_there(tmp_path):
    sae = filled(SPECS["batchtopk"])
    sae.threshold[0] = 0.1
    with pytest.raises(ArgumentError, match="threshold a latent"):
        write_sae(sae, tmp_path, "dictionary_learning")


def test_ours_is_read_too(tmp_path, x):
    sae = filled(SPECS["topk"])
    write_sae(sae, tmp_path, "mmxai")
    assert torch.equal(read_sae(tmp_path)(x), sae(x))
    with pytest.raises(ArgumentError, match="knows its own"):
        read_sae(tmp_path, site="text.1.mlp_out")
