"""Our SAEs in the libraries themselves, theirs here: equal to 1e-5 (`make interop`)."""

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import mmxai
from mmxai.bench.peers import Rival, peers_of
from mmxai.errors import ArgumentError
from mmxai.methods.sae import SAE, SAESpec
from mmxai.methods.sae.interop import read_sae, write_sae

pytestmark = [
    pytest.mark.skipif(
        "MMXAI_INTEROP" not in os.environ, reason="`make interop` runs it: it installs other libraries"
    ),
    pytest.mark.timeout(3600),
]

SCRIPTS = Path(__file__).parent / "peers"
D, E, M, K = 12, 9, 40, 5
ONE = {"sites_in": ("text.3.resid_post",), "widths_in": (D,)}
CROSS = {"sites_out": ("text.3.mlp_out",), "scale": (0.5,), "scale_out": (2.0,)}
SPECS = {
    "topk": SAESpec("topk", M, k=K, scale=(0.5,), **ONE),
    "uncentred": SAESpec("topk", M, k=K, centred=False, **ONE),
    "batchtopk": SAESpec("batchtopk", M, k=K, scale=(0.5,), **ONE),
    "matryoshka": SAESpec("matryoshka", M, k=K, prefixes=(10, M), **ONE),
    "jumprelu": SAESpec("jumprelu", M, scale=(2.0,), **ONE),
    "relu": SAESpec("relu", M, **ONE),
    "normed": SAESpec("topk", M, k=K, row_norm="layer_norm", **ONE),
    "transcoder": SAESpec("relu", M, widths_out=(E,), **CROSS, **ONE),
    "jumprelu_transcoder": SAESpec("jumprelu", M, widths_out=(E,), skip=True, **CROSS, **ONE),
    "topk_transcoder": SAESpec("topk", M, k=K, widths_out=(D,), skip=True, **CROSS, **ONE),
}
HELD = {"saelens": 9, "sparsify": 3, "dictionary_learning": 6}
"""How many of these each layout can hold."""
UNIT = {"dictionary_learning": {"relu"}}
"""Where the library scales latents as it loads them, so that reconstructions alone are equal."""


@pytest.fixture(scope="module", params=HELD)
def rival(request):
    peer = next(p for p in peers_of("sae") if p.key == request.param)
    with Rival(peer.name, peer.python(), SCRIPTS / peer.script.name, {}) as rival:
        rival.key = peer.key
        yield rival


def filled(spec):
    sae, draw = SAE.zeros(spec), torch.Generator().manual_seed(0)
    for name, tensor in sae.tensors().items():
        tensor.normal_(0, 0.4, generator=draw)
        if name == "threshold":
            tensor.abs_() if spec.arch == "jumprelu" else tensor.fill_(0.6)
    return sae


def close(found, wanted):
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)


def test_ours_in_the_library(rival, tmp_path):
    x = torch.randn(64, D, generator=torch.Generator().manual_seed(1)) * 2
    save_file({"x": x}, tmp_path / "x.safetensors")
    held = 0
    for name, spec in SPECS.items():
        sae, folder, out = filled(spec), tmp_path / name, tmp_path / f"{name}.safetensors"
        try:
            write_sae(sae, folder, rival.key)
        except ArgumentError:  # another layout's
            continue
        rival.run("load", folder, tmp_path / "x.safetensors", out)
        found, held = load_file(out), held + 1
        close(found["out"], sae(x))
        if name not in UNIT.get(rival.key, ()):
            close(found["latents"], sae.encode_dense(x))
    assert held == HELD[rival.key]


def test_theirs_here(rival, tmp_path):
    rival.run("make", tmp_path)
    made = sorted(p for p in tmp_path.iterdir() if p.is_dir())
    assert made
    for folder in made:
        expected = load_file(folder / "expected.safetensors")
        sae = read_sae(folder)
        close(sae(expected["x"]), expected["out"])
        close(sae.encode_dense(expected["x"]), expected["latents"])


def test_saelens_trains_from_our_store(rival, tmp_path):
    """On sparse sums of few directions, which it must come to reconstruct."""
    if rival.key != "saelens":
        pytest.skip("SAELens alone takes rows of others")
    draw = torch.Generator().manual_seed(0)
    directions = torch.nn.functional.normalize(torch.randn(48, 32, generator=draw), dim=1)
    codes = torch.rand(4096, 48, generator=draw) * (torch.rand(4096, 48, generator=draw) < 0.08)
    x = codes @ directions * 4
    with mmxai.create_store(tmp_path / "s.zarr", {"text.0.resid_post": 32}, dtype="float32") as store:
        store.write(list(range(len(x))), {"text.0.resid_post": x})
    root = Path(mmxai.__file__).parent.parent
    rival.run("train", tmp_path / "s.zarr", root, "text.0.resid_post", tmp_path / "trained")
    sae = read_sae(tmp_path / "trained")
    lost = (sae(x) - x).square().sum() / (x - x.mean(0)).square().sum()
    assert lost < 0.3
