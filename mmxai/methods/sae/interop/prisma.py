"""ViT-Prisma: a pickled `*.pt` with its `config.json` beside it, or with the configuration inside. Read only.

SAE          W_enc [D, M]  b_enc [M]  W_dec [M, D]  b_dec [D]; gated ones with b_gate, r_mag, b_mag [M]
transcoder   W_enc [D, M]  b_enc [M]  W_dec [M, E]  b_dec [D] of the input  b_dec_out [E]  W_skip [E, D]
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from mmxai.errors import ArgumentError, SAEFormatError
from mmxai.methods.sae.interop.gated import ungated
from mmxai.methods.sae.interop.hooks import site_of
from mmxai.methods.sae.interop.parts import positive_int, read_json, take
from mmxai.methods.sae.interop.plain import Plain
from mmxai.pickled import read_pickled

CONFIG = "config.json"
_BASE = ("W_enc", "b_enc", "W_dec", "b_dec")


def recognises(path: Path) -> bool:
    return (path.is_file() and path.suffix == ".pt") or len(_checkpoints(path)) > 0


def read(path: Path) -> Plain:
    """The SAE of checkpoint `path`, or of the only one in that folder."""
    file = path if path.is_file() else _only(path)
    tensors, rest = read_pickled(file)
    inside = {name.removeprefix("state_dict/"): t for name, t in tensors.items()}
    beside = file.with_name(CONFIG)
    config = read_json(beside) if beside.exists() else rest.get("cfg")
    if not isinstance(config, dict):
        raise SAEFormatError(f"{file}: got weights without a configuration, expected {CONFIG} beside them")
    norm = config.get("normalize_activations") or "none"
    if norm not in ("none", "layer_norm"):
        raise SAEFormatError(
            f"{file}: got normalize_activations = {norm!r}, expected none or layer_norm: the factor of the "
            "rows is no part of a checkpoint; fold it into the weights first"
        )
    transcoder = bool(config.get("is_transcoder"))
    made = _transcoder(inside, file) if transcoder else _weights(config, inside, file)
    hook = config.get("hook_point") or f"blocks.{_layer(config)}.{config.get('layer_subtype')}"
    out = f"blocks.{config.get('out_hook_point_layer')}.{config.get('layer_out_subtype')}"
    return Plain(
        **made | _activation(config, made.get("arch", "relu"), file),
        row_norm="layer_norm" if norm == "layer_norm" else "none",
        site_in=site_of(hook, "vision"),
        site_out=site_of(out, "vision") if transcoder else "",
        identity={k: config[k] for k in ("model_name", "dataset_name") if config.get(k) is not None},
        notes="read from ViT-Prisma",
    )


def write(sae: Plain, path: Path) -> None:
    """Refused: the layout is a pickle, and mmxai writes none but dictionary_learning's."""
    raise ArgumentError(
        "prisma: got a request to write ViT-Prisma's layout, expected mmxai, saelens, sparsify or "
        "dictionary_learning: it is a pickle with a Python object in it"
    )


def _weights(config: Mapping[str, Any], tensors: dict[str, torch.Tensor], path: Path) -> dict[str, Any]:
    if config.get("architecture", "standard") == "gated":
        names = ("W_enc", "b_gate", "r_mag", "b_mag", "W_dec", "b_dec")
        W_enc, *gate, W_dec, b_dec = take(tensors, path, names, ("b_enc",))  # b_enc is there and not used
        return ungated(W_enc.T, *gate) | {"W_dec": W_dec, "b_dec": b_dec}
    W_enc, b_enc, W_dec, b_dec = take(tensors, path, _BASE)
    return {"W_enc": W_enc.T, "b_enc": b_enc, "W_dec": W_dec, "b_dec": b_dec}


def _transcoder(tensors: dict[str, torch.Tensor], path: Path) -> dict[str, Any]:
    """The input's bias goes into the encoder's: ours subtracts none from a transcoder's input."""
    W_enc, b_enc, W_dec, b_dec, b_dec_out = take(tensors, path, (*_BASE, "b_dec_out"), ("W_skip",))
    return {
        "W_enc": W_enc.T,
        "b_enc": b_enc.float() - (b_dec.double() @ W_enc.double()).float(),
        "W_dec": W_dec,
        "b_dec": b_dec_out,
        "W_skip": tensors.get("W_skip"),
        "centred": False,
    }


def _activation(config: Mapping[str, Any], arch: str, path: Path) -> dict[str, Any]:
    """arch and k."""
    name = config.get("activation_fn_str") or "relu"
    if name == "relu":
        return {"arch": arch}
    if name == "topk" and arch == "relu":
        k = (config.get("activation_fn_kwargs") or {}).get("k")
        return {"arch": "topk", "k": positive_int(k, "activation_fn_kwargs.k", path.with_name(CONFIG))}
    raise SAEFormatError(f"{path}: got activation {name!r} of a {arch} SAE, expected 'relu' or 'topk'")


def _layer(config: Mapping[str, Any]) -> Any:
    layer = config.get("hook_point_layer")
    return layer[0] if isinstance(layer, list) and len(layer) == 1 else layer


def _checkpoints(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.pt")) if folder.is_dir() else []


def _only(folder: Path) -> Path:
    found = _checkpoints(folder)
    if len(found) != 1:
        raise SAEFormatError(
            f"{folder}: got {len(found)} .pt files ({', '.join(f.name for f in found)}), expected one; "
            "name the file itself"
        )
    return found[0]
