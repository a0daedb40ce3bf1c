"""A dissection's state: a file a stage, replaced as the stage goes on, beside what the run was asked for.

Sums are of whole numbers, or picture by picture in stored order, and blocks begin where the last saved one
ended: a run that was killed and taken up again ends with the same bytes as one that was not.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from mmxai.errors import CheckpointError
from mmxai.store.files import disk_full
from mmxai.store.plan import differences

VERSION = 1
_RUN, _LOCK, _STAGING = "run.json", "run.lock", ".{}.tmp"


@dataclass(frozen=True)
class Saved:
    """What a stage came to: its arrays, the logical row where it goes on, and whether it is over."""

    arrays: dict[str, np.ndarray]
    position: int
    finished: bool


class State:
    """The stages of one run in `folder`; None keeps nothing. `settings`: JSON that a run must agree in to go
    on.

    CheckpointError where the folder is of a run with other settings, or damaged.
    """

    def __init__(self, folder: Path | None, settings: Mapping[str, Any]):
        self._folder = folder
        if folder is None:
            return
        folder.mkdir(parents=True, exist_ok=True)
        for left in folder.glob(_STAGING.format("*")):
            shutil.rmtree(left)
        asked = json.loads(json.dumps({"version": VERSION, **settings}))
        path = folder / _RUN
        if not path.exists():
            _replace(path, (json.dumps(asked, indent=1) + "\n").encode())
            return
        try:
            known = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise CheckpointError(f"{path}: is damaged ({error}); remove {folder} to begin anew") from error
        if found := differences(known, asked):
            raise CheckpointError(
                f"{folder}: holds a run with other settings or data ({'; '.join(found[:6])}), expected the "
                "same; give another folder, or remove it to begin anew"
            )

    def read(self, stage: str) -> Saved | None:
        """None where the stage has not begun."""
        if self._folder is None or not (path := self._path(stage)).exists():
            return None
        try:
            with safe_open(path, "np") as file:
                told = json.loads((file.metadata() or {})["stage"])
                arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return Saved(arrays, told["position"], told["finished"])
        except (SafetensorError, KeyError, ValueError) as error:
            raise CheckpointError(
                f"{path}: is damaged ({error}); remove {self._folder} to begin anew"
            ) from error

    def write(self, stage: str, arrays: Mapping[str, np.ndarray], position: int, finished: bool) -> None:
        if self._folder is None:
            return
        told = json.dumps({"position": position, "finished": finished})
        write_arrays(self._path(stage), arrays, {"stage": told})

    def _path(self, stage: str) -> Path:
        assert self._folder is not None
        return self._folder / f"{stage}.safetensors"


@contextmanager
def held(folder: Path | None) -> Iterator[None]:
    """The lock of a state's folder; the system frees it when its holder dies. CheckpointError where it is
    held."""
    if folder is None:
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / _LOCK, "a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise CheckpointError(
                f"{folder}: another process is at this dissection, expected one at a time; wait for it, or "
                "give another folder"
            ) from None
        yield


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray], metadata: dict[str, str]) -> None:
    """A safetensors file that takes the place of `path` in one rename.

    It is staged in a folder of its own: safetensors writes to a name at random, which a killed process leaves
    behind.
    """
    staging = path.with_name(_STAGING.format(path.name))
    if staging.exists():
        shutil.rmtree(staging)
    with disk_full(path):
        staging.mkdir(parents=True)
        staged = staging / path.name
        save_file({k: np.ascontiguousarray(v) for k, v in arrays.items()}, staged, metadata)
        staged.chmod(staging.stat().st_mode & 0o666)  # safetensors gives it to its owner alone
        os.replace(staged, path)
        staging.rmdir()


def _replace(path: Path, content: bytes) -> None:
    staged = path.with_suffix(".tmp")
    with disk_full(path):
        staged.write_bytes(content)
        os.replace(staged, path)
