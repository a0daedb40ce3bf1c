"""dictionary_learning: a folder of `ae.pt`, a pickle, and `config.json` (dictionary-learning 0.1).

    AutoEncoder          bias [D]     encoder.weight [M, D]  encoder.bias [M]  decoder.weight [D, M]
    AutoEncoderNew       the same with decoder.bias [D] for bias, which the encoder does not subtract
    GatedAutoEncoder     decoder_bias [D]  encoder.weight  r_mag, gate_bias, mag_bias [M]  decoder.weight
    AutoEncoderTopK      b_dec [D]  encoder.weight  encoder.bias  decoder.weight  k []  threshold []
    BatchTopKSAE         the same; used with its threshold
    MatryoshkaBatchTopKSAE  W_enc [D, M]  b_enc  W_dec [M, D]  b_dec  k  threshold []  group_sizes [G]
    JumpReluAutoEncoder  W_enc [D, M]  b_enc  W_dec [M, D]  b_dec  threshold [M]; nothing subtracted

The library reads nothing but the pickle, so `write` makes one: with a tuned lens's `params.pt` the only ones
that mmxai ever writes.
"""

from __future__ import annotations

import json
import re
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch

from mmxai.errors import ArgumentError, SAEFormatError
from mmxai.methods.sae.interop.gated import ungated
from mmxai.methods.sae.interop.parts import positive_int, read_json, take
from mmxai.methods.sae.interop.plain import Plain, unit_rows
from mmxai.pickled import read_pickled

WEIGHTS, CONFIG = "ae.pt", "config.json"
_LINEAR = ("encoder.weight", "encoder.bias", "decoder.weight")
_MATRICES = ("W_enc", "b_enc", "W_dec", "b_dec")
_SITES = {
    "resid_post": "resid_post",
    "mlp_out": "mlp_out",
    "attention_out": "attn_out",
    "attn_out": "attn_out",
}


def recognises(path: Path) -> bool:
    return (path / WEIGHTS).is_file() or (path.is_file() and path.name == WEIGHTS)


def read(path: Path) -> Plain:
    """The dictionary of folder or file `path`; without `config.json` beside it its tensors tell its class."""
    file = path if path.is_file() else path / WEIGHTS
    folder = file.parent
    tensors, _ = read_pickled(file)
    config = read_json(folder / CONFIG) if (folder / CONFIG).exists() else {}
    trainer = config.get("trainer") or {}
    kind = trainer.get("dict_class") or _class_of(tensors, folder)
    if kind not in _READERS:
        raise SAEFormatError(
            f"{folder / CONFIG}: got dict_class {kind!r}, expected one of {', '.join(_READERS)}"
        )
    if kind == "AutoEncoderTopK" and "k" not in tensors:  # before 0.1 it stood in the configuration alone
        tensors["k"] = torch.tensor(positive_int(trainer.get("k"), "trainer.k", folder / CONFIG))
    ours = config.get("mmxai") or {}
    made = _READERS[kind](tensors, file)
    made = {"centred": kind not in ("AutoEncoderNew", "JumpReluAutoEncoder")} | made
    return Plain(
        **made,
        site_in=ours.get("site_in") or _site(trainer),
        identity=ours.get("identity")
        or {k: trainer[k] for k in ("lm_name", "layer") if trainer.get(k) is not None},
        notes=f"read from dictionary_learning, {kind}",
    )


def write(sae: Plain, path: Path) -> None:
    """Folder `path` with `sae` as the library's `load_dictionary` reads it: `ae.pt` is a pickle."""
    if sae.transcoder or sae.W_skip is not None:
        raise ArgumentError(
            "dictionary_learning: got a transcoder or a skip path, expected an SAE of one site: the library "
            "has no other; the sparsify and SAELens layouts hold it"
        )
    sae.refuse_row_norm("dictionary_learning")
    kind, state = _state(sae)
    latents, width = sae.W_enc.shape
    trainer = {
        "trainer_class": "mmxai",
        "dict_class": kind,
        "activation_dim": width,
        "dict_size": latents,
        "k": sae.k,
        "layer": None,
        "lm_name": sae.model_name,
        "submodule_name": sae.site_in,
    }
    about = {"site_in": sae.site_in, "identity": dict(sae.identity)}
    path.mkdir(parents=True, exist_ok=True)
    torch.save({name: value.contiguous().clone() for name, value in state.items()}, path / WEIGHTS)
    (path / CONFIG).write_text(
        json.dumps({"trainer": trainer, "buffer": {}, "mmxai": about}, indent=1) + "\n"
    )


def _state(sae: Plain) -> tuple[str, dict[str, torch.Tensor]]:
    """Class and state dict, float32 as its modules are."""
    sae = sae.centre(sae.arch != "jumprelu")
    linear = {
        "encoder.weight": sae.W_enc.float(),
        "encoder.bias": sae.b_enc.float(),
        "decoder.weight": sae.W_dec.float().T,
    }
    matrices = {
        "W_enc": sae.W_enc.float().T,
        "b_enc": sae.b_enc.float(),
        "W_dec": sae.W_dec.float(),
        "b_dec": sae.b_dec.float(),
    }
    if sae.arch == "relu":
        return "AutoEncoder", {**linear, "bias": sae.b_dec.float()}
    if sae.arch == "jumprelu":
        return "JumpReluAutoEncoder", {**matrices, "threshold": _threshold(sae)}
    k = torch.tensor(sae.k, dtype=torch.int32)
    if sae.arch == "topk":
        unused = torch.tensor(-1.0)
        return "AutoEncoderTopK", {**linear, "b_dec": sae.b_dec.float(), "k": k, "threshold": unused}
    threshold = _threshold(sae)
    if not (threshold == threshold[0]).all():
        raise ArgumentError(
            f"dictionary_learning: got a {sae.arch} SAE with a threshold a latent, expected one of all "
            "latents: its class has no other; the SAELens layout holds it"
        )
    if sae.arch == "batchtopk":
        return "BatchTopKSAE", {**linear, "b_dec": sae.b_dec.float(), "k": k, "threshold": threshold[0]}
    ends = sae.prefixes
    sizes = [end - start for start, end in zip((0, *ends), ends, strict=False)]
    groups = torch.tensor(sizes)
    return "MatryoshkaBatchTopKSAE", {**matrices, "k": k, "threshold": threshold[0], "group_sizes": groups}


def _threshold(sae: Plain) -> torch.Tensor:
    if sae.threshold is None:
        raise ArgumentError(f"got a {sae.arch} SAE without a threshold, expected one")
    return sae.threshold.float()


def _linear(
    tensors: dict[str, torch.Tensor], path: Path, *more: str
) -> tuple[dict[str, Any], tuple[torch.Tensor, ...]]:
    W_enc, b_enc, decoder, *rest = take(tensors, path, (*_LINEAR, *more))
    return {"arch": "relu", "W_enc": W_enc, "b_enc": b_enc, "W_dec": decoder.T}, tuple(rest)


def _matrices(
    tensors: dict[str, torch.Tensor], path: Path, *more: str
) -> tuple[dict[str, Any], tuple[torch.Tensor, ...]]:
    W_enc, b_enc, W_dec, b_dec, *rest = take(tensors, path, (*_MATRICES, *more))
    return {"W_enc": W_enc.T, "b_enc": b_enc, "W_dec": W_dec, "b_dec": b_dec}, tuple(rest)


def _standard(tensors: dict[str, torch.Tensor], path: Path) -> dict[str, Any]:
    made, (bias,) = _linear(tensors, path, "bias")
    made |= {"b_dec": bias}
    norms = made["W_dec"].float().norm(dim=1)
    # As its `from_pretrained` does, where they are not of length 1 already.
    return made if torch.allclose(norms, torch.ones_like(norms)) else unit_rows(made)


def _new(tensors: dict[str, torch.Tensor], path: Path) -> dict[str, Any]:
    made, (bias,) = _linear(tensors, path, "decoder.bias")
    return made | {"b_dec": bias}


def _gated(tensors: dict[str, torch.Tensor], path: Path) -> dict[str, Any]:
    names = ("encoder.weight", "gate_bias", "r_mag", "mag_bias", "decoder.weight", "decoder_bias")
    *gate, decoder, bias = take(tensors, path, names)
    return ungated(*gate) | {"W_dec": decoder.T, "b_dec": bias}


def _topk(tensors: dict[str, torch.Tensor], path: Path) -> dict[str, Any]:
    tensors = {"threshold": torch.tensor(-1.0), **tensors}  # none before 0.1; TopK never uses it
    made, (b_dec, k, _) = _linear(tensors, path, "b_dec", "k", "threshold")
    return made | {"arch": "topk", "b_dec": b_dec, "k": int(k)}


def _batchtopk(tensors: dict[str, torch.Tensor], path: Path) -> dict[str, Any]:
    made, (b_dec, k, threshold) = _linear(tensors, path, "b_dec", "k", "threshold")
    every = threshold.float().expand(len(made["b_enc"]))
    return made | {"arch": "batchtopk", "b_dec": b_dec, "k": int(k), "threshold": every}


def _matryoshka(tensors: dict[str, torch.Tensor], path: Path) -> dict[str, Any]:
    made, (k, threshold, sizes) = _matrices(tensors, path, "k", "threshold", "group_sizes")
    prefixes = tuple(accumulate(int(n) for n in sizes))
    every = threshold.float().expand(len(made["b_enc"]))
    return made | {"arch": "matryoshka", "k": int(k), "threshold": every, "prefixes": prefixes}


def _jumprelu(tensors: dict[str, torch.Tensor], path: Path) -> dict[str, Any]:
    made, (threshold,) = _matrices(tensors, path, "threshold")
    return made | {"arch": "jumprelu", "threshold": threshold}


_READERS = {
    "AutoEncoder": _standard,
    "AutoEncoderNew": _new,
    "GatedAutoEncoder": _gated,
    "AutoEncoderTopK": _topk,
    "BatchTopKSAE": _batchtopk,
    "MatryoshkaBatchTopKSAE": _matryoshka,
    "JumpReluAutoEncoder": _jumprelu,
}


def _class_of(tensors: dict[str, torch.Tensor], folder: Path) -> str:
    """The class that alone has such tensors."""
    alone = {
        "bias": "AutoEncoder",
        "decoder.bias": "AutoEncoderNew",
        "r_mag": "GatedAutoEncoder",
        "group_sizes": "MatryoshkaBatchTopKSAE",
    }
    for name, kind in alone.items():
        if name in tensors:
            return kind
    if "W_enc" in tensors:
        return "JumpReluAutoEncoder"
    raise SAEFormatError(
        f"{folder}: got tensors {sorted(tensors)} without a {CONFIG}, expected it: AutoEncoderTopK and "
        "BatchTopKSAE are told apart by its trainer.dict_class alone"
    )


def _site(trainer: dict[str, Any]) -> str:
    """'text.3.resid_post' of 'resid_post_layer_3'; another name stays as it is."""
    name = str(trainer.get("submodule_name") or "unknown")
    found = re.fullmatch(r"(\w+?)_layer_(\d+)", name)
    kind = _SITES.get(found[1]) if found else None
    return f"text.{found[2]}.{kind}" if found and kind else name
