"""How well a CLIP knows the shapes world: retrieval, attributes, binding, each with its interval."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from mmxai.errors import ArgumentError
from mmxai.shapes.captions import Caption, captions, prompt, swapped
from mmxai.shapes.scene import ATTRIBUTES, CATEGORY_COLUMN
from mmxai.shapes.towers import Towers
from mmxai.shapes.truth import truth
from mmxai.shapes.world import ShapesWorld, WorldBatch

SEED = 2026
"""Seed of the worlds that scores are taken on."""

_Z = 1.959963984540054  # the normal distribution's 97.5% quantile


@dataclass(frozen=True, slots=True)
class Score:
    """A share of right answers, its 95% interval, and over how many pictures."""

    name: str
    value: float
    low: float
    high: float
    n: int
    chance: float

    def __str__(self) -> str:
        return f"{self.name}: {self.value:.1%} [{self.low:.1%}, {self.high:.1%}] of {self.n:,}"

    def to_json(self) -> dict[str, Any]:
        """Plain JSON."""
        return asdict(self)


def interval(right: np.ndarray, name: str, chance: float) -> Score:
    """The mean of bool `[n]` with its 95% interval by Wilson (1927), which says something at 100% too."""
    n = len(right)
    if n == 0:
        raise ArgumentError(f"{name}: got no pictures that apply, expected at least one; take a larger world")
    share = float(right.mean())
    centre = (share + _Z**2 / (2 * n)) / (1 + _Z**2 / n)
    half = _Z / (1 + _Z**2 / n) * (share * (1 - share) / n + _Z**2 / (4 * n**2)) ** 0.5
    return Score(name, share, max(0.0, centre - half), 1.0 if share == 1 else centre + half, n, chance)


def scores(towers: Towers, split: str = "test", *, pictures: int = 2048, seed: int = SEED) -> list[Score]:
    """Every score of the card on one split, over about `pictures` pictures each."""
    world = ShapesWorld(1 << 30, seed=seed, split=split)
    found = list(retrieval(towers, world, pictures))
    single = _single(world, pictures)
    embedded = towers.embed_pictures(single.images)
    found += [zero_shot(towers, single, embedded, n) for n in ("colour", "shape", "fill", "size", "place")]
    found += binding(towers, world, pictures)
    return found


def retrieval(towers: Towers, world: ShapesWorld, pictures: int, among: int = 256) -> Iterator[Score]:
    """Caption to picture and back, among `among` at a time.

    Each group's scenes are distinct: its full captions are unambiguous and true of their own picture
    alone. Both scores count the top-1.
    """
    to_picture, to_caption = [], []
    for group in range(max(1, pictures // among)):
        batch = world.batch(np.arange(2 * among) + group * 2 * among)
        written = [c[0] for c in batch.captions]
        true = truth([c.facts for c in written], batch.graphs)
        alone = (true.sum(1) == 1) & (true.sum(0) == 1) & [c.unambiguous for c in written]
        kept = np.flatnonzero(alone)[:among]
        if len(kept) < among:
            raise ArgumentError(
                f"retrieval: got {len(kept)} distinct scenes of {2 * among}, expected {among}"
            )
        image = towers.embed_pictures(batch.images[kept])
        text = towers.embed_texts([written[k].text for k in kept])
        cosine, own = text @ image.T, torch.arange(among)
        to_picture.append((cosine.argmax(1) == own).numpy())
        to_caption.append((cosine.argmax(0) == own).numpy())
    yield interval(np.concatenate(to_picture), f"retrieval of the picture among {among}", 1 / among)
    yield interval(np.concatenate(to_caption), f"retrieval of the caption among {among}", 1 / among)


def zero_shot(towers: Towers, batch: WorldBatch, embedded: torch.Tensor, name: str) -> Score:
    """Which value of attribute `name` single-object pictures have, by the prompts "a red object" etc."""
    values = ATTRIBUTES[name]
    text = towers.embed_texts([prompt(**{name: value}) for value in values])
    chosen = (embedded @ text.T).argmax(1).numpy()
    right = chosen == batch.scenes.things[:, 0, CATEGORY_COLUMN[name]]
    return interval(right, f"zero-shot {name}", 1 / len(values))


def binding(towers: Towers, world: ShapesWorld, pictures: int) -> list[Score]:
    """The true caption against the same one with something exchanged: the true one must score higher.

    A colour, shape, size or fill is exchanged between two objects of a full caption; a relation becomes
    its opposite in a relation caption. One twin a picture and kind. Both sentences name a pair of
    `scene.HELD_OUT` or neither does: else the text alone would tell which is the false one.
    """
    batch = _take(world, np.arange(2 * pictures), least=2, most=3, number=pictures)
    key = world.caption_key()
    image = towers.embed_pictures(batch.images)
    found: dict[str, tuple[list[int], list[Caption], list[Caption]]] = {}
    for i, (graph, index) in enumerate(zip(batch.graphs, batch.indices.tolist(), strict=True)):
        full, _, relation = captions(graph, key, index, most=3)
        for given, kinds in ((full, ("colour", "shape", "size", "fill")), (relation, ("relation",))):
            odd = given.facts.held_out
            wrong = dict(reversed([(k, w) for k, w in swapped(given, graph) if w.facts.held_out == odd]))
            for kind in kinds:
                if kind in wrong:
                    which, true, false = found.setdefault(kind, ([], [], []))
                    which.append(i)
                    true.append(given)
                    false.append(wrong[kind])
    out = []
    for kind in ("colour", "relation", "shape", "size", "fill"):
        which, true, false = found.get(kind, ([], [], []))
        one, two = (towers.embed_texts([c.text for c in side]) if side else None for side in (true, false))
        if one is None or two is None:
            raise ArgumentError(f"binding: got no picture with a {kind} to swap; take more pictures")
        right = (image[which] * (one - two)).sum(1) > 0
        out.append(interval(right.numpy(), f"binding, {kind} swapped", 0.5))
    return out


def _single(world: ShapesWorld, number: int) -> WorldBatch:
    return _take(world, np.arange(4 * number), least=1, most=1, number=number)


def _take(world: ShapesWorld, indices: np.ndarray, *, least: int, most: int, number: int) -> WorldBatch:
    """The first `number` of some pictures that have so many objects."""
    count = world.scenes(indices).count
    return world.batch(indices[(count >= least) & (count <= most)][:number], texts=0)
