"""EleutherAI's sparsify: a folder of `cfg.json` and `sae.safetensors` (eai-sparsify 1.3).

    encoder.weight [M, D]   encoder.bias [M]   W_dec [M, D]   b_dec [D]   W_skip [D, D]

TopK alone. The input is centred by `b_dec` unless it is a transcoder's. The folder's name is the hook point.
"""

from __future__ import annotations

import json
from pathlib import Path

from safetensors.torch import save_file

from mmxai.errors import ArgumentError, SAEFormatError
from mmxai.methods.sae.interop.parts import positive_int, read_json, read_tensors, take
from mmxai.methods.sae.interop.plain import Plain

CONFIG, WEIGHTS = "cfg.json", "sae.safetensors"


def recognises(path: Path) -> bool:
    return (path / CONFIG).is_file() and (path / WEIGHTS).is_file()


def read(path: Path) -> Plain:
    """The coder in folder `path`; SAEFormatError where it computes what no architecture of ours does."""
    config = read_json(path / CONFIG)
    activation = config.get("activation", "topk")
    if activation != "topk" or config.get("signed"):
        raise SAEFormatError(
            f"{path / CONFIG}: got activation {'signed ' if config.get('signed') else ''}{activation!r}, "
            "expected 'topk': ours has no such"
        )
    transcoder, skip = bool(config.get("transcode")), bool(config.get("skip_connection"))
    names = ["encoder.weight", "encoder.bias", "W_dec", "b_dec", *(["W_skip"] if skip else [])]
    W_enc, b_enc, W_dec, b_dec, *W_skip = take(read_tensors(path / WEIGHTS), path / WEIGHTS, names)
    ours = config.get("mmxai") or {}
    site = ours.get("site_in") or f"module:{path.resolve().name}"
    return Plain(
        "topk",
        W_enc,
        b_enc,
        W_dec,
        b_dec,
        W_skip=W_skip[0] if W_skip else None,
        k=positive_int(config.get("k"), "k", path / CONFIG),
        centred=not transcoder,
        site_in=site if not transcoder or ours else f"{site}:in",
        site_out=(ours.get("site_out") or site) if transcoder else "",
        identity=ours.get("identity") or {},
        notes="read from sparsify",
    )


def write(sae: Plain, path: Path) -> None:
    """Folder `path` with `sae` as sparsify saves one."""
    if sae.arch != "topk":
        raise ArgumentError(
            f"sparsify: got a {sae.arch} SAE, expected topk: sparsify has no other; SAELens's layout holds it"
        )
    sae.refuse_row_norm("sparsify")
    latents, width = sae.W_enc.shape
    if sae.W_dec.shape[1] != width:
        raise ArgumentError(
            f"sparsify: got a transcoder {width} wide in and {sae.W_dec.shape[1]} out, expected one width: "
            "its layout has no other; keep it as mmxai saves it"
        )
    sae = sae.centre(not sae.transcoder)
    tensors = {"encoder.weight": sae.W_enc, "encoder.bias": sae.b_enc, "W_dec": sae.W_dec, "b_dec": sae.b_dec}
    if sae.W_skip is not None:
        tensors["W_skip"] = sae.W_skip
    config = {
        "activation": "topk",
        "expansion_factor": max(1, latents // width),
        "normalize_decoder": not sae.transcoder,
        "num_latents": latents,
        "k": sae.k,
        "multi_topk": False,
        "skip_connection": sae.W_skip is not None,
        "transcode": sae.transcoder,
        "d_in": width,
        "mmxai": {"site_in": sae.site_in, "site_out": sae.site_out, "identity": dict(sae.identity)},
    }
    path.mkdir(parents=True, exist_ok=True)
    save_file({k: v.to(sae.dtype).contiguous() for k, v in tensors.items()}, path / WEIGHTS)
    (path / CONFIG).write_text(json.dumps(config, indent=1) + "\n")
