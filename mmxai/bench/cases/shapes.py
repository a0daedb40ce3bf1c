"""How fast the shapes world is made, on one core."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from mmxai.bench.figures import Figure, interleave
from mmxai.bench.floors import bytes_floor, copy_bandwidth
from mmxai.bench.options import Options
from mmxai.shapes import ShapesWorld
from mmxai.shapes.dictionary import Dictionary
from mmxai.shapes.feed import Feed

_NAMES = ("world", "captions", "twins", "truth", "dictionary")
TESTS = tuple(f"tests/shapes/test_{name}.py" for name in _NAMES)
GPU = False
BATCH = 128
TARGETS = {"captioned": ">= 2000"}


def run(options: Options) -> list[Figure]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return _measure(options)
    finally:
        torch.set_num_threads(threads)


def _measure(options: Options) -> list[Figure]:
    world, feed, source = ShapesWorld(1 << 30), Feed(1000, BATCH), Dictionary()
    pictures, singles, batches = (128, 8, 1) if options.quick else (2048, 256, 4)
    indices = np.arange(pictures)

    def several(n: int, work: Callable[[int], object]) -> Callable[[], None]:
        def run() -> None:
            for k in range(n):
                work(k)

        return run

    works = {
        "pictures": lambda: world.batch(indices, texts=0),
        "captioned": lambda: world.batch(indices, texts=1),
        "one_by_one": several(singles, lambda k: (world[k].image, world[k].caption)),
        "twins": several(singles, lambda k: world.twin(k, "colour").changed.image),
        "training": several(batches, lambda k: feed[k]),
        "dictionary": lambda: source[0:pictures],
    }
    timings = interleave(works, repeats=options.repeats(5))
    made = {"one_by_one": singles, "twins": singles, "training": batches * BATCH}
    bandwidth = copy_bandwidth()
    picture = world[0].image.nbytes
    item = dict.fromkeys(works, picture) | {"dictionary": source[0:1].nbytes}
    return [
        Figure(
            f"{name}_per_s",
            made.get(name, pictures) / timing.median,
            TARGETS.get(name),
            f"{made.get(name, pictures):,} in {timing}",
            bytes_floor(made.get(name, pictures) * item[name], bandwidth, "one write"),
        )
        for name, timing in timings.items()
    ]
