"""Whether a unit does what its label says, on pictures the label was not chosen on.

Simulation: were the unit its label, its values would follow the judge's similarity of each picture to that
word; how far they do is their correlation (as Oikarinen and Weng 2024, arXiv:2405.06855, score explanations).
The sanity tests need labels that are there or not: a picture has one where the judge's similarity is above
what the highest `share` of the chosen pictures reach, the share being the one whose labels correlate best
with the unit there.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

import torch

from mmxai.methods.describe.measures import active, pearson, sanity

SHARES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
"""Shares of the pictures that may have a label (those that Neuron_Eval chooses among, as far as thousands of
pictures tell)."""


@dataclass(frozen=True)
class Seen:
    """Units' values float32 `[N, U]` in pictures, and the judge's embeddings of these float32 `[N, J]`."""

    values: torch.Tensor
    images: torch.Tensor


def simulated(seen: Seen, texts: torch.Tensor) -> torch.Tensor:
    """float64 `[U]`: correlation of each unit with the judge's similarity to its own text, `[U, J]`; NaN
    of a unit that is constant in these pictures."""
    found = pearson(seen.values, seen.images @ texts.T)
    return torch.where(seen.values.amax(0) > seen.values.amin(0), found, torch.nan)


def present(chosen: Seen, texts: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Of each unit the share of pictures that have its label, and the similarity from which on one has:
    float32 `[U]` both."""
    similar = chosen.images @ texts.T
    ordered = similar.sort(dim=0, descending=True).values
    best = torch.full((similar.shape[1],), -torch.inf, dtype=torch.float64)
    share, least = torch.zeros(similar.shape[1]), ordered[0].clone()
    for tried in SHARES:
        threshold = ordered[ceil(tried * len(similar)) - 1]
        found = pearson(chosen.values, similar >= threshold)
        better = found > best
        best[better], share[better], least[better] = found[better], tried, threshold[better]
    return share, least


def spoilt(chosen: Seen, scored: Seen, texts: torch.Tensor, draws: int, seed: int) -> dict[str, torch.Tensor]:
    """The tests of missing and extra labels on the `scored` pictures: "share" float32 `[U]`, and for every
    measure "score NAME", "missing NAME" and "extra NAME", float64 `[U]`."""
    share, least = present(chosen, texts)
    label = scored.images @ texts.T >= least
    found = sanity(scored.values, active(scored.values, share), label, draws, seed)
    out = {"share": share}
    for name in found.score:
        out[f"score {name}"] = found.score[name]
        out[f"missing {name}"], out[f"extra {name}"] = found.missing[name], found.extra[name]
    return out
