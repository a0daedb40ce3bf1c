"""An axis of a plot: values onto pixels, and where its ticks stand."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from mmxai.report.html import number


def tick_label(value: float) -> str:
    """As people write numbers on axes: 0.05, 250, 1.5k, 2M."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{number(value / size)}{letter}"
    return number(value)


@dataclass(frozen=True)
class Axis:
    """A scale from `low` to `high`, linear or logarithmic, onto pixels from `start` to `stop`."""

    low: float
    high: float
    start: float
    stop: float
    log: bool = False
    label: Callable[[float], str] = tick_label

    def __call__(self, value: float) -> float:
        low, high = (math.log10(v) if self.log else v for v in (self.low, self.high))
        at = math.log10(max(value, self.low)) if self.log else value
        return self.start + (self.stop - self.start) * (at - low) / ((high - low) or 1)

    def ticks(self, most: int = 5) -> list[float]:
        """Round values inside the axis; of a logarithmic one 1, 2, 5 and tens, or tens, or some of these."""
        if not self.log:
            raw = ((self.high - self.low) or 1.0) / most
            power = 10.0 ** math.floor(math.log10(raw))
            step = next(s * power for s in (1, 2, 5, 10) if s * power >= raw * 0.999)
            first = math.ceil(self.low / step - 1e-9)
            return [step * i for i in range(first, math.floor(self.high / step + 1e-9) + 1)]
        exponents = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        every = [digit * 10.0**e for e in exponents for digit in (1, 2, 5)]
        fine = [v for v in every if self.low * 0.999 <= v <= self.high * 1.001]
        if len(fine) <= most + 1:
            return fine
        tens = [10.0**e for e in exponents if self.low * 0.999 <= 10.0**e <= self.high * 1.001]
        return tens[:: -(-len(tens) // (most + 1))] if len(tens) > 1 else fine[:: -(-len(fine) // (most + 1))]
