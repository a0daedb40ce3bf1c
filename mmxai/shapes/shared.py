"""What the top pictures of a neuron share, counted on what is known of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from mmxai.shapes.labels import concept_names
from mmxai.types import TOKEN_CODES

if TYPE_CHECKING:
    from mmxai.store.reader import Store

_GLOBAL = torch.tensor([TOKEN_CODES[kind] for kind in ("cls", "special", "register")])
_ENOUGH = 8  # of fewer different pictures nothing can be said


@dataclass(frozen=True, slots=True)
class Shared:
    """`hits` of a neuron's `of` different top pictures have `concept`, which `base` of all pictures have."""

    unit: int
    concept: str
    hits: int
    of: int
    base: float
    bits: float

    def __str__(self) -> str:
        return f"{self.concept}: {self.hits} of the top {self.of} pictures, {self.base:.0%} of all"


def shared_concepts(store: Store, site: str, concepts: np.ndarray, number: int) -> list[Shared]:
    """The `number` neurons of a site whose top pictures agree most, each on another concept.

    concepts: bool `[pictures, C]`, `WorldBatch.concepts` of all pictures of the store in its data's order.
    Neurons that are highest on class and special tokens are left aside: they show no place in the picture.
    Agreement is counted in bits: n KL(share among the neuron's n top pictures || share among all), zero
    where a concept is rarer among the top ones.
    """
    rows = store.stats[site].topk_rows
    base = concepts.mean(0)
    found: list[Shared] = []
    for unit in range(len(rows)):
        own = rows[unit][rows[unit] >= 0]
        who = store[site].rows.gather(own)
        samples = np.unique(who.sample.numpy())
        local = int((~torch.isin(who.token_type, _GLOBAL)).sum())
        if len(samples) >= _ENOUGH and 2 * local > len(own):
            hits = concepts[samples].sum(0)
            bits = _bits(hits, len(samples), base)
            best = int(bits.argmax())
            name, share = concept_names()[best], float(base[best])
            found.append(Shared(unit, name, int(hits[best]), len(samples), share, float(bits[best])))
    chosen: dict[str, Shared] = {}
    for one in sorted(found, key=lambda s: (-s.bits, s.unit)):
        chosen.setdefault(one.concept, one)
    return list(chosen.values())[:number]


def _bits(hits: np.ndarray, n: int, base: np.ndarray) -> np.ndarray:
    share = hits / n
    with np.errstate(divide="ignore", invalid="ignore"):
        yes = np.where(share > 0, share * np.log2(share / base), 0)
        no = np.where(share < 1, (1 - share) * np.log2((1 - share) / (1 - base)), 0)
    return np.where(share > base, n * (yes + no), 0)
