"""A tuned lens in the layout of the tuned-lens package (0.2.0): a folder of `config.json` and `params.pt`.

    config.json  base_model_name_or_path  base_model_revision  d_model  num_hidden_layers  bias
                 unembed_hash  lens_type = "linear_tuned_lens"
    params.pt    "<depth>.weight" [D, D], "<depth>.bias" [D] of every depth below num_hidden_layers; added to
                 the state they read, so that zeros are the plain lens

The package reads nothing but the pickle. `save_tuned_lens` writes the same tensors as `params.safetensors`,
which is what is read here where it is there, and `params.pt` for the package. What we add to config.json is
under "mmxai", a key that the package ignores with a warning.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from mmxai.errors import LensFormatError
from mmxai.methods.lens.tuned.checkpoint import write_tensors
from mmxai.methods.lens.tuned.translators import TunedLens
from mmxai.pickled import read_pickled

CONFIG, WEIGHTS, PICKLED = "config.json", "params.safetensors", "params.pt"
KIND = "linear_tuned_lens"


def unembed_hash(weight: torch.Tensor) -> str:
    """What tuned-lens knows an unembedding `[V, D]` by: SHA-256 of numpy's short print of it."""
    shown = np.array_str(weight.detach().cpu().float().numpy(), precision=1)
    return hashlib.sha256(shown.encode()).hexdigest()


def save_tuned_lens(lens: TunedLens, folder: str | Path, *, pickled: bool = True) -> Path:
    """Write `folder`. pickled: also `params.pt`, which tuned-lens needs and mmxai does not.

    A depth without a translator gets zeros; "mmxai" in config.json says which have one.
    """
    folder = Path(folder)
    tensors = {}
    for depth in range(lens.blocks):
        tensors[f"{depth}.weight"] = lens.weight.get(depth, torch.zeros(lens.width, lens.width))
        tensors[f"{depth}.bias"] = lens.bias.get(depth, torch.zeros(lens.width))
    tensors = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
    write_tensors(folder / WEIGHTS, tensors, {"format": "pt"})
    if pickled:
        staged = folder / f"{PICKLED}.tmp"
        torch.save(tensors, staged)
        staged.replace(folder / PICKLED)
    document = {
        "base_model_name_or_path": lens.model,
        "d_model": lens.width,
        "num_hidden_layers": lens.blocks,
        "bias": True,
        "base_model_revision": None,
        "unembed_hash": lens.unembed_hash,
        "lens_type": KIND,
        "mmxai": {"tower": lens.tower, "depths": sorted(lens.weight), "identity": dict(lens.identity)},
    }
    staged = folder / f"{CONFIG}.tmp"
    staged.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    staged.replace(folder / CONFIG)
    return folder


def load_tuned_lens(folder: str | Path, *, tower: str = "text") -> TunedLens:
    """The tuned lens in `folder`, written by `save_tuned_lens` or by tuned-lens.

    tower: whose stream it translates, where the folder does not say. A pickle is read with
    `weights_only=True` in a process of its own.
    LensFormatError where the folder holds something else, or is damaged.
    """
    folder = Path(folder)
    config = _config(folder)
    width, blocks = _count(config, "d_model", folder), _count(config, "num_hidden_layers", folder)
    tensors = _tensors(folder)
    biased = bool(config.get("bias", True))
    wanted = {f"{d}.{n}" for d in range(blocks) for n in (("weight", "bias") if biased else ("weight",))}
    shapes = {f"{n}": (width, width) if n.endswith("weight") else (width,) for n in wanted}
    if set(tensors) != wanted or any(tensors[n].shape != shapes[n] for n in wanted):
        got = {n: tuple(t.shape) for n, t in list(tensors.items())[:6]}
        raise LensFormatError(
            f"{folder}: got parameters {got}, expected a weight {(width, width)}"
            f"{' and a bias' if biased else ''} of each of {blocks} depths, as {CONFIG} has it"
        )
    ours = config.get("mmxai") or {}
    depths = ours.get("depths", range(blocks))
    return TunedLens(
        str(config.get("base_model_name_or_path")),
        ours.get("tower", tower),
        blocks,
        width,
        {d: tensors[f"{d}.weight"].float() for d in depths},
        {d: tensors[f"{d}.bias"].float() if biased else torch.zeros(width) for d in depths},
        config.get("unembed_hash"),
        ours.get("identity", {}),
    )


def _config(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise LensFormatError(
            f"{folder}: got no {CONFIG}, expected the folder of a tuned lens: {CONFIG} and {PICKLED}"
        ) from None
    except ValueError as error:
        raise LensFormatError(f"{path}: got bytes that are not JSON ({error})") from error
    kind = config.get("lens_type") if isinstance(config, dict) else None
    if kind != KIND:
        raise LensFormatError(f"{path}: got lens_type {kind!r}, expected {KIND!r}")
    return dict(config)


def _tensors(folder: Path) -> dict[str, torch.Tensor]:
    if (path := folder / WEIGHTS).is_file():
        try:
            return dict(load_file(path))
        except SafetensorError as error:
            raise LensFormatError(f"{path}: got bytes that are not safetensors ({error})") from error
    return read_pickled(folder / PICKLED, LensFormatError)[0]


def _count(config: dict[str, Any], name: str, folder: Path) -> int:
    value = config.get(name)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise LensFormatError(f"{folder / CONFIG}: got {name} = {value!r}, expected a positive whole number")
    return value
