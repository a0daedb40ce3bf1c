"""Erasers of concepts (LEACE) from the moments of the probes, kept as safetensors."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from mmxai.errors import DataError
from mmxai.linalg.leace import Leace

FORMAT = "mmxai-probe-erasers"

Erasers = dict[tuple[str, str], Leace]
"""(site, task) -> what hides the task from every linear probe of the site; an edit of a model as it is."""


def save_erasers(erasers: Mapping[tuple[str, str], Leace], path: str | Path) -> Path:
    """Write all to the file `path` (`.safetensors`): `<site>/<task>/left`, `right`, `mean`, as `Leace` has
    them."""
    path = Path(path)
    # Clones: tasks share a mean, and safetensors refuses to write memory twice.
    tensors = {
        f"{site}/{task}/{part}": tensor.clone(memory_format=torch.contiguous_format)
        for (site, task), one in erasers.items()
        for part, tensor in one.tensors().items()
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    staged = path.with_name(path.name + ".tmp")
    save_file(tensors, staged, {"format": FORMAT, "erasers": json.dumps([list(key) for key in erasers])})
    staged.chmod(path.parent.stat().st_mode & 0o666)  # safetensors gives it to its owner alone
    staged.replace(path)
    return path


def load_erasers(path: str | Path) -> Erasers:
    """What `save_erasers` wrote; DataError where it is something else."""
    try:
        with safe_open(str(path), "pt") as file:
            about = file.metadata() or {}
            if about.get("format") != FORMAT:
                raise DataError(f"{path}: got no {FORMAT}, expected what `mmxai probe --erase` writes")
            keys = [(str(site), str(task)) for site, task in json.loads(about["erasers"])]
            return {
                (s, t): Leace(**{p: file.get_tensor(f"{s}/{t}/{p}") for p in ("left", "right", "mean")})
                for s, t in keys
            }
    except (SafetensorError, ValueError, KeyError) as error:
        raise DataError(f"{path}: {error!r}, expected what `mmxai probe --erase` writes") from error
