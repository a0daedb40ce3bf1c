"""The words of each unit: the highest of a score, and what the highest are where nothing is to be found."""

from __future__ import annotations

from collections.abc import Callable

import torch

from mmxai.methods.describe.order import largest
from mmxai.methods.describe.scores import Score, blocks


def best_words(score: Score, number: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Words int64 `[U, n]` of the highest score and their scores float32, best first; of equal ones the
    first. -1 and -inf where a unit has fewer words with a score. n is at most the number of words."""
    number = min(number, score.similarities.words)
    device = score.similarities.device
    values = torch.empty((score.units, 0), device=device)
    index = torch.empty((score.units, 0), dtype=torch.int64, device=device)
    for start, stop in blocks(score):
        found = score(start, stop)
        names = torch.arange(start, stop, device=device).expand(score.units, -1)
        values, index = torch.cat([values, found], 1), torch.cat([index, names], 1)
        kept = largest(values, min(number, values.shape[1]), index)
        values, index = values.gather(1, kept), index.gather(1, kept)
    return torch.where(values > -torch.inf, index, -1), values


def permuted(
    score_of: Callable[[torch.Tensor], Score], pictures: int, draws: int, seed: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Best words int64 and scores float32, `[draws, U]`, of a layer whose pictures are permuted, all of its
    units alike, so that what its units have in common stays.

    score_of(order): the score of units whose values in picture i stand at picture `order[i]`.
    """
    draw = torch.Generator().manual_seed(seed)
    found = [best_words(score_of(torch.randperm(pictures, generator=draw)), 1) for _ in range(draws)]
    return torch.stack([words[:, 0] for words, _ in found]), torch.stack([score[:, 0] for _, score in found])
