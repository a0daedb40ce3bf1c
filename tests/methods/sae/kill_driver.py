"""Run by test_kill.py: trains in children forked from this preloaded process and kills them with SIGKILL.

usage: kill_driver.py STORE OUT KILLS SEED ARCH [ARCH ...]      (KILLS 0: one straight run)
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
from mmxai.methods.sae import TrainConfig, train_sae

OPTIONS = dict(
    sites=("t.0.x",), latents=256, k=3, batch=64, lr=3e-3, log_every=3, save_every=4, init_rows=512,
    dead_after=400, epochs=4.0,
)  # fmt: skip


def train(store, out, arches):
    configs = [TrainConfig(arch=arch, **OPTIONS) for arch in arches]
    train_sae(store, configs, out=out, progress=False)


def start(store, out, arches):
    """Fork a worker; returns its pid and a pipe that becomes readable when it begins to work."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        status = 1
        try:
            os.write(writer, b".")
            train(store, out, arches)
            status = 0
        finally:
            os._exit(status)
    os.close(writer)
    return pid, reader


def main():
    path, out, kills, seed, *arches = sys.argv[1:]
    torch.set_num_threads(1)
    draw = random.Random(int(seed))
    delivered = 0
    while delivered < int(kills):
        pid, reader = start(path, out, arches)
        select.select([reader], [], [], 10)
        time.sleep(draw.uniform(0.02, 0.4))
        os.kill(pid, signal.SIGKILL)
        os.close(reader)
        _, status = os.waitpid(pid, 0)
        if os.WIFEXITED(status):
            if os.WEXITSTATUS(status):
                sys.exit(f"a run failed with status {os.WEXITSTATUS(status)}")
            break
        delivered += 1
    train(path, out, arches)
    print(json.dumps({"kills": delivered, "mmxai": mmxai.__version__}))


main()
