"""Run by test_kill.py: trains in children forked from this preloaded process and kills them with SIGKILL.

usage: kill_driver.py STORE OUT KILLS SEED ARCH [ARCH ...]      (KILLS 0: one straight run)

Prints JSON: `kills`; `begun`: of every child that came to its first step, the step of the checkpoint that it
found (0: none) and the step at which it began; `steps`: of the whole run.
"""

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import torch

from mmxai.methods.sae import TrainConfig, checkpoint, train_sae
from mmxai.methods.sae import train as training

OPTIONS = dict(
    sites=("t.0.x",), latents=256, k=3, batch=64, lr=3e-3, log_every=3, save_every=4, init_rows=512,
    dead_after=400, epochs=4.0,
)  # fmt: skip


def step_of(path):
    state = checkpoint.read(path)
    return 0 if state is None else state["step"]


def train(store, out, arches, path, begun):
    """`begun`: a file to which the step found and the step begun with are added."""
    loop = training._Run._loop
    found = step_of(path)

    def noting(run, *rest):
        with open(begun, "a") as file:
            file.write(f"{found} {run.step}\n")
        loop(run, *rest)

    training._Run._loop = noting
    configs = [TrainConfig(arch=arch, **OPTIONS) for arch in arches]
    train_sae(store, configs, out=out, progress=False)


def start(*args):
    """Fork a worker; returns its pid."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            train(*args)
            status = 0
        finally:
            os._exit(status)
    return pid


def ended(pid):
    """Whether the worker has ended by itself."""
    found, status = os.waitpid(pid, os.WNOHANG)
    if found and status:
        sys.exit(f"a run failed with status {status}")
    return bool(found)


def main():
    store, out, kills, seed, *arches = sys.argv[1:]
    torch.set_num_threads(1)
    draw = random.Random(int(seed))
    path = Path(out) / training.RUNS / "t.0.x.safetensors"
    begun = Path(f"{out}-begun.txt")
    begun.touch()
    delivered = 0
    while delivered < int(kills):
        before = path.stat().st_mtime_ns if path.exists() else 0
        pid = start(store, out, arches, path, begun)
        # Every other one is killed anywhere, also before it has begun; the others once they have saved.
        over = time.monotonic() + draw.uniform(0.02, 0.4)
        saved = delivered % 2 == 0
        while not (done := ended(pid)):
            if saved and path.exists() and path.stat().st_mtime_ns != before:
                over, saved = time.monotonic() + draw.uniform(0.0, 0.05), False
            if not saved and time.monotonic() > over:
                break
            time.sleep(0.001)
        if done:
            break
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        delivered += 1
    train(store, out, arches, path, begun)
    pairs = [[int(n) for n in line.split()] for line in begun.read_text().splitlines()]
    print(json.dumps({"kills": delivered, "begun": pairs, "steps": step_of(path)}))


main()
