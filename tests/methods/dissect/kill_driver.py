"""Run by test_kill.py: dissects in children forked from this preloaded process and kills them with SIGKILL.

usage: python -m tests.methods.dissect.kill_driver STORE OUT KILLS SEED (KILLS 0: one straight run)

Prints JSON: `kills`, and `begun`: of every child the row at which it began to count labels to choose (0: none
was saved yet).
"""

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import torch

from mmxai.methods.dissect import DissectConfig, dissect
from mmxai.methods.dissect import space as running
from mmxai.store import open_store
from tests.methods.dissect.stores import SITE, Maps

CONFIG = DissectConfig(
    sites=(SITE,), quantile=0.1, held_out=0.3, bootstrap=20, save_every=1, memory=1.2e5 / (1 << 30),
    exact=True, rule="f1", compose=2,
)  # fmt: skip


class Slow(Maps):
    """Pictures of 5 ms, or so, so that kills come between them."""

    def labels(self, sample):
        time.sleep(0.005)
        return super().labels(sample)


def run(store, out, begun):
    first = running.Labelling.spans

    def noting(self, cells, step, start=0):
        with open(begun, "a") as file:
            file.write(f"{cells.side} {start}\n")
        return first(self, cells, step, start)

    running.Labelling.spans = noting
    running.BLOCK_VALUES = 400  # a picture or two at once
    with open_store(store) as opened:
        found = dissect(opened, Slow(24), CONFIG, state=Path(out) / "state")
        found.save(Path(out) / "dissect.json")


def start(*args):
    """Fork a worker; returns its pid."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            run(*args)
            status = 0
        finally:
            os._exit(status)
    return pid


def saved(out):
    """What there is of the state, and since when."""
    held = {}
    for path in Path(out, "state").glob("*.safetensors"):
        try:
            held[path.name] = path.stat().st_mtime_ns
        except FileNotFoundError:
            continue
    return held


def main():
    store, out, kills, seed = sys.argv[1:]
    torch.set_num_threads(1)
    draw = random.Random(int(seed))
    begun = Path(f"{out}-begun.txt")
    begun.touch()
    delivered = 0
    while delivered < int(kills):
        pid = start(store, out, begun)
        # After some saves, and then anywhere; every fourth anywhere from the start.
        saves, seen, over = draw.randint(1, 3), saved(out), time.monotonic() + draw.uniform(0.0, 0.2)
        waiting, done = delivered % 4 != 3, False
        while not done and (waiting or time.monotonic() < over):
            found, status = os.waitpid(pid, os.WNOHANG)
            if found and status:
                sys.exit(f"a run failed with status {status}")
            done = bool(found)
            if waiting and (now := saved(out)) != seen:
                seen, saves = now, saves - 1
                if not saves:
                    waiting, over = False, time.monotonic() + draw.uniform(0.0, 0.03)
            time.sleep(0.0005)
        if done:
            break
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        delivered += 1
    run(store, out, begun)
    told = [line.split() for line in begun.read_text().splitlines()]
    print(json.dumps({"kills": delivered, "begun": [int(row) for _, row in told]}))


main()
