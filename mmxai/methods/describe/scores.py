"""How well each word describes each unit: the five scores of CLIP-Dissect (Oikarinen and Weng 2023,
arXiv:2204.10965), as that paper's code computes them.

Each compares a unit's values over pictures, one a picture, with the judge's similarities of those pictures
to a word. A score is made for one set of units and is then asked for blocks of words, `[U, b]` at a time; the
marginal of SoftWPMI and WPMI is over all units it was made for, whatever the blocks.
"""

from __future__ import annotations

from typing import Protocol

import torch

from mmxai.errors import ArgumentError
from mmxai.kernels.log_products import log_products
from mmxai.methods.describe.order import largest
from mmxai.methods.describe.similarities import Similarities

BLOCK_VALUES = 1 << 25
"""Of what a block of words needs beside the similarities, 128 MiB."""

LEAST_WORDS = 64
"""Words of a block, whatever the memory."""


class Score(Protocol):
    units: int
    similarities: Similarities

    def __call__(self, start: int, stop: int) -> torch.Tensor:
        """float32 `[U, stop - start]` of a block of words: the higher the better, -inf where undefined."""
        ...


class Wpmi:
    """log p(word | unit) less `marginal` x log p(word), where log p(word | unit) is the sum, over the
    pictures that the unit likes best, of log(1 + weight (P(word | picture) - 1) + floor) and p(word) the mean
    over units.

    tops int64 `[U, k]`: those pictures, best first; weights float32 `[k]`: how surely each is one.
    """

    def __init__(
        self, similarities: Similarities, tops: torch.Tensor, weights: torch.Tensor, *,
        temperature: float, marginal: float, floor: float = 1e-7,
    ):  # fmt: skip
        self.units = len(tops)
        self.similarities, self._tops, self._weights = similarities, tops.to(torch.int32), weights
        self._temperature, self._marginal, self._floor = temperature, marginal, floor
        self._norms = similarities.log_norms(temperature)

    def __call__(self, start: int, stop: int) -> torch.Tensor:
        return log_products(
            self.similarities.block(start, stop), self._tops, self._weights, floor=self._floor,
            scale=self._temperature, norms=self._norms, marginal=self._marginal,
        )  # fmt: skip


def soft_weights(top: int, first: float = 0.998, last: float = 0.97) -> torch.Tensor:
    """float32 `[top]`: falls from `first` by even steps that would reach `last` one picture later."""
    return (first - torch.arange(top, dtype=torch.float64) / top * (first - last)).float()


class Cosine:
    """Cosine of values and similarities over pictures; centred and cubed first where asked for."""

    def __init__(self, similarities: Similarities, values: torch.Tensor, *, cubed: bool = False):
        self.units = values.shape[1]
        self.similarities, self._cubed = similarities, cubed
        self._least = 1e-3 if cubed else 1e-12
        self._values = self._unit(values)

    def _unit(self, x: torch.Tensor) -> torch.Tensor:
        if self._cubed:
            x = (x - x.mean(0)) ** 3
        return x / x.norm(dim=0).clamp(min=self._least)

    def __call__(self, start: int, stop: int) -> torch.Tensor:
        return self._values.T @ self._unit(self.similarities.block(start, stop))


class RankReorder:
    """How little a unit's values over its best pictures change if a word orders these pictures in its place:
    minus mean |change|^power over what a random order would change, over the word's mean similarity^scale.

    The published code draws five random orders for the denominator; here it is what they are on average, a
    factor of the unit alone. Words whose mean similarity over those pictures is not above 0 have no score.
    """

    def __init__(
        self,
        similarities: Similarities,
        values: torch.Tensor,
        *,
        share: float = 0.05,
        power: float = 3.0,
        scale: float = 0.5,
    ):
        number = int(similarities.pictures * share)
        if number < 2:
            raise ArgumentError(
                f"rank_reorder: got {similarities.pictures} pictures, of which {share:g} are {number}, "
                "expected at least 2"
            )
        self.units = values.shape[1]
        self.similarities, self._power, self._scale = similarities, power, scale
        self._tops = largest(values.T, number)
        self._values = values.T.gather(1, self._tops)

    def __call__(self, start: int, stop: int) -> torch.Tensor:
        block = self.similarities.block(start, stop)
        return torch.stack([self._of(block[top], x) for top, x in zip(self._tops, self._values, strict=True)])

    def _of(self, similar: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        """`[b]`, of one unit: similarities `[n, b]` of its pictures, and its values there, descending."""
        random = ((values - values[:, None]).abs() ** self._power).mean()
        order = similar.argsort(dim=0, stable=True)
        change = (values[order] - values.flip(0)[:, None]).abs() ** self._power
        mean = similar.mean(0)
        found = -change.mean(0) / random / mean**self._scale
        return torch.where((mean > 0) & (random > 0), found, -torch.inf)


def soft_wpmi(
    similarities: torch.Tensor, values: torch.Tensor, *, top: int = 100, temperature: float = 10.0,
    marginal: float = 1.0, first: float = 0.998, last: float = 0.97, floor: float = 1e-7,
) -> torch.Tensor:  # fmt: skip
    """SoftWPMI float32 `[U, W]` of similarities float32 `[N, W]` and units' values float32 `[N, U]`."""
    known, tops = checked(similarities, values), top_pictures(values, top)
    weights = soft_weights(top, first, last).to(tops.device)
    score = Wpmi(known, tops, weights, temperature=temperature, marginal=marginal, floor=floor)
    return score(0, known.words)  # the kernel goes by blocks of its own


def wpmi(
    similarities: torch.Tensor, values: torch.Tensor, *, top: int = 28, temperature: float = 2.0,
    marginal: float = 0.6, floor: float = 1e-7,
) -> torch.Tensor:  # fmt: skip
    """WPMI, as `soft_wpmi`: each of the best pictures is one for sure."""
    known, tops = checked(similarities, values), top_pictures(values, top)
    weights = torch.ones(top, device=tops.device)
    score = Wpmi(known, tops, weights, temperature=temperature, marginal=marginal, floor=floor)
    return score(0, known.words)  # the kernel goes by blocks of its own


def cosine(similarities: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Cosine similarity, not centred."""
    return whole(Cosine(checked(similarities, values), values))


def cosine_cubed(similarities: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Cosine of the cubes of both, centred; norms below 1e-3 count as 1e-3, as published."""
    return whole(Cosine(checked(similarities, values), values, cubed=True))


def rank_reorder(
    similarities: torch.Tensor, values: torch.Tensor, *, share: float = 0.05, power: float = 3.0,
    scale: float = 0.5,
) -> torch.Tensor:  # fmt: skip
    """Rank reorder over the `share` of the pictures that each unit likes best."""
    known = checked(similarities, values)
    return whole(RankReorder(known, values, share=share, power=power, scale=scale))


def top_pictures(values: torch.Tensor, top: int) -> torch.Tensor:
    """int64 `[U, top]`: in which pictures each unit of values float32 `[N, U]` is highest, best first."""
    if top < 1 or top > len(values):
        raise ArgumentError(
            f"describe: got the {top} best of {len(values)} pictures, expected 1 to {len(values)}; say how "
            "many with top"
        )
    return largest(values.T, top)


def whole(score: Score) -> torch.Tensor:
    """All of a score, float32 `[U, W]`."""
    found = torch.empty((score.units, score.similarities.words), device=score.similarities.device)
    for start, stop in blocks(score):
        found[:, start:stop] = score(start, stop)
    return found


def blocks(score: Score) -> list[tuple[int, int]]:
    """Ranges of words that fit in memory."""
    words = score.similarities.words
    step = max(LEAST_WORDS, BLOCK_VALUES // (3 * score.units + 2 * score.similarities.pictures))
    return [(start, min(start + step, words)) for start in range(0, words, step)]


def checked(similarities: torch.Tensor, values: torch.Tensor) -> Similarities:
    """The similarities; ArgumentError where values are not of the same pictures, or not finite."""
    known = Similarities.of(similarities)
    if values.dtype != torch.float32 or values.ndim != 2 or len(values) != known.pictures:
        raise ArgumentError(
            f"describe: got values {values.dtype} of shape {tuple(values.shape)}, expected float32 (N, U) of "
            f"the {known.pictures} pictures that similarities are of"
        )
    if not bool(torch.isfinite(values.sum())) and not bool(torch.isfinite(values).all()):
        raise ArgumentError("describe: got values with NaN or infinities, expected finite ones")
    return known
