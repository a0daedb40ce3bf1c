"""Run by test_kill.py: harvests in children forked from this preloaded process and kills them with SIGKILL.

usage: kill_driver.py MODEL STORES KILLS SEED      (KILLS 0: one straight run)
"""

import json
import os
import random
import select
import signal
import sys
import time

import torch

import mmxai
from mmxai.shapes import ShapesWorld

OPTIONS = dict(
    sites=["*.resid_post", "vision.0.mlp_post", "*.embeds"],
    samples_per_part=4,
    batch_size=4,
    tokens="patch,text,special,cls",
    per_sample=9,
)


def start(model, world, store, rank):
    """Fork a worker; returns its pid and a pipe that becomes readable when it begins to work."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        status = 1
        try:
            os.write(writer, b".")
            mmxai.harvest(model, world, store=store, part_of=f"{rank}/2", progress=False, **OPTIONS)
            status = 0
        finally:
            os._exit(status)
    os.close(writer)
    return pid, reader


def kill(model, world, store, draw, left):
    """Two writers at once, one of which dies now and then, until the store is whole; returns the deaths."""
    delivered = finished = 0
    workers = {}
    while delivered < left and finished < 2:
        for rank in {0, 1} - set(workers):
            workers[rank] = start(model, world, store, rank)
        # The other goes on, so that deaths fall at unrelated moments.
        pid, reader = workers.pop(draw.choice((0, 1)))
        select.select([reader], [], [], 10)
        time.sleep(draw.uniform(0, 0.15))
        os.kill(pid, signal.SIGKILL)
        os.close(reader)
        _, status = os.waitpid(pid, 0)
        if os.WIFSIGNALED(status):
            delivered += 1
        elif os.WEXITSTATUS(status) == 0:
            finished += 1
        else:
            sys.exit(f"a worker failed with status {status}")
    for pid, reader in workers.values():
        os.close(reader)
        os.waitpid(pid, 0)
    return delivered


def main():
    folder, base, kills, seed = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    torch.set_num_threads(1)
    model, world = mmxai.load_model(folder), ShapesWorld(240, seed=5, size=32)
    model.identity  # noqa: B018  computed once, before the forks
    draw = random.Random(seed)
    delivered, stores = [], []
    # A fast machine completes a store before all are delivered: then another store is begun.
    while not stores or sum(delivered) < kills:
        stores.append(f"{base}-{len(stores)}.zarr")
        delivered.append(kill(model, world, stores[-1], draw, kills - sum(delivered)) if kills else 0)
        report = mmxai.harvest(model, world, store=stores[-1], progress=False, **OPTIONS)
        if not report.complete:
            sys.exit(f"{stores[-1]} is not complete: {report}")
    print(json.dumps({"stores": stores, "kills": delivered}))


main()
