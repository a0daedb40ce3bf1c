"""SAELens: a folder of `cfg.json` and `sae_weights.safetensors` (sae-lens 6.54; older configurations too).

    W_enc [D, M]   b_enc [M]   W_dec [M, E]   b_dec [E]   threshold [M]   W_skip [E, D]
    b_gate, r_mag, b_mag [M] of gated SAEs; topk_threshold [] of BatchTopK ones that are still in training

A folder that `save_model` wrote in the middle of training is read as what it computes then.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from mmxai.errors import ArgumentError, SAEFormatError
from mmxai.methods.sae.interop.gated import ungated
from mmxai.methods.sae.interop.hooks import hook_of, site_of
from mmxai.methods.sae.interop.parts import positive_int, read_json, read_tensors, take
from mmxai.methods.sae.interop.plain import Plain, unit_rows

CONFIG, WEIGHTS, SCALER = "cfg.json", "sae_weights.safetensors", "activation_scaler.json"
VERSION = "6.54.0"
"""Of the layout that `write` makes; before 6.0.0 the configuration was another."""

SCALED = "expected_average_only_in"
_RENAMED = {
    "hook_point": "hook_name",
    "activation_fn_str": "activation_fn",
    "hook_point_head_index": "hook_head_index",
}
_BASE = ("W_enc", "b_enc", "W_dec", "b_dec")
_TRANSCODERS = ("transcoder", "skip_transcoder", "jumprelu_transcoder", "jumprelu_skip_transcoder")
_KEPT = (
    "model_name",
    "hook_head_index",
    "dataset_path",
    "context_size",
    "neuronpedia_id",
    "sae_lens_version",
)


def recognises(path: Path) -> bool:
    return (path / CONFIG).is_file() and (path / WEIGHTS).is_file()


def read(path: Path) -> Plain:
    """The SAE in folder `path`; SAEFormatError where it computes what no architecture of ours does."""
    config = _current(read_json(path / CONFIG), path / CONFIG)
    tensors = _upright(read_tensors(path / WEIGHTS), path)
    about = config.get("metadata") or {}
    ours = about.get("mmxai") or {}
    made = _weights(config, tensors, path / WEIGHTS)
    transcoder = config["architecture"] in _TRANSCODERS
    site = ours.get("site_in") or site_of(about.get("hook_name"), "text")
    out = ours.get("site_out") or site_of(about.get("hook_name_out"), "text")
    if transcoder and out == "unknown":
        out = f"{site}.out"
    return Plain(
        **made,
        centred=bool(config.get("apply_b_dec_to_input", True)) and not transcoder,
        site_in=site,
        site_out=out if transcoder else "",
        row_norm="layer_norm" if config.get("normalize_activations") == "layer_norm" else "none",
        scale=_scale(config, path),
        identity=ours.get("identity") or {k: about[k] for k in _KEPT if about.get(k) is not None},
        notes=f"read from SAELens {about.get('sae_lens_version') or 'before 6'}: {config['architecture']}",
    )


def write(sae: Plain, path: Path) -> None:
    """Folder `path` with `sae` as SAELens keeps an SAE for inference."""
    architecture = _architecture(sae)
    transcoder = architecture in _TRANSCODERS
    sae = sae.centre(False) if transcoder else sae
    tensors = {"W_enc": sae.W_enc.T, "b_enc": sae.b_enc, "W_dec": sae.W_dec, "b_dec": sae.b_dec}
    if "jumprelu" in architecture and sae.threshold is not None:
        tensors["threshold"] = sae.threshold
    if "skip" in architecture and sae.W_skip is not None:
        tensors["W_skip"] = sae.W_skip
    dtype = sae.dtype
    about: dict[str, Any] = {
        "sae_lens_version": VERSION,
        "hook_name": hook_of(sae.site_in),
        "model_name": sae.model_name,
        "mmxai": {"site_in": sae.site_in, "site_out": sae.site_out, "identity": dict(sae.identity)},
    }
    config: dict[str, Any] = {
        "architecture": architecture,
        "d_in": sae.W_enc.shape[1],
        "d_sae": len(sae.W_enc),
        "dtype": str(dtype).removeprefix("torch."),
        "device": "cpu",
        "apply_b_dec_to_input": sae.centred,
        "normalize_activations": sae.row_norm,
        "reshape_activations": "none",
        "metadata": about,
    }
    if architecture == "topk":
        config |= {"k": sae.k, "rescale_acts_by_decoder_norm": False}
    if transcoder:
        config["d_out"] = sae.W_dec.shape[1]
        about["hook_name_out"] = hook_of(sae.site_out)
    path.mkdir(parents=True, exist_ok=True)
    save_file({k: v.to(dtype).contiguous() for k, v in tensors.items()}, path / WEIGHTS)
    (path / CONFIG).write_text(json.dumps(config, indent=1) + "\n")


def _architecture(sae: Plain) -> str:
    if sae.transcoder or sae.W_skip is not None:
        if sae.arch == "topk":
            raise ArgumentError(
                "saelens: got a TopK transcoder, expected a ReLU or JumpReLU one: SAELens has no other; "
                "the sparsify layout holds it"
            )
        jump = "" if sae.arch == "relu" else "jumprelu_"
        return f"{jump}{'skip_' if sae.W_skip is not None else ''}transcoder"
    # BatchTopK and Matryoshka are JumpReLU once trained, in SAELens too.
    return {"topk": "topk", "relu": "standard"}.get(sae.arch, "jumprelu")


def _current(config: dict[str, Any], path: Path) -> dict[str, Any]:
    """The configuration as from version 6 on, which has no activation_fn: the architecture tells it."""
    config = {_RENAMED.get(k, k): v for k, v in config.items()}
    activation = config.get("activation_fn") or "relu"
    if activation not in ("relu", "topk"):
        raise SAEFormatError(
            f"{path}: got activation_fn = {activation!r}, expected relu or topk: ours has no other"
        )
    if activation == "topk":
        config["architecture"] = "topk"
        config.setdefault("k", (config.get("activation_fn_kwargs") or {}).get("k"))
    if isinstance(config.get("normalize_activations"), bool):
        config["normalize_activations"] = SCALED if config["normalize_activations"] else "none"
    config.setdefault("architecture", "standard")
    config.setdefault(
        "metadata", {k: v for k, v in config.items() if k in (*_KEPT, "hook_name", "hook_name_out")}
    )
    return config


def _upright(tensors: dict[str, torch.Tensor], path: Path) -> dict[str, torch.Tensor]:
    """`W_enc` as ours; no factor of a fine-tuned SAE, which decoding would have to multiply by."""
    factor = tensors.pop("scaling_factor", None)
    if factor is not None and not torch.allclose(
        factor.float(), torch.ones_like(factor, dtype=torch.float32)
    ):
        raise SAEFormatError(
            f"{path}: got an SAE with a fine-tuned scaling_factor, expected none: ours have no such"
        )
    if "W_enc" in tensors:
        tensors["W_enc"] = tensors["W_enc"].T
    return tensors


def _weights(config: dict[str, Any], tensors: dict[str, torch.Tensor], path: Path) -> dict[str, Any]:
    """Architecture, weights, k and prefixes, as `Plain` takes them."""
    architecture = config["architecture"]
    found: dict[str, Any]
    if architecture == "gated":
        W_enc, W_dec, b_dec, *gate = take(
            tensors, path, ("W_enc", "W_dec", "b_dec", "b_gate", "r_mag", "b_mag")
        )
        return ungated(W_enc, *gate) | {"W_dec": W_dec, "b_dec": b_dec}
    if architecture in ("standard", "transcoder"):
        found = {"arch": "relu"}
    elif architecture in ("jumprelu", "jumprelu_transcoder"):
        found = {"arch": "jumprelu"}
    elif architecture in ("skip_transcoder", "jumprelu_skip_transcoder"):
        found = {"arch": "jumprelu" if "jumprelu" in architecture else "relu"}
    elif architecture == "topk":
        found = {"arch": "topk", "k": positive_int(config.get("k"), "k", path.with_name(CONFIG))}
    elif architecture in ("batchtopk", "matryoshka_batchtopk"):
        # In training k may be a fraction; it plays no part once the threshold has been learned.
        found = {"arch": "batchtopk", "k": max(1, round(config.get("k") or 1))}
        if architecture != "batchtopk":
            found |= {"arch": "matryoshka", "prefixes": _prefixes(config, len(tensors.get("b_enc", ())))}
    else:
        raise SAEFormatError(
            f"{path}: got architecture {architecture!r}, expected standard, topk, jumprelu, gated, "
            "batchtopk, matryoshka_batchtopk or a transcoder; ours computes nothing like it"
        )
    names = [*_BASE]
    if "jumprelu" in architecture:
        names.append("threshold")
    if "skip" in architecture:
        names.append("W_skip")
    if "batchtopk" in architecture:
        names.append("topk_threshold")
    found |= dict(zip(names, take(tensors, path, names), strict=True))
    if "topk_threshold" in found:
        found["threshold"] = found.pop("topk_threshold").float().expand(len(found["b_enc"]))
    if config.get("rescale_acts_by_decoder_norm", False):
        found = unit_rows(found)  # it chooses latents as if rows were of length 1
    return found


def _prefixes(config: dict[str, Any], latents: int) -> tuple[int, ...]:
    """SAELens adds the last one where it is not given."""
    widths = tuple(config.get("matryoshka_widths") or ())
    return widths if widths[-1:] == (latents,) else (*widths, latents)


def _scale(config: dict[str, Any], path: Path) -> float:
    """What SAELens multiplies all rows by before the SAE sees them."""
    how = config.get("normalize_activations") or "none"
    if how in ("none", "layer_norm"):
        return 1.0
    factor = (
        read_json(path / SCALER).get("scaling_factor") if how == SCALED and (path / SCALER).exists() else None
    )
    if not isinstance(factor, int | float):
        raise SAEFormatError(
            f"{path}: got normalize_activations = {how!r}"
            + (f" without its factor in {SCALER}" if how == SCALED else "")
            + f", expected none, layer_norm, or {SCALED} with it; fold it into the weights in SAELens"
        )
    return float(factor)
