"""The sides of case `lens`. As a module, prints by how much a process grows that does one of them."""

from __future__ import annotations

import json
import sys
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from mmxai.bench.memory import growth
from mmxai.kernels.unembed_topk import unembed_topk

EPSILON = 1e-5
Found = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Work:
    blocks: int
    positions: int
    width: int
    vocabulary: int
    k: int

    def __str__(self) -> str:
        return (
            f"{self.blocks} blocks, {self.positions} positions, {self.width} wide, "
            f"{self.vocabulary:,} tokens, top {self.k}"
        )

    @property
    def rows(self) -> int:
        return self.blocks * self.positions


def write(folder: Path, work: Work) -> None:
    """states.npy `[blocks, positions, D]`, a walk towards the last; weight.npy `[V, D]`, norm.npy `[2, D]`
    (gain and offset of the last norm), targets.npy `[positions]`."""
    draw = torch.Generator().manual_seed(0)
    steps = torch.randn(work.blocks, work.positions, work.width, generator=draw)
    np.save(folder / "states.npy", steps.cumsum(0).numpy())
    weight = torch.randn(work.vocabulary, work.width, generator=draw)
    np.save(folder / "weight.npy", (weight * 3 / work.width**0.5).numpy())
    gain = 1 + 0.1 * torch.randn(work.width, generator=draw)
    np.save(folder / "norm.npy", torch.stack([gain, gain - 1]).numpy())
    targets = torch.randint(work.vocabulary, (work.positions,), generator=draw)
    np.save(folder / "targets.npy", targets.numpy())


class Sides:
    """On `device`, in `dtype`."""

    def __init__(self, folder: Path, work: Work, device: str = "cpu", dtype: torch.dtype = torch.float32):
        read = {name: torch.from_numpy(np.load(folder / f"{name}.npy")) for name in
                ("states", "weight", "norm", "targets")}  # fmt: skip
        self.work = work
        self.states = read["states"].to(device, dtype)
        self.weight = read["weight"].to(device, dtype)
        self.gain, self.offset = read["norm"].to(device, dtype)
        self.targets = read["targets"].to(device)
        self.found: dict[str, Found] = {}
        self._logits: torch.Tensor | None = None

    def norm(self, x: torch.Tensor) -> torch.Tensor:
        return functional.layer_norm(x, x.shape[-1:], self.gain, self.offset, EPSILON)

    def ours(self) -> None:
        """All of the lens; the last block, with which the others are compared, is among them."""
        blocks, positions = self.work.blocks, self.work.positions
        rows = torch.arange(positions, device=self.targets.device)
        out = unembed_topk(
            self.norm(self.states).flatten(0, 1),
            self.weight,
            k=self.work.k,
            targets=self.targets.repeat(blocks)[:, None],
            reference=((blocks - 1) * positions + rows).repeat(blocks),
        )
        assert out.kl is not None
        logs = out.logsumexp[:, None]
        found = {
            "ids": out.ids, "logs": out.values - logs, "target_logs": (out.target_logits - logs)[:, 0],
            "ranks": out.target_ranks[:, 0], "entropy": out.entropy, "kl": out.kl,
        }  # fmt: skip
        self.found["ours"] = {name: x.unflatten(0, (blocks, positions)) for name, x in found.items()}

    def naive(self, blocks: int | None = None) -> None:
        """The same block by block from dense logits, of the last `blocks`."""
        last = self._logs(self.states[-1])  # once, for it is what the others are compared with
        some = self.states[-(blocks or len(self.states)) : -1]
        made = [*(self._dense(*self._logs(x), last[1]) for x in some), self._dense(*last, last[1])]
        self.found["naive"] = {name: torch.stack([m[name] for m in made]) for name in made[0]}

    def _logs(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits = self.norm(x) @ self.weight.T
        logits = logits if logits.dtype == torch.float64 else logits.float()
        return logits, logits.log_softmax(-1)

    def _dense(self, logits: torch.Tensor, logs: torch.Tensor, final: torch.Tensor) -> Found:
        wanted = logits.gather(1, self.targets[:, None])
        best = logs.topk(self.work.k)
        return {
            "ids": best.indices, "logs": best.values,
            "target_logs": logs.gather(1, self.targets[:, None])[:, 0],
            "ranks": (logits > wanted).sum(1), "entropy": -(logs.exp() * logs).sum(1),
            "kl": (final.exp() * (final - logs)).sum(1),
        }  # fmt: skip

    def product(self) -> None:
        """The bare product of all rows, into memory that is there."""
        x = self.states.flatten(0, 1)
        if self._logits is None:
            self._logits = x.new_empty(len(x), len(self.weight))
        torch.mm(x, self.weight.T, out=self._logits)

    def exact(self, positions: int) -> Found:
        """The same in float64, of the first positions of every block."""
        whole = copy(self)
        whole.found = {}
        whole.states, whole.weight = self.states[:, :positions].double(), self.weight.double()
        whole.gain, whole.offset = self.gain.double(), self.offset.double()
        whole.targets = self.targets[:positions]
        whole.naive()
        return whole.found["naive"]


def main(job: dict[str, Any], side: str) -> None:
    torch.set_num_threads(job["threads"])
    sides = Sides(Path(job["folder"]), Work(**job["work"]))
    small = torch.randn(64, 64)
    small @ small  # what the library takes once is no side's
    print(growth(getattr(sides, side))[1])


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()), sys.argv[2])
