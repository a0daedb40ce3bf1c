"""Tables of numbers whose cells are tinted by their values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Cell:
    """`level` 0..1: how strong the tint, below 0 the other tint; None: an empty cell. `said`: on pointing."""

    text: str
    level: float | None
    said: str = ""


@dataclass(frozen=True)
class Heat:
    """A table; `rows`: (name, its cells)."""

    columns: Sequence[str]
    rows: Sequence[tuple[str, Sequence[Cell]]]


def confusion_heat(table: np.ndarray, names: Sequence[str]) -> Heat:
    """Rows the truth, as shares of each row."""
    totals = table.sum(1, keepdims=True)
    shares = np.divide(table, totals, out=np.zeros(table.shape), where=totals > 0)
    rows = []
    for i, truth in enumerate(names):
        cells = [
            Cell(
                f"{100 * shares[i, j]:.0f}" if table[i, j] else "",
                float(shares[i, j]),
                f"{truth}, told as {told}: {table[i, j]:,} of {int(totals[i, 0]):,}",
            )
            for j, told in enumerate(names)
        ]
        rows.append((truth, cells))
    return Heat(names, rows)


def cosine_heat(table: np.ndarray, names: Sequence[str]) -> Heat:
    """-1..1; NaN (directions of different widths) stay empty."""
    rows = []
    for i, one in enumerate(names):
        cells = [
            Cell("", None)
            if np.isnan(table[i, j])
            else Cell(
                f"{table[i, j]:.2f}".replace("-", "\N{MINUS SIGN}").replace("0.", ".", 1), float(table[i, j]),
                f"{one} and {other}: {table[i, j]:.3f}",
            )
            for j, other in enumerate(names)
        ]  # fmt: skip
        rows.append((one, cells))
    return Heat(names, rows)
