"""A saved SAE: `sae.safetensors` and `sae.json`, as FORMAT.md has it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save_file

from mmxai.errors import SAEFormatError
from mmxai.kernels.crc32c import crc32c
from mmxai.methods.sae.spec import SAESpec

FORMAT, VERSION = "mmxai-sae", 1
WEIGHTS, DOCUMENT = "sae.safetensors", "sae.json"


def write(folder: Path, spec: SAESpec, tensors: Mapping[str, torch.Tensor]) -> Path:
    """Writes both files, each whole or not at all; the document, which names the weights' checksum, last."""
    path = folder / WEIGHTS
    write_tensors(path, tensors, {"format": "pt"})
    document = {
        "format": FORMAT,
        "version": VERSION,
        "spec": spec.to_json(),
        "weights": {"file": WEIGHTS, "bytes": path.stat().st_size, "crc32c": _checksum(path)},
    }
    text = folder / f"{DOCUMENT}.tmp"
    text.write_text(json.dumps(document, indent=1) + "\n")
    replace(text, folder / DOCUMENT)
    return folder


def read(folder: Path, device: torch.device | str = "cpu") -> tuple[SAESpec, dict[str, torch.Tensor]]:
    """Spec and tensors of the SAE in `folder`; SAEFormatError where there is none, or it is damaged."""
    path = folder / DOCUMENT
    try:
        document = json.loads(path.read_text())
    except FileNotFoundError:
        raise SAEFormatError(
            f"{folder}: got no {DOCUMENT}, expected the folder of an SAE saved by mmxai "
            "(`mmxai sae convert` reads other libraries')"
        ) from None
    except ValueError as error:
        raise SAEFormatError(f"{path}: got bytes that are not JSON ({error}); it is damaged") from error
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise SAEFormatError(f"{path}: got no {FORMAT!r} document, expected the sae.json of FORMAT.md")
    if document.get("version") != VERSION:
        raise SAEFormatError(
            f"{path}: got version {document.get('version')!r}, expected {VERSION}; a newer mmxai may read it"
        )
    spec = SAESpec.from_json(_field(document, "spec", path), path)
    weights = _field(document, "weights", path)
    data = folder / WEIGHTS
    if not data.exists():
        raise SAEFormatError(f"{folder}: got no {WEIGHTS}, expected it beside {DOCUMENT}")
    if (found := _checksum(data)) != weights.get("crc32c"):
        raise SAEFormatError(
            f"{data}: got checksum {found}, expected {weights.get('crc32c')} of {DOCUMENT}; the file is "
            "damaged or is another SAE's"
        )
    try:
        tensors = load(data.read_bytes())
    except SafetensorError as error:
        raise SAEFormatError(f"{data}: got bytes that are not safetensors ({error})") from error
    return spec, {k: v.to(device) for k, v in tensors.items()}


def write_tensors(path: Path, tensors: Mapping[str, torch.Tensor], metadata: dict[str, str]) -> None:
    """A safetensors file that takes the place of `path` in one rename. One writer of a path at a time.

    It is staged in a folder of its own: safetensors writes to a name at random, which a killed process leaves
    behind, and the next writer then finds it there.
    """
    staging = path.with_name(f".{path.name}.tmp")
    if staging.exists():
        shutil.rmtree(staging)
    staging.mkdir(parents=True)
    staged = staging / path.name
    save_file({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, staged, metadata)
    staged.chmod(staging.stat().st_mode & 0o666)  # safetensors gives it to its owner alone
    replace(staged, path)
    staging.rmdir()


def replace(staged: Path, path: Path) -> None:
    """Gives `staged` its name, once its bytes are on the disk."""
    with open(staged, "rb") as file:
        os.fsync(file.fileno())
    staged.replace(path)


def _field(document: dict[str, Any], name: str, path: Path) -> dict[str, Any]:
    value = document.get(name)
    if not isinstance(value, dict):
        raise SAEFormatError(f"{path}: got {name} = {value!r}, expected an object")
    return value


def _checksum(path: Path) -> str:
    empty = not path.stat().st_size  # which cannot be mapped
    found = crc32c(b"") if empty else crc32c(np.memmap(path, dtype=np.uint8, mode="r"))
    return f"{found:08x}"
