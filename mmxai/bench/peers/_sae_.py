"""What all sides of case `sae` share, and imports nothing of ours: rows of a file, steps, FVU, memory."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

Step = Callable[[torch.Tensor], object]
Reconstruct = Callable[[torch.Tensor], torch.Tensor]
Make = Callable[[dict[str, Any], torch.Tensor], tuple[Step, Reconstruct]]


class Rows:
    """A file of batches `[rows, width]` of float32, then `held` rows that nobody trains on."""

    def __init__(self, job: dict[str, Any]):
        self._path, self._width, self._rows = job["data"], job["width"], job["rows"]
        self._held = job["held"]
        self.batches = (Path(self._path).stat().st_size // (4 * self._width) - self._held) // self._rows

    def batch(self, number: int) -> torch.Tensor:
        return self._read((number % self.batches) * self._rows, self._rows)

    def held(self) -> torch.Tensor:
        return self._read(self.batches * self._rows, self._held)

    def _read(self, first: int, count: int) -> torch.Tensor:
        offset = 4 * self._width * first
        values = np.fromfile(self._path, np.float32, count * self._width, offset=offset)
        return torch.from_numpy(values).view(count, self._width)


def serve(
    job: dict[str, Any], make: Make
) -> tuple[dict[str, Callable[..., None]], Callable[[], dict[str, float]]]:
    """Works and answer of one side. `make(job, first batch)` builds its SAE; that is not timed."""
    torch.set_num_threads(job["threads"])
    torch.manual_seed(0)
    device, rows = job["device"], Rows(job)
    kept = [rows.batch(i).to(device) for i in range(job["preload"])]
    held = rows.held()
    before = forget_peak(device)
    learn, reconstruct = make(job, kept[0])
    done = 0

    def step() -> None:
        nonlocal done
        learn(kept[done] if done < len(kept) else rows.batch(done).to(device))
        if device != "cpu":
            torch.get_device_module(device).synchronize()
        done += 1

    def finish(steps: int) -> None:
        while done < steps:
            step()

    def train_for(seconds: float) -> None:
        finish(done + 2)  # in which what is compiled is compiled; the clock begins after
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            step()

    def answer() -> dict[str, float]:
        grown, lost = peak(device) - before, 0.0
        for x in held.split(job["rows"]):
            made = reconstruct(x.to(device)).detach().to("cpu", torch.float32)
            lost += float((made - x).double().square().sum())
        away = float((held - held.mean(0)).double().square().sum())
        return {"fvu": lost / away, "rows": float(done * job["rows"]), "memory": float(grown)}

    return {"step": step, "finish": finish, "train_for": train_for}, answer


def dead_of(job: dict[str, Any]) -> slice:
    """The latents that AuxK is told are dead: the last ones."""
    return slice(round(job["latents"] * (1 - job["dead"])), job["latents"])


def rate_of(job: dict[str, Any]) -> float:
    """Adam's rate where all have the same: that of Gao et al. for 2^14 latents over sqrt(latents / 2^14)."""
    return 2e-4 / (job["latents"] / 2**14) ** 0.5


def forget_peak(device: str) -> int:
    """Bytes held now, from where the peak starts again; 0 where the system does not tell."""
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    clear = Path("/proc/self/clear_refs")
    if not clear.exists():
        return 0
    clear.write_text("5")
    return _status("VmRSS")


def peak(device: str) -> int:
    if device != "cpu":
        return torch.cuda.max_memory_allocated()
    return _status("VmHWM") if Path("/proc/self/clear_refs").exists() else 0


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))
