"""What every result of a method can do: print, become a table, a picture, a file."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from mmxai.errors import ArgumentError

if TYPE_CHECKING:
    import pandas
    from matplotlib.axes import Axes


class Result(ABC):
    """Base of results. A subclass is a dataclass and says `summary`, `to_pandas` and `plot`."""

    @abstractmethod
    def summary(self) -> str:
        """A few lines for people."""

    @abstractmethod
    def to_pandas(self) -> pandas.DataFrame: ...

    @abstractmethod
    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw on `ax`, or on new axes; needs matplotlib."""

    def to_json(self) -> dict[str, Any]:
        """All fields as plain JSON; NaN becomes null."""
        if not is_dataclass(self):
            raise TypeError(f"{type(self).__name__} is no dataclass")
        return {f.name: plain(getattr(self, f.name)) for f in fields(self)}

    def save(self, path: str | Path) -> Path:
        """Write `to_json` to the file `path` (`.json`), whole or not at all."""
        path = Path(path)
        if path.suffix != ".json":
            raise ArgumentError(f"save: got {path.name!r}, expected a file name that ends in .json")
        path.parent.mkdir(parents=True, exist_ok=True)
        staged = path.with_suffix(".json.tmp")
        staged.write_text(json.dumps(self.to_json(), indent=1, allow_nan=False) + "\n", encoding="utf-8")
        staged.replace(path)
        return path

    def __str__(self) -> str:
        return self.summary()

    __repr__ = __str__


def plain(value: Any) -> Any:
    """A value as JSON: tensors and arrays become lists, results and dataclasses objects, NaN null."""
    if isinstance(value, Result):
        return value.to_json()
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if isinstance(value, torch.Tensor):
        return plain(value.tolist())
    if isinstance(value, (np.ndarray, np.generic)):
        return plain(value.tolist())
    if isinstance(value, float):
        # Four digits more than anybody reads, a third of the bytes.
        return float(f"{value:.9g}") if np.isfinite(value) else None
    return value


def axes(ax: Axes | None) -> Axes:
    """`ax`, or new axes."""
    if ax is not None:
        return ax
    import matplotlib.pyplot as plt

    return plt.subplots()[1]


def lines_of(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A plain table: the first column to the left, the others to the right."""
    table = [list(columns), *(list(row) for row in rows)]
    wide = [max(len(row[i]) for row in table) for i in range(len(columns))]

    def line(row: Sequence[str]) -> str:
        cells = [
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, wide, strict=True))
        ]
        return "  ".join(cells).rstrip()

    return "\n".join(line(row) for row in table)


def number(value: float | None) -> str:
    """Three digits; a dash where there is none."""
    return "-" if value is None or not np.isfinite(value) else f"{value:.3g}"
