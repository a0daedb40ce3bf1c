"""A run's checkpoint: a safetensors file of every trainee's tensors, the rest as JSON in its header."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from mmxai.errors import CheckpointError
from mmxai.methods.sae.files import write_tensors
from mmxai.methods.sae.trainee import Trainee

VERSION = 1


@contextmanager
def held(path: Path) -> Iterator[None]:
    """The lock beside `path`; the system frees it when its holder dies. CheckpointError where it is held."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path.with_suffix(".lock"), "a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise CheckpointError(
                f"{path}: another process is training this, expected one at a time; wait for it, or train "
                "into another folder"
            ) from None
        yield


def save(path: Path, trainees: Sequence[Trainee], state: Mapping[str, Any]) -> None:
    """Replaces the checkpoint in one rename. `state`: JSON, with the run's `settings`."""
    tensors = {f"{i}/{k}": v for i, t in enumerate(trainees) for k, v in t.tensors().items()}
    whole = {**state, "version": VERSION, "trainees": [t.state() for t in trainees]}
    write_tensors(path, tensors, {"run": json.dumps(whole)})


def read(path: Path) -> dict[str, Any] | None:
    """The JSON of the checkpoint; None where there is none yet."""
    if not path.exists():
        return None
    try:
        with safe_open(path, "pt") as file:
            state = json.loads((file.metadata() or {})["run"])
    except (SafetensorError, KeyError, ValueError) as error:
        raise CheckpointError(
            f"{path}: got no checkpoint of a training run ({error}); remove it to begin anew"
        ) from error
    if state.get("version") != VERSION:
        raise CheckpointError(f"{path}: got version {state.get('version')}, expected {VERSION}; remove it")
    return state


def check_same(path: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """CheckpointError, naming each difference, where a run would go on with other settings."""
    was, flat = _flat(before), _flat(now)
    differ = [
        f"{k}: was {was.get(k)!r}, now {flat.get(k)!r}"
        for k in sorted({*was, *flat})
        if was.get(k) != flat.get(k)
    ]
    if differ:
        raise CheckpointError(
            f"{path}: was made with other settings or data ({'; '.join(differ[:6])}), expected the same; "
            "give another --out, or remove the folder to begin anew"
        )


def restore(path: Path, trainees: Sequence[Trainee], state: Mapping[str, Any]) -> None:
    """Gives the trainees what the checkpoint holds of them."""
    with safe_open(path, "pt") as file:
        names = list(file.keys())
        for i, (trainee, own) in enumerate(zip(trainees, state["trainees"], strict=True)):
            mine = {n.removeprefix(f"{i}/"): n for n in names if n.startswith(f"{i}/")}
            tensors: dict[str, torch.Tensor] = {k: file.get_tensor(n) for k, n in mine.items()}
            trainee.restore(tensors, own)


def _flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested JSON as one level, so that a difference is named by its path."""
    found: dict[str, Any] = {}
    for key, item in value.items():
        found |= _flat(item, f"{prefix}{key}.") if isinstance(item, Mapping) else {f"{prefix}{key}": item}
    return found
