"""The SAE against dense torch, its files against FORMAT.md, bad input against typed errors."""

import json
import re
from pathlib import Path

import pytest
import torch

import mmxai
from mmxai.errors import ArgumentError, SAEFormatError
from mmxai.kernels.codes import Codes
from mmxai.methods.sae import SAE, SAESpec, load_sae
from mmxai.types import Batch, Rows

ONE = {"sites_in": ("a",), "widths_in": (12,)}
SPECS = {
    "topk": SAESpec("topk", 40, k=5, scale=(0.5,), **ONE),
    "wide": SAESpec("topk", 600, k=5, **ONE),  # chosen without the product, where the processor can
    "batchtopk": SAESpec("batchtopk", 40, k=5, **ONE),
    "relu": SAESpec("relu", 40, **ONE),
    "jumprelu": SAESpec("jumprelu", 40, scale=(2.0,), centred=False, **ONE),
    "matryoshka": SAESpec("matryoshka", 40, k=5, prefixes=(10, 40), **ONE),
    "normed": SAESpec("topk", 40, k=5, row_norm="layer_norm", **ONE),
    "transcoder": SAESpec(
        "topk", 40, k=5, sites_out=("b",), widths_out=(7,), skip=True, scale_out=(3.0,), **ONE
    ),
    "crosscoder": SAESpec("batchtopk", 40, ("a", "b"), (12, 7), k=5, scale=(0.5, 2.0)),
}


def filled(spec, seed=0):
    sae = SAE.zeros(spec)
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in sae.tensors().items():
        tensor.normal_(0, 0.3, generator=generator)
        if name == "threshold":
            tensor.abs_()
    return sae


def rows(spec, n=33):
    return torch.randn(n, spec.width_in, generator=torch.Generator().manual_seed(1))


def by_the_document(folder, x):
    """What FORMAT.md's example computes: an implementation that shares nothing with ours."""
    text = (Path(mmxai.__file__).parent / "methods/sae/FORMAT.md").read_text()
    names = {"folder": folder, "x": x}
    exec("\n".join(re.findall(r"```python\n(.*?)```", text, re.S)), names)
    return names["codes"], names["y"]


@pytest.mark.parametrize("name", SPECS)
def test_saved_and_computed_as_the_document_says(name, tmp_path):
    sae = filled(SPECS[name])
    sae.save(tmp_path)
    back = load_sae(tmp_path)
    assert back.spec == sae.spec
    for key, tensor in sae.tensors().items():
        assert torch.equal(back.tensors()[key], tensor)
    x = rows(sae.spec)
    codes, y = by_the_document(tmp_path, x)
    torch.testing.assert_close(back.encode_dense(x), codes, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(back(x), y, atol=1e-4, rtol=1e-5)
    given = x if sae.spec.needs_input else None
    torch.testing.assert_close(back.decode(codes, given), y, atol=1e-4, rtol=1e-5)


def test_rows_in_blocks_are_the_same(monkeypatch):
    sae = filled(SPECS["jumprelu"])
    x = rows(sae.spec, 50)
    whole = sae.encode(x)
    monkeypatch.setattr("mmxai.methods.sae.model.BLOCK_BYTES", 4 * 40 * 7)
    parts = sae.encode(x)
    assert torch.equal(whole.offsets, parts.offsets) and torch.equal(whole.indices, parts.indices)
    torch.testing.assert_close(whole.values, parts.values)
    assert sae.encode(x[:0]).rows == 0


def test_topk_keeps_k_and_no_negative_value():
    sae = filled(SPECS["topk"])
    sae.b_enc -= 5
    codes = sae.encode(rows(sae.spec))
    assert codes.fixed_k == 5 and codes.values.min() >= 0


def test_batches_in_and_out():
    sae = filled(SPECS["crosscoder"])
    a, b = torch.randn(6, 12), torch.randn(6, 7)
    batch = Batch({"b": b, "a": a}, Rows.make(sample=torch.arange(6)))
    assert torch.equal(sae.inputs(batch), torch.cat([a, b], 1))
    assert torch.equal(sae(batch), sae(torch.cat([a, b], 1)))
    with pytest.raises(ArgumentError, match=r"expected \['b'\]"):
        sae.inputs(Batch({"a": a}, Rows.make(sample=torch.arange(6))))


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"arch": "gated"}, "architecture"),
        ({"k": 41}, "k = 41 of 40"),
        ({"k": None}, "k = None"),
        ({"arch": "relu"}, "k = 5, expected none"),
        ({"latents": 0}, "0 latents"),
        ({"widths_in": (12, 3)}, "as many of each"),
        ({"scale": (0.0,)}, "positive finite"),
        ({"arch": "matryoshka"}, "prefixes"),
        ({"arch": "matryoshka", "prefixes": (20, 10, 40)}, "rising"),
        ({"prefixes": (40,)}, "expected none for topk"),
        ({"sites_out": ("b",)}, "as many of each"),
        ({"sites_out": ("b",), "widths_out": (7,), "centred": True}, "centred"),
    ],
)
def test_specs_that_cannot_be(change, match):
    fields = {"arch": "topk", "latents": 40, "k": 5, **ONE, **change}
    with pytest.raises(ArgumentError, match=match):
        SAESpec(**fields)


def test_input_of_another_width():
    sae = filled(SPECS["topk"])
    with pytest.raises(ArgumentError, match="expected rows"):
        sae.encode(torch.zeros(3, 11))
    with pytest.raises(ArgumentError, match="expected 40 latents"):
        sae.decode(Codes.fixed(torch.ones(1, 1), torch.zeros(1, 1, dtype=torch.int32), 41))
    with pytest.raises(ArgumentError, match="expected the input"):
        filled(SPECS["transcoder"]).decode(torch.zeros(1, 40))
    with pytest.raises(ArgumentError, match="W_dec"):
        SAE(sae.spec, **{**sae.tensors(), "W_dec": torch.zeros(40, 11)})
    with pytest.raises(ArgumentError, match="threshold"):
        SAE(sae.spec, **sae.tensors(), threshold=torch.zeros(40))


def test_damaged_files(tmp_path):
    with pytest.raises(SAEFormatError, match=r"no sae\.json"):
        load_sae(tmp_path)
    filled(SPECS["topk"]).save(tmp_path)
    document = tmp_path / "sae.json"
    good = document.read_text()
    for damage, match in [
        (lambda d: {**d, "version": 2}, "version 2"),
        (lambda d: {**d, "format": "x"}, "mmxai-sae"),
        (lambda d: {**d, "spec": {**d["spec"], "colour": 1}}, "colour"),
        (lambda d: {**d, "spec": {**d["spec"], "k": 99}}, "k = 99"),
    ]:
        document.write_text(json.dumps(damage(json.loads(good))))
        with pytest.raises(SAEFormatError, match=match):
            load_sae(tmp_path)
    document.write_text(good[:40])
    with pytest.raises(SAEFormatError, match="not JSON"):
        load_sae(tmp_path)
    document.write_text(good)
    weights = tmp_path / "sae.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(SAEFormatError, match="checksum"):
        load_sae(tmp_path)
    weights.write_bytes(b"")
    with pytest.raises(SAEFormatError, match="checksum 00000000"):
        load_sae(tmp_path)


def test_public_names():
    assert mmxai.SAE is SAE and mmxai.load_sae is load_sae
