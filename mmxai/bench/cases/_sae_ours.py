"""Our side of case `sae`: the trainer's own step. As a module, given a job and steps, prints the answer."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch

from mmxai.bench.peers._sae_ import Reconstruct, Step, dead_of, rate_of, serve
from mmxai.methods.sae import SAESpec, TrainConfig
from mmxai.methods.sae.init import begin
from mmxai.methods.sae.trainee import Trainee
from mmxai.methods.sae.workspace import Workspace

FOREVER = 1 << 40


def make(job: dict[str, Any], first: torch.Tensor) -> tuple[Step, Reconstruct]:
    """Rows come normalised, as for the peers. `dead`: that share of latents is kept dead, for AuxK;
    `steps`: of the whole run, which the rate depends on."""
    schedule: dict[str, Any] = {} if job["native"] else {"lr": rate_of(job), "warmup": 0, "decay": 0.0}
    config = TrainConfig(
        sites=("x",), latents=job["latents"], k=job["k"], batch=job["rows"], normalise="none",
        dead_after=FOREVER, product=job["product"], device=job["device"], **schedule,
    )  # fmt: skip
    spec = SAESpec("topk", job["latents"], ("x",), (job["width"],), k=job["k"])
    trainee = Trainee("ours", config, begin(spec, config, {"x": first}), job.get("steps", FOREVER))
    workspace, done = Workspace(), 0

    def step(x: torch.Tensor) -> None:
        nonlocal done
        if job["dead"]:
            trainee.silent[dead_of(job)] = FOREVER
        trainee.step(x, x, done, workspace)
        done += 1

    return step, trainee.sae.forward


if __name__ == "__main__":
    works, answer = serve(json.loads(Path(sys.argv[1]).read_text()), make)
    works["finish"](int(sys.argv[2]))
    print(json.dumps(answer()))
