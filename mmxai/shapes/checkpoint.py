"""The state of a training run in one safetensors file: weights, optimiser, step."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from mmxai.errors import PlanMismatchError

NAME = "state.safetensors"


def save(
    folder: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer, state: Mapping[str, Any]
) -> None:
    """Replaces the folder's checkpoint in one rename; `state` is JSON and travels in the file's header."""
    tensors = {f"model/{name}": p.detach() for name, p in model.named_parameters()}
    for name, p in model.named_parameters():
        tensors |= {f"optimizer/{k}/{name}": v for k, v in optimizer.state[p].items()}
    staged = folder / f"{NAME}.tmp"
    save_file({k: v.contiguous() for k, v in tensors.items()}, staged, {"state": json.dumps(dict(state))})
    with open(staged, "rb") as file:
        os.fsync(file.fileno())
    staged.replace(folder / NAME)


def read_state(folder: Path) -> dict[str, Any]:
    """What `save` was given as `state`."""
    with safe_open(folder / NAME, "pt") as file:
        return json.loads(file.metadata()["state"])


def restore(
    folder: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer, settings: Mapping[str, Any]
) -> dict[str, Any]:
    """Loads the folder's checkpoint into both; returns its state. PlanMismatchError if `settings` differ."""
    state = read_state(folder)
    before = state["settings"]
    differ = [
        f"{k}: was {before.get(k)!r}, now {settings.get(k)!r}"
        for k in sorted({*before, *settings})
        if before.get(k) != settings.get(k)
    ]
    if differ:
        raise PlanMismatchError(
            f"{folder / NAME} was made with other settings ({'; '.join(differ)}), "
            f"expected the same; give another --out, or remove the folder"
        )
    with safe_open(folder / NAME, "pt") as file:
        for name, p in model.named_parameters():
            with torch.no_grad():
                p.copy_(file.get_tensor(f"model/{name}"))
            names = ("step", "exp_avg", "exp_avg_sq")
            # A fused AdamW keeps its step counters beside the weights too.
            optimizer.state[p] = {k: file.get_tensor(f"optimizer/{k}/{name}").to(p.device) for k in names}
    return state
