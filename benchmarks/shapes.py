"""How fast the shapes world is made, on one core."""

from __future__ import annotations

import argparse
from collections.abc import Callable

import numpy as np
import torch

from benchmarks.harness import Figure, finish, interleave, run_tests
from mmxai.shapes import ShapesWorld
from mmxai.shapes.dictionary import Dictionary
from mmxai.shapes.feed import Feed

PICTURES = 2048
BATCH = 128


def main(args: argparse.Namespace) -> int:
    names = ("world", "captions", "twins", "truth", "dictionary")
    run_tests(*(f"tests/shapes/test_{name}.py" for name in names))
    torch.set_num_threads(1)
    world, feed, source = ShapesWorld(1 << 30), Feed(1000, BATCH), Dictionary()
    indices = np.arange(PICTURES)

    def several(n: int, work: Callable[[int], object]) -> Callable[[], None]:
        def run() -> None:
            for k in range(n):
                work(k)

        return run

    works = {
        "pictures": lambda: world.batch(indices, texts=0),
        "captioned": lambda: world.batch(indices, texts=1),
        "one_by_one": several(256, lambda k: (world[k].image, world[k].caption)),
        "twins": several(256, lambda k: world.twin(k, "colour").changed.image),
        "training": several(4, lambda k: feed[k]),
        "dictionary": lambda: source[0:PICTURES],
    }
    timings = interleave(works, repeats=5)
    made = {"one_by_one": 256, "twins": 256, "training": 4 * BATCH}
    targets = {"captioned": ">= 2000"}
    figures = [
        Figure(
            f"{name}_per_s",
            made.get(name, PICTURES) / timing.median,
            targets.get(name),
            f"{made.get(name, PICTURES):,} in {timing}",
        )
        for name, timing in timings.items()
    ]
    return finish("shapes", figures, args.json)
