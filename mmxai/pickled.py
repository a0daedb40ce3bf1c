"""Checkpoints that are pickles, read in a process of their own."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from mmxai.errors import MmxaiError, SAEFormatError

_SCRIPT = Path(__file__).with_name("_unpickle.py")
LIMIT_SECONDS = 600


def read_pickled(
    path: Path, error: type[MmxaiError] = SAEFormatError
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Tensors of a torch checkpoint by name (`outer/inner`), and all else of it as JSON.

    Read with `weights_only=True` by another process, so that no byte of the file is unpickled in this one.
    `error` where it holds anything but tensors, containers, text and numbers.
    """
    if not path.is_file():
        raise error(f"{path}: got no such file, expected a torch checkpoint")
    with tempfile.TemporaryDirectory(prefix="mmxai-convert-") as folder:
        weights, document = Path(folder) / "weights.safetensors", Path(folder) / "rest.json"
        # -P: nothing is imported from the current folder, nor from the script's own with its `types.py`.
        command = [sys.executable, "-P", str(_SCRIPT), str(path.resolve()), str(weights), str(document)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_SECONDS)
        except subprocess.TimeoutExpired:
            raise error(f"{path}: got no end of reading in {LIMIT_SECONDS} s, expected weights") from None
        if done.returncode != 0:
            raise error(
                f"{path}: got a checkpoint that is damaged or holds more than tensors, text and numbers; "
                f"a pickle may run any code when read, so only those are ({_reason(done.stderr)})"
            )
        rest = json.loads(document.read_text())
        return load_file(weights), rest if isinstance(rest, dict) else {"": rest}


def _reason(stderr: str) -> str:
    """The line of a traceback that says why."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    named = [line for line in lines if "Unsupported" in line or "GLOBAL" in line]
    return (named or lines or ["its process ended without a word"])[-1][:300]
