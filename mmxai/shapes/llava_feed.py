"""Training batches for the world's LLaVA: features of pictures seen once, questions asked anew each step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from mmxai.shapes.llava_model import FEATURE_LAYER, PICTURE, SOFT_TOKENS, WORDS
from mmxai.shapes.model import BOS, EOS
from mmxai.shapes.questions import Question, questions
from mmxai.shapes.relative import description, named_questions, relative_questions
from mmxai.shapes.rng import Choices, key_of
from mmxai.shapes.scene import Scene
from mmxai.shapes.towers import normalised
from mmxai.shapes.world import ShapesWorld

if TYPE_CHECKING:
    from transformers import LlavaForConditionalGeneration

KINDS = ("attribute", "relative", "place", "existence", "relation", "count", "caption")
"""What is asked; the last is answered by a sentence on the whole picture, word for word."""

SENTENCE = 3.0
"""Weight in the loss of a caption's mean over its words; any other answer's is 1."""

RELATED = 3
"""Further questions on relations in the last stage of training."""

_QUESTIONS, _MORE, _CHOSEN = 31, 32, 33
_IDS = {word: k for k, word in enumerate(WORDS)}
_PREFIX, _PAD = 0, -1


def encode(text: str) -> list[int]:
    """Ids of the world's words as the tokenizer gives them, without the start."""
    words = text.lower().replace(",", " ,").replace("?", " ?").replace(":", " :").split()
    return [_IDS[word] for word in words]


HEAD = [_IDS[BOS], *encode(f"user: {PICTURE}")[:-1], *[_IDS[PICTURE]] * SOFT_TOKENS]
"""The rows before a question: start, "user :", the picture."""


@dataclass(frozen=True, slots=True)
class Packed:
    """P pictures, each with its questions after one another; a question sees the picture and itself alone.

    ids, positions and segments int64 `[P, T]` (segment 0: the picture's rows, -1: padding); rows int64 `[A]`:
    the flat places that predict an answer's words, targets int64 `[A]`; question int64 `[A]`: which of the
    Q questions; kinds int64 `[Q]` (indices of KINDS).
    """

    ids: torch.Tensor
    positions: torch.Tensor
    segments: torch.Tensor
    rows: torch.Tensor
    targets: torch.Tensor
    question: torch.Tensor
    kinds: torch.Tensor

    @property
    def mask(self) -> torch.Tensor:
        """float32 `[P, 1, T, T]`: 0 where a row (third axis) sees another, else -inf."""
        one, two = self.segments[:, :, None], self.segments[:, None, :]
        length = self.segments.shape[1]
        sees = ((one == two) | (two == _PREFIX)) & torch.ones(length, length, dtype=torch.bool).tril()
        return torch.zeros(sees.shape).masked_fill(~sees, torch.finfo(torch.float32).min)[:, None]


def pack(asked: Sequence[Sequence[Question]]) -> Packed:
    """The questions of each picture in one row, each where it would stand if it were alone."""
    ids, positions, segments = [], [], []
    rows, targets, question = [], [], []
    kinds: list[int] = []
    for p, several in enumerate(asked):
        line, place, segment = list(HEAD), list(range(len(HEAD))), [_PREFIX] * len(HEAD)
        for number, q in enumerate(several):
            before, answer = encode(f"{q.text} assistant:"), [*encode(q.answer), _IDS[EOS]]
            rows += [(p, len(line) + len(before) - 1 + k) for k in range(len(answer))]
            targets += answer
            question += [len(kinds)] * len(answer)
            kinds.append(KINDS.index(q.kind))
            words = [*before, *answer[:-1]]
            line += words
            place += range(len(HEAD), len(HEAD) + len(words))
            segment += [number + 1] * len(words)
        ids.append(line)
        positions.append(place)
        segments.append(segment)
    width = max(map(len, ids))

    def table(lines: list[list[int]], fill: int) -> torch.Tensor:
        return torch.tensor([[*line, *[fill] * (width - len(line))] for line in lines])

    at = torch.tensor(rows).reshape(-1, 2)
    return Packed(
        table(ids, 0), table(positions, 0), table(segments, _PAD), at[:, 0] * width + at[:, 1],
        torch.tensor(targets), torch.tensor(question), torch.tensor(kinds),
    )  # fmt: skip


class Pool:
    """`n` pictures of a split: scene graphs, and the vision tower's features float16 `[n, 64, 192]`."""

    def __init__(
        self,
        model: LlavaForConditionalGeneration,
        n: int,
        seed: int,
        split: str,
        *,
        autocast: bool = False,
        chunk: int = 32,
    ):
        self.world = ShapesWorld(n, seed=seed, split=split)
        self.scenes: list[Scene] = []
        self.features = torch.empty(
            n, SOFT_TOKENS, model.model.multi_modal_projector.linear_1.in_features, dtype=torch.float16
        )
        for start in range(0, n, chunk):
            indices = np.arange(start, min(n, start + chunk))
            batch = self.world.batch(indices, texts=0)
            self.scenes += batch.graphs
            with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                self.features[start : start + len(indices)] = vision_features(model, batch.images)
        self.several = np.flatnonzero([len(scene.objects) > 1 for scene in self.scenes])

    def __len__(self) -> int:
        return len(self.scenes)

    def chosen(self, step: int, pictures: int, *, several: bool) -> np.ndarray:
        """Which pictures a step takes, int64 `[pictures]`; `several`: of those with two objects or more."""
        draw = np.random.default_rng([_CHOSEN, self.world.seed, step])
        return draw.choice(self.several if several else len(self), pictures, replace=False)

    def asked(
        self, index: int, step: int = 0, *, named: bool = False, relatives: int = 2, related: int = 0
    ) -> list[Question]:
        """What a step asks of a picture. named: only questions on one object, found by its name; relatives:
        how many that lead over a second object; related: how many more on how two objects stand."""
        scene, index = self.scenes[index], int(index)
        choose = Choices(key_of(self.world.seed, _MORE, step), index)
        if named:
            return list(named_questions(scene, choose, 8))
        usual = questions(scene, key_of(self.world.seed, _QUESTIONS, step), index)
        for draw in range(1, related + 1):
            more = questions(scene, key_of(self.world.seed, _QUESTIONS, step, draw), index)
            usual += [question for question in more if question.kind == "relation"]
        return [*usual, *relative_questions(scene, choose, relatives), description(scene)]


@torch.inference_mode()
def vision_features(model: LlavaForConditionalGeneration, images: np.ndarray) -> torch.Tensor:
    """What the projector reads: uint8 `[N, H, W, 3]` -> float32 `[N, 64, 192]`."""
    tower = model.model.vision_tower
    states = tower(normalised(torch.from_numpy(images)), output_hidden_states=True).hidden_states
    return states[FEATURE_LAYER][:, 1:]


def batches(
    pool: Pool, start: int, steps: int, pictures: int, named: int, related: int
) -> Iterator[tuple[torch.Tensor, Packed]]:
    """Features float32 `[P, 64, 192]` and questions of each step from `start`: pure functions of the step.

    named: first steps of named questions alone; related: step from which each picture is asked `RELATED` more
    questions on how two objects stand, and one that leads over a second object in place of two.
    """
    for step in range(start, steps):
        early, late = step < named, step >= related
        chosen = pool.chosen(step, pictures, several=early)
        more = {"relatives": 1, "related": RELATED} if late else {}
        packed = pack([pool.asked(i, step, named=early, **more) for i in chosen.tolist()])
        yield pool.features[chosen].float(), packed
