"""A training run's checkpoint: a safetensors file, with the rest as JSON in its header."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from mmxai.errors import CheckpointError

VERSION = 1
NAME = "checkpoint.safetensors"


def write_tensors(path: Path, tensors: Mapping[str, torch.Tensor], metadata: dict[str, str]) -> None:
    """A safetensors file that takes the place of `path` in one rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    staged = path.with_name(f"{path.name}.tmp")
    save_file({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, staged, metadata)
    staged.chmod(path.parent.stat().st_mode & 0o666)  # safetensors gives it to its owner alone
    with open(staged, "rb") as file:
        os.fsync(file.fileno())
    staged.replace(path)


def save(path: Path, state: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> None:
    write_tensors(path, tensors, {"run": json.dumps({**state, "version": VERSION})})


def read(path: Path, settings: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, torch.Tensor]] | None:
    """State and tensors; None where there is no checkpoint yet.

    CheckpointError where it is damaged, or was made with other `settings` (JSON, one level).
    """
    if not path.exists():
        return None
    try:
        with safe_open(path, "pt") as file:
            state = json.loads((file.metadata() or {})["run"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, KeyError, ValueError) as error:
        raise CheckpointError(
            f"{path}: got no checkpoint of a tuned lens ({error}); remove it to begin anew"
        ) from error
    if state.get("version") != VERSION:
        raise CheckpointError(f"{path}: got version {state.get('version')}, expected {VERSION}; remove it")
    was, now = state["settings"], json.loads(json.dumps(settings))
    differ = [f"{k}: was {was.get(k)!r}, now {v!r}" for k, v in now.items() if was.get(k) != v]
    if differ:
        raise CheckpointError(
            f"{path}: was made with other settings or data ({'; '.join(differ[:6])}), expected the same; "
            "give another folder, or remove it to begin anew"
        )
    return state, tensors
