"""A preloaded parent that forks harvests and kills them; run as a script by test_kill.py.

A process of its own, so that what other tests did to this interpreter's threads is not forked along.
"""

from __future__ import annotations

import itertools
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from mmxai.store import StoreWriter
from tests.store.fake import harvest, make_plan, write_part

STEPS = ("open", "write", "link", "rename", "unlink")


def fork(task: Callable[[], object]) -> int:
    child = os.fork()
    if child == 0:
        status = 1
        try:
            task()
            status = 0
        finally:
            os._exit(status)
    return child


def ended(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def random_kills(directory: Path, wanted: int, seed: int) -> None:
    """Kill `wanted` writers, two at work at a time, at random moments; then let each store be finished."""
    rng, plan, killed = random.Random(seed), make_plan(), 0
    for number in itertools.count():
        path, whole = directory / str(number), False
        while not whole:
            children = [fork(partial(harvest, path, plan, rank, 2)) for rank in range(2)]
            if killed < wanted:
                time.sleep(rng.uniform(0, 0.15))
                for child in rng.sample(children, rng.choice([1, 2, 2])):
                    os.kill(child, signal.SIGKILL)
            statuses = [ended(child) for child in children]
            killed += statuses.count(-signal.SIGKILL)
            if set(statuses) - {0, -signal.SIGKILL}:
                raise SystemExit(f"a writer failed: {statuses}")
            whole = 0 in statuses and -signal.SIGKILL not in statuses
        if killed >= wanted:
            print(f"{killed} kills over {number + 1} stores")
            return


def stop_at(step: int) -> None:
    """Stop this process (SIGSTOP) just before its `step`-th system call that changes files."""
    count = itertools.count()

    def stopping(call: Callable) -> Callable:
        def wrapped(*args: object, **kwargs: object) -> object:
            if next(count) == step:
                os.kill(os.getpid(), signal.SIGSTOP)
            return call(*args, **kwargs)

        return wrapped

    for name in STEPS:
        setattr(os, name, stopping(getattr(os, name)))


def one_attempt(path: Path, twist: int, step: int | None) -> None:
    with StoreWriter.open(path, make_plan(5), durable=False) as writer:
        if step is not None:
            stop_at(step)
        write_part(writer, 0, twist)


def two_attempts(directory: Path) -> None:
    """One attempt stopped before each of its steps while another, different in the last bit, runs through;
    the stopped one is then killed, or goes on."""
    for fate in (signal.SIGKILL, signal.SIGCONT):
        for step in itertools.count():
            path = directory / f"{fate.name}-{step}"
            first = fork(partial(one_attempt, path, 0, step))
            _, status = os.waitpid(first, os.WUNTRACED)
            if not os.WIFSTOPPED(status):
                print(f"{step} steps")
                break
            second = fork(partial(one_attempt, path, 1, None))
            if ended(second) != 0:
                raise SystemExit(f"the second attempt failed at step {step}")
            os.kill(first, fate)
            if ended(first) not in (0, -signal.SIGKILL):
                raise SystemExit(f"the first attempt failed after step {step}")


if __name__ == "__main__":
    torch.set_num_threads(1)
    task, where, *numbers = sys.argv[1:]
    if task == "random":
        random_kills(Path(where), *map(int, numbers))
    else:
        two_attempts(Path(where))
