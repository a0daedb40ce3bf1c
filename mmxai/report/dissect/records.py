"""What a page shows of each unit, as data: labels and figures, and where its pictures are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mmxai.report.dissect.data import compact
from mmxai.report.dissect.exemplars import Exemplars

if TYPE_CHECKING:
    from mmxai.methods.dissect.results import Dissection

CHUNK = 32
"""Units of a file."""

PLAIN, DETECTOR, RARE, DEAD = range(4)
"""How a unit is listed."""

_MEASURES = ("precision", "recall", "f1", "correlation")


def states(found: Dissection) -> np.ndarray:
    """int64 `[U]`: of each unit PLAIN, DETECTOR, RARE or DEAD."""
    out = np.where(found.detectors(), DETECTOR, PLAIN)
    out[found.rare], out[found.dead] = RARE, DEAD
    return out


def columns(found: Dissection) -> dict[str, list[int]]:
    """What the index of units needs: label, IoU in thousandths, state."""
    return {
        "label": found.label.tolist(),
        "iou": np.rint(1000 * found.best).astype(np.int64).tolist(),
        "state": states(found).tolist(),
    }


@dataclass(frozen=True)
class Records:
    """`number`: sample -> its picture's number in the site; `shown`: exemplars of each unit."""

    found: Dissection
    exemplars: Exemplars
    number: Mapping[int, int]
    shown: int

    def chunks(self) -> Iterator[list[dict[str, Any]]]:
        """Of `CHUNK` units each. `c`: candidates (concept, IoU, low, high, ceiling); `t`: threshold; `n`:
        cells above it; `m`: precision, recall, F1, correlation with the label; `p`: exemplars (picture,
        value, tile, outline). Where they were asked for, `a`: AUPRC of the label and its bound; `f`: a
        logical form in words, its IoU, that of a single concept, and on how many pictures."""
        found = self.found
        table = found.to_pandas()
        measures = table[list(_MEASURES)].to_numpy(np.float64)
        for start in range(0, found.units, CHUNK):
            stop = min(start + CHUNK, found.units)
            yield [self._record(unit, measures[unit]) for unit in range(start, stop)]

    def _record(self, unit: int, measures: np.ndarray) -> dict[str, Any]:
        found = self.found
        candidates = [
            [int(k), *(compact(v, 3) for v in (iou, low, high, found.ceiling[k]))]
            for k, iou, low, high in zip(
                found.candidates[unit], found.iou[unit], found.low[unit], found.high[unit], strict=True
            )
            if k >= 0
        ]
        made: dict[str, Any] = {
            "c": candidates, "t": compact(float(found.threshold[unit])), "n": int(found.fired[unit]),
            "m": [compact(v, 3) for v in measures] if candidates else [], "p": list(self._places(unit)),
        }  # fmt: skip
        if candidates and found.auprc is not None and found.auprc_bound is not None:
            made["a"] = [compact(found.auprc[unit, 0], 3), compact(found.auprc_bound[unit, 0], 2)]
        if found.forms is not None and (said := found.forms.text(unit, found.concepts)):
            values = (compact(v[unit], 3) for v in (found.forms.iou, found.forms.single))
            made["f"] = [said, *values, found.forms.pictures]
        return made

    def _places(self, unit: int) -> Iterator[list[Any]]:
        held = self.exemplars
        for at in range(min(self.shown, held.sample.shape[1])):
            sample = int(held.sample[unit, at])
            if sample in self.number:
                value = compact(float(self.found.top_values[unit, at]), 3)
                yield [self.number[sample], value, int(held.tile[unit, at]), held.path[unit, at]]
