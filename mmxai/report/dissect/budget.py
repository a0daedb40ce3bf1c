"""How many pictures a unit, and how large, so that a site stays within its bytes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from mmxai.report.dissect.exemplars import Exemplars
from mmxai.report.dissect.sprites import PER_SHEET, Images, Sheets, estimate, sheets_of

LIMIT = 200e6 / 32_768
"""Bytes a unit."""

LEAST = 8e6
"""Bytes that a site of few units may take all the same."""

_PLANS = (
    (16, 192), (16, 160), (16, 128), (16, 112), (12, 112), (12, 96), (10, 96), (8, 96), (8, 80), (6, 80),
    (6, 64), (4, 64), (4, 48),
)  # fmt: skip
"""Exemplars a unit, and the longest side of a picture: a multiple of 16, WebP's blocks, or neighbours mix."""

_TOLD = 230  # bytes of what is said of a picture
_MARGIN = 0.97  # what estimates may be off by


@dataclass(frozen=True)
class Plan:
    """`shown` exemplars a unit at most; `samples`: the pictures that makes, in the order of units, so that
    those of one unit lie on few sheets."""

    shown: int
    sheets: Sheets
    samples: list[int]


def plan(
    held: Sequence[Exemplars],
    sizes: Callable[[int], tuple[int, int]],
    images: Images | None,
    used: Callable[[int], int],
    limit: float,
) -> Plan:
    """The first of `_PLANS` that fits, the richest first; else the last. `sizes`: sample -> (W, H); `used`:
    bytes of all other files where so many exemplars are shown."""
    held_most = max((one.sample.shape[1] for one in held), default=0)
    cached: dict[int, list[int]] = {}
    for shown, side in _PLANS:
        shown = min(shown, held_most)
        if shown not in cached:
            cached[shown] = distinct(held, shown)
        samples = cached[shown]
        sheets = sheets_of((sizes(s) for s in samples), side)
        if images is None or not samples:
            return Plan(shown, sheets, samples)
        # A sheet is encoded whole or not at all, and each is a file.
        each = estimate(images, samples, sheets) + _TOLD + 40 / PER_SHEET
        if used(shown) + len(samples) * each <= _MARGIN * limit:
            break
    return Plan(shown, sheets, samples)


def distinct(held: Sequence[Exemplars], shown: int) -> list[int]:
    """Samples among the first `shown` of each unit, as they first come."""
    if not held or not shown:
        return []
    every = np.concatenate([one.sample[:, :shown].ravel() for one in held])
    numbers, first = np.unique(every, return_index=True)
    order = numbers[np.argsort(first, kind="stable")]
    return [int(s) for s in order if s >= 0]
