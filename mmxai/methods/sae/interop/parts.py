"""Reading the files of a foreign layout, with errors that name what is missing."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from mmxai.errors import SAEFormatError


def read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError):
        raise SAEFormatError(f"{path}: got no such file, expected the configuration") from None
    except ValueError as error:
        raise SAEFormatError(f"{path}: got bytes that are not JSON ({error})") from error
    if not isinstance(found, dict):
        raise SAEFormatError(f"{path}: got a {type(found).__name__}, expected a JSON object")
    return found


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    try:
        return load_file(path)
    except FileNotFoundError:
        raise SAEFormatError(f"{path}: got no such file, expected the weights") from None
    except SafetensorError as error:
        raise SAEFormatError(f"{path}: got bytes that are not safetensors ({error})") from error


def take(
    tensors: Mapping[str, torch.Tensor],
    path: Path,
    needed: Sequence[str],
    possible: Sequence[str] = (),
) -> tuple[torch.Tensor, ...]:
    """The `needed` tensors in that order; SAEFormatError where one is missing or one more is there."""
    missing = sorted(set(needed) - set(tensors))
    unknown = sorted(set(tensors) - set(needed) - set(possible))
    if missing or unknown:
        raise SAEFormatError(
            f"{path}: got tensors {sorted(tensors)}, expected {sorted(needed)}"
            + (f" and at most {sorted(possible)}" if possible else "")
            + "; was it written by another version of its library?"
        )
    return tuple(tensors[name] for name in needed)


def positive_int(value: Any, name: str, path: Path) -> int:
    if isinstance(value, bool) or not isinstance(value, int | float) or value != int(value) or value < 1:
        raise SAEFormatError(f"{path}: got {name} = {value!r}, expected a positive whole number")
    return int(value)
