"""Training batches for a contrastive model of the world: pictures, sentences, and which is true of which."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch

from mmxai.shapes.captions import captions, swapped
from mmxai.shapes.facts import Facts
from mmxai.shapes.pairs import near
from mmxai.shapes.render import measure, paint
from mmxai.shapes.rng import Choices, key_of
from mmxai.shapes.scene import Scenes, describe
from mmxai.shapes.truth import truth
from mmxai.shapes.words import all_words
from mmxai.shapes.world import ShapesWorld

ENDLESS = 1 << 40
"""Pictures of a training world: no step sees one again."""

KINDS = ("full", "relation", "partial", "count", "background")
_NEAR, _NEGATIVES = 21, 22
PAD_ID, BOS_ID, EOS_ID, FIRST_WORD = 0, 2, 3, 4


@dataclass(frozen=True, slots=True)
class TrainBatch:
    """N pictures and T different sentences.

    `images` uint8 `[N, H, W, 3]`; `tokens`: int64 `[t, L]` each, the sentences from short to long, in
    buckets padded to their own length; `kinds` int64 `[T]` (indices of KINDS); `true` bool `[T, N]`.
    """

    images: torch.Tensor
    tokens: list[torch.Tensor]
    kinds: torch.Tensor
    true: torch.Tensor


class Feed(Sequence[TrainBatch]):
    """`feed[step]`: the batch of one training step, a pure function of (seed, step).

    A share `paired` (at most half) of the pictures are near scenes (`pairs.near`) of others, worded alike,
    so that each is the other's hard negative in both directions. `negatives`: how many false swaps of each
    sentence are added at most. `texts`: how many of the six kinds of captions.
    """

    def __init__(
        self,
        steps: int,
        batch: int,
        *,
        seed: int = 0,
        paired: float = 0.5,
        negatives: int = 1,
        texts: int = 6,
        buckets: int = 4,
    ):
        self.world = ShapesWorld(ENDLESS, seed=seed, split="train")
        self.steps, self.batch, self.negatives = steps, batch, negatives
        self.texts, self.buckets = texts, buckets
        self.fresh = batch - int(batch * paired)
        self._encode = Encoder()

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> TrainBatch:  # type: ignore[override]
        if not 0 <= step < self.steps:
            raise IndexError(step)
        indices = np.arange(self.fresh, dtype=np.int64) + step * self.fresh
        scenes, paired = self.world.scenes(indices), indices[: self.batch - self.fresh]
        others = near(scenes.take(slice(0, len(paired))), key_of(self.world.seed, _NEAR), paired)
        scenes, indices = _join(scenes, others), np.concatenate([indices, paired])
        graphs = describe(scenes, *measure(scenes))
        key = self.world.caption_key()
        said: dict[str, tuple[int, Facts]] = {}
        for graph, index in zip(graphs, indices.tolist(), strict=True):
            choose = Choices(key_of(self.world.seed, _NEGATIVES), index)
            for caption in captions(graph, key, index, most=self.texts):
                said.setdefault(caption.text, (KINDS.index(caption.kind), caption.facts))
                if self.negatives and len(caption.facts.phrases) > 1:
                    wrong = [w for _, w in swapped(caption, graph)]
                    for other in choose.shuffled(wrong)[: self.negatives]:
                        said.setdefault(other.text, (KINDS.index(other.kind), other.facts))
        ids = {text: self._encode(text) for text in said}
        order = sorted(said, key=lambda text: len(ids[text]))
        kinds, facts = [said[text][0] for text in order], [said[text][1] for text in order]
        bounds = np.linspace(0, len(order), self.buckets + 1).astype(int).tolist()
        tokens = [pad([ids[t] for t in order[a:b]]) for a, b in pairwise(bounds)]
        return TrainBatch(
            torch.from_numpy(paint(scenes, self.world.size)[0]),
            [t for t in tokens if len(t)],
            torch.tensor(kinds),
            torch.from_numpy(truth(facts, graphs)),
        )


class Encoder:
    """Token ids as `model.build_tokenizer` gives them, without its threads and its start-up."""

    def __init__(self) -> None:
        self._ids = {word: k + FIRST_WORD for k, word in enumerate(all_words())}

    def __call__(self, text: str) -> list[int]:
        """A sentence of the world's words."""
        words = text.replace(",", " ,").replace("?", " ?").split()
        return [BOS_ID, *(self._ids[word] for word in words), EOS_ID]


def pad(ids: Sequence[Sequence[int]]) -> torch.Tensor:
    """int64 `[T, L]`, padded on the right. CLIP's text tower is causal and reads the first EOS: no mask."""
    width = max(map(len, ids), default=0)
    return torch.tensor([[*line, *[PAD_ID] * (width - len(line))] for line in ids], dtype=torch.int64)


def _join(one: Scenes, two: Scenes) -> Scenes:
    names = ("count", "things", "ground", "noise")
    return Scenes(*(np.concatenate([getattr(one, n), getattr(two, n)]) for n in names))
