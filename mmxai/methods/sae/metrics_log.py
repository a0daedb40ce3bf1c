"""Where a run's figures go: JSON lines always, TensorBoard or Weights & Biases where asked for."""

from __future__ import annotations

import importlib
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmxai.errors import ArgumentError
from mmxai.runs import StepLog

NAME = "metrics.jsonl"


class TensorBoard:
    @staticmethod
    def package() -> Any:
        return _package("torch.utils.tensorboard", "tensorboard")

    def __init__(self, folder: Path, step: int):
        self._writer = self.package().SummaryWriter(str(folder), purge_step=step + 1)

    def write(self, entry: Mapping[str, Any]) -> None:
        for name, value in entry.items():
            self._writer.add_scalar(name, value, entry["step"])

    def close(self) -> None:
        self._writer.close()


class WandB:
    """One run an SAE, in the project `mmxai`; when resumed the same one, by the id in its folder."""

    @staticmethod
    def package() -> Any:
        return _package("wandb", "wandb")

    def __init__(self, folder: Path, step: int):
        known = folder / "wandb-id"
        if step == 0 or not known.exists():
            known.write_text(secrets.token_hex(8))
        self._run = self.package().init(
            project="mmxai",
            name="-".join(folder.parts[-2:]),
            id=known.read_text(),
            resume="allow",
            dir=str(folder),
            reinit="create_new",
        )

    def write(self, entry: Mapping[str, Any]) -> None:
        self._run.log(dict(entry), step=entry["step"])

    def close(self) -> None:
        self._run.finish()


TRACKERS: dict[str, Any] = {"tensorboard": TensorBoard, "wandb": WandB}


def check_trackers(trackers: Sequence[str]) -> None:
    """ArgumentError where one is unknown or not installed."""
    if unknown := sorted(set(trackers) - set(TRACKERS)):
        raise ArgumentError(f"track: got {unknown}, expected some of {sorted(TRACKERS)}")
    for name in trackers:
        TRACKERS[name].package()


def open_logs(folder: Path, step: int, trackers: Sequence[str]) -> list[Any]:
    """The log of the SAE in `folder`, continued after `step`, and the trackers named."""
    return [StepLog(folder / NAME, step), *(TRACKERS[t](folder, step) for t in trackers)]


def _package(module: str, package: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ArgumentError(
            f"track: got {package}, which is not installed ({error}); `pip install {package}`, or leave it "
            f"out: {NAME} is written in any case"
        ) from error
