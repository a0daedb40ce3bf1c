"""Which labels units have, and how many detectors that makes: of a site, and of its controls.

A control has as many units, counted in the same way, that cannot be detectors of anything but by chance, or
by what any direction of the space tells: the labels of other pictures (shuffled: what place in the picture
alone gives), random directions of the same activations (rotated: whether units are a better basis than any
other; Bau et al. 2017, section 4.3), the same sites of the untrained model.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mmxai.methods.dissect.config import Area
from mmxai.methods.dissect.counts import Counts
from mmxai.methods.dissect.measures import unique_labels

_UNITS = 1024  # units whose IoUs with all concepts are held at once


@dataclass(frozen=True)
class Control:
    """`label` int64 `[U]` (-1: none) and `iou` float64 `[U]` of a control's units, scored as the site's own;
    `often` bool `[U]`: those above their threshold in enough cells, as a detector of the site has to be;
    `how`: what it is, in words."""

    name: str
    how: str
    label: np.ndarray
    iou: np.ndarray
    often: np.ndarray

    def detectors(self, level: float) -> int:
        """Units above that IoU, dead and rare ones aside."""
        return int(self._above(level).sum())

    def unique(self, level: float) -> int:
        """Labels that those have between them."""
        return unique_labels(self.label, self._above(level))

    def _above(self, level: float) -> np.ndarray:
        return (self.iou > level) & self.often

    def level(self, share: float = 0.99) -> float:
        """The IoU that such a share of the control's units stay at or below."""
        return float(np.quantile(self.iou, share)) if len(self.iou) else 0.0


def choose(counts: Counts, area: Area, most: int) -> np.ndarray:
    """Concepts of highest IoU of each unit, best first, of equal ones the first: int64 `[U, most]`, -1 where
    a unit's mask touches no more."""
    most = min(most, counts.concepts)
    out = np.full((counts.units, most), -1)
    for start in range(0, counts.units, _UNITS):
        own = counts.range(start, start + _UNITS).iou(area)
        best = np.argsort(-own, axis=1, kind="stable")[:, :most]
        out[start : start + _UNITS] = np.where(np.take_along_axis(own, best, 1) > 0, best, -1)
    return out


def of_pairs(counts: Counts, area: Area, candidates: np.ndarray) -> np.ndarray:
    """IoU of each unit with its candidates `[U, R]`: float64 `[U, R]`, 0 where there is none."""
    out = np.zeros(candidates.shape)
    for start in range(0, counts.units, _UNITS):
        own = counts.range(start, start + _UNITS).iou(area)
        picked = candidates[start : start + _UNITS]
        out[start : start + _UNITS] = np.where(
            picked < 0, 0.0, np.take_along_axis(own, np.maximum(picked, 0), 1)
        )
    return out


def control(name: str, how: str, chosen: Counts, scored: Counts, area: Area, min_fired: int) -> Control:
    """Labels chosen on some pictures, IoUs on others (or the same)."""
    label = choose(chosen, area, 1)
    fired = chosen.fired if scored is chosen else chosen.fired + scored.fired
    return Control(name, how, label[:, 0], of_pairs(scored, area, label)[:, 0], fired >= min_fired)
