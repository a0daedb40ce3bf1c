"""Examples of units for pages: rows of a store as cards, each sample once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from mmxai.report.cards import Decode, card
from mmxai.report.examples import example_at
from mmxai.report.units.pictures import PictureFiles
from mmxai.store.units import Units

if TYPE_CHECKING:
    from mmxai.report.examples import Example

Scale = Callable[[torch.Tensor], np.ndarray]

AROUND = (24, 10)  # tokens shown before and after the one where the unit is highest
_THUMBS = 3


@dataclass
class Examples:
    """What all pages of one site's units share. `up`: how a unit's page addresses the folder's root."""

    units: Units
    files: PictureFiles
    decode: Decode | None
    up: str = "../"

    def cards(
        self, unit: int, rows: Sequence[int], values: Sequence[float], most: int, scale: Scale
    ) -> list[dict[str, Any]]:
        """The first `most` of logical `rows` that are of different samples, with the unit's `values` there;
        `scale` makes levels of 0..1 for heat maps."""
        numbers = np.asarray(rows, np.int64)
        who = self.units.site.rows.gather(numbers)
        found: dict[int, Example] = {}
        for k, (row, value) in enumerate(zip(numbers.tolist(), values, strict=True)):
            sample = int(who.sample[k])
            if sample not in found and len(found) < most:
                found[sample] = example_at(self.units, unit, row, who[k : k + 1], float(value), scale)
        return [card(e, self.files.address(e.sample, self.up), self.decode, AROUND) for e in found.values()]

    def thumbs(self, rows: np.ndarray) -> list[str]:
        """Addresses of small pictures of the first samples among logical `rows`."""
        who = self.units.site.rows.gather(rows)
        samples = list(dict.fromkeys(who.sample.tolist()))[:_THUMBS]
        found = [self.files.address(self.units.store.samples[s], self.up) for s in samples]
        return [address for address in found if address is not None]
