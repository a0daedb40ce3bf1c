"""Training batches for a contrastive model of the world: pictures, sentences, and which is true of which."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch

from mmxai.shapes import captions
from mmxai.shapes.captions import Caption, say, swapped
from mmxai.shapes.facts import Facts
from mmxai.shapes.model import BOS, EOS, PAD, SPECIAL
from mmxai.shapes.pairs import near
from mmxai.shapes.prompts import middle_prompts, place_prompts, prompts, relation_prompts, short_relation
from mmxai.shapes.render import measure, paint
from mmxai.shapes.rng import Choices, key_of
from mmxai.shapes.scene import Scene, Scenes, describe
from mmxai.shapes.truth import truth
from mmxai.shapes.words import all_words
from mmxai.shapes.world import ShapesWorld

ENDLESS = 1 << 40
"""Pictures of a training world: no step sees one again."""

KINDS = (*captions.KINDS, "prompt", "place")
"""What sentences there are; each kind has a term of its own in the loss."""

_PAD_ID = SPECIAL.index(PAD)
_NEAR, _NEGATIVES, _SHORT, _PROMPTS = 21, 22, 23, 24


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
    so that each is the other's hard negative in both directions. Each picture brings a caption of each kind
    and a short relation; `negatives`: how many false swaps of each are added at most. The short sentences of
    `prompts` are asked of every batch, from step `places_from` on those of `place_prompts` and
    `middle_prompts`, from step `relations_from` on those of `relation_prompts`. No sentence, true or false,
    names a pair of `scene.HELD_OUT`.
    """

    def __init__(
        self,
        steps: int,
        batch: int,
        *,
        seed: int = 0,
        paired: float = 0.5,
        negatives: int = 1,
        places_from: int = 0,
        relations_from: int = 0,
        buckets: int = 4,
    ):
        self.world = ShapesWorld(ENDLESS, seed=seed, split="train")
        self.steps, self.batch, self.negatives, self.buckets = steps, batch, negatives, buckets
        self.places_from, self.relations_from = places_from, relations_from
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
        said: dict[str, tuple[int, Facts]] = {}
        for graph, index in zip(graphs, indices.tolist(), strict=True):
            for caption in self._sentences(graph, index):
                said.setdefault(caption.text, (KINDS.index(caption.kind), caption.facts))
        style = Choices(key_of(self.world.seed, _PROMPTS), step)
        asked: list[tuple[Facts, str, Facts, str]] = []
        if step >= self.places_from:
            asked += [(fact, "", fact, "place") for fact in place_prompts()]
            asked += [(*prompt, "place") for prompt in middle_prompts()]
        asked += [(fact, "", fact, "prompt") for fact in prompts()]
        if step >= self.relations_from:
            asked += [(fact, "", fact, "relation") for fact in relation_prompts()]
        for begin, end, fact, kind in asked:
            said.setdefault(f"{say(begin, style.word())} {end}".strip(), (KINDS.index(kind), fact))
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

    def _sentences(self, graph: Scene, index: int) -> Iterator[Caption]:
        """What is said of one picture, and false swaps of it."""
        full, _, *others = captions.captions(graph, self.world.caption_key(), index)
        choose = Choices(key_of(self.world.seed, _SHORT), index)
        short = short_relation(graph, choose)
        if short is not None:
            style = choose.word()
            others.append(Caption(say(short, style), "relation", short, short.unambiguous(graph), style))
        choose = Choices(key_of(self.world.seed, _NEGATIVES), index)
        for caption in (full, *others):
            yield caption
            if len(caption.facts.phrases) > 1:
                wrong = [w for _, w in swapped(caption, graph) if not w.facts.held_out]
                yield from choose.shuffled(wrong)[: self.negatives]


class Encoder:
    """Token ids as `model.build_tokenizer` gives them, without its threads and its start-up."""

    def __init__(self) -> None:
        self._ids = {word: k for k, word in enumerate([*SPECIAL, *all_words()])}

    def __len__(self) -> int:
        return len(self._ids)

    def __call__(self, text: str) -> list[int]:
        """A sentence of the world's words."""
        words = text.replace(",", " ,").replace("?", " ?").split()
        return [self._ids[word] for word in (BOS, *words, EOS)]


def pad(ids: Sequence[Sequence[int]]) -> torch.Tensor:
    """int64 `[T, L]`, padded on the right. CLIP's text tower is causal and reads the first EOS: no mask."""
    width = max(map(len, ids), default=0)
    return torch.tensor([[*line, *[_PAD_ID] * (width - len(line))] for line in ids], dtype=torch.int64)


def _join(one: Scenes, two: Scenes) -> Scenes:
    names = ("count", "things", "ground", "noise")
    return Scenes(*(np.concatenate([getattr(one, n), getattr(two, n)]) for n in names))
