"""What a study of one prompt or picture found: maps of block x position, groups of patches, knockouts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from mmxai.errors import ArgumentError
from mmxai.results import Result, axes, lines_of, number

if TYPE_CHECKING:
    import pandas
    from matplotlib.axes import Axes

Shows = Literal["tokens", "patches", "groups", "knockouts"]

NOT_SHOWN = (
    "Tracing says where in this model, for this input, states carry what the corruption took: that they are "
    "enough to bring the answer back. It does not say that they are needed, nor what they mean.",
    "It does not choose the layer to edit: where facts are located tells next to nothing about where editing "
    "weights works best (Hase et al. 2023, arXiv:2301.04213).",
    "Another corruption asks another question, and may give another map (Zhang and Nanda 2024, "
    "arXiv:2309.16042). Later blocks can repair what was changed, so that a small effect is no proof of no "
    "part.",
)


@dataclass(frozen=True)
class Map:
    """One map: a kind of site (or attention, blocked) in windows of blocks, at columns of rows.

    value: float `[blocks, columns]`, the recovered fraction: 0 as corrupted, 1 as clean (knockouts: the share
    of the difference that is lost). low, high: bounds of its 95% bootstrap interval, NaN where there is one
    sample. estimated: bool `[blocks, columns]`, attribution patching's guess, not an intervention. places:
    of patches (tile, y, x) of the first cell of each column, which is `side` x `side` cells. random: columns
    that are random draws of as many rows, the control of column `control_of`.
    """

    title: str
    about: str
    shows: Shows
    kind: str
    window: int
    tower: str
    columns: list[str]
    value: np.ndarray
    low: np.ndarray
    high: np.ndarray
    estimated: np.ndarray
    places: list[tuple[int, int, int]] = field(default_factory=list)
    side: int = 1
    random: list[int] = field(default_factory=list)
    control_of: str = ""

    def named(self) -> list[int]:
        """The columns that are no random draws."""
        return [i for i in range(len(self.columns)) if i not in self.random]

    def peak(self) -> tuple[int, int]:
        """Block and column of the largest value among them; of the first where all are NaN."""
        own = self.named()
        flat = np.nan_to_num(self.value[:, own], nan=-np.inf)
        block, column = np.unravel_index(int(flat.argmax()), flat.shape)
        return int(block), own[int(column)]


@dataclass(frozen=True)
class Side:
    """The clean or the corrupted run: the metric, its bootstrap interval over draws (NaN of one), and where
    there are tokens the likeliest next ones with their probabilities."""

    value: float
    low: float
    high: float
    tokens: list[tuple[str, float]] = field(default_factory=list)


@dataclass(repr=False)
class Findings(Result):
    """What `mmxai trace` found, all that its page shows but the pictures.

    asked: what is asked of the model, in words. score: what is measured. corruption: what was corrupted, and
    how. samples: corrupted runs that each value is a mean over. tiles, size: of the picture, if there is
    one. facts: further figures, by name. notes: what to keep in mind of this study. seconds, forwards: what
    it took.
    """

    model: str
    asked: str
    score: str
    corruption: str
    clean: Side
    corrupted: Side
    samples: int
    maps: list[Map]
    tiles: list[dict[str, Any]] = field(default_factory=list)
    size: tuple[int, int] | None = None
    facts: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    forwards: int = 0
    seconds: float = 0.0

    @property
    def limits(self) -> Sequence[str]:
        """What tracing does not show."""
        return NOT_SHOWN

    @property
    def estimated(self) -> int:
        """How many values are estimates."""
        return sum(int(m.estimated.sum()) for m in self.maps)

    def to_pandas(self) -> pandas.DataFrame:
        """A row a cell of each map."""
        import pandas

        return pandas.DataFrame(
            [
                {
                    "map": m.title, "tower": m.tower, "kind": m.kind, "block": block, "window": m.window,
                    "column": m.columns[c], "random": c in m.random, "recovered": m.value[block, c],
                    "low": m.low[block, c], "high": m.high[block, c],
                    "estimated": bool(m.estimated[block, c]),
                }
                for m in self.maps
                for block in range(len(m.value))
                for c in range(len(m.columns))
            ]
        )  # fmt: skip

    def plot(self, ax: Axes | None = None, number: int = 0) -> Axes:
        """One of the maps: blocks upwards, columns across."""
        ax, one = axes(ax), self.maps[number]
        most = float(np.nanmax(np.abs(one.value), initial=1.0))
        image = ax.imshow(one.value, origin="lower", aspect="auto", cmap="RdBu_r", vmin=-most, vmax=most)
        ax.set_xticks(range(len(one.columns)), one.columns, rotation=90)
        ax.set(ylabel="block", title=one.title)
        ax.figure.colorbar(image, ax=ax)
        return ax

    def summary(self) -> str:
        rows = []
        for m in self.maps:
            block, column = m.peak()
            here = (block, column)
            control = float(np.nanmean(m.value[block, m.random])) if m.random else np.nan
            span = "-" if np.isnan(m.low[here]) else f"[{number(m.low[here])}, {number(m.high[here])}]"
            where = f"{m.columns[column]!r}, block {blocks_said(block, m.window)}"
            rows.append([m.title, where, number(float(m.value[here])), span, number(control)])
        heads = ("largest of each map", "where", "recovered", "95% interval", "random rows")
        said = [
            f"{self.model}: {self.asked}",
            f"{self.corruption}: {self.score} {number(self.clean.value)} clean, "
            f"{number(self.corrupted.value)} corrupted (corrupted runs: {self.samples})",
            f"{self.forwards:,} forwards in {self.seconds:.1f} s; {self.estimated:,} values are estimates",
        ]
        notes = "".join(f"\nnote: {n}" for n in self.notes)
        return "\n".join(said) + notes + "\n\n" + lines_of(heads, rows)


def load_findings(path: str | Path) -> Findings:
    """What `Findings.save` wrote. Raises ArgumentError where it is something else."""
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
        maps = [_map(m) for m in found.pop("maps")]
        found |= {name: _side(found[name]) for name in ("clean", "corrupted")}
        size = found.pop("size")
        return Findings(**found, maps=maps, size=None if size is None else tuple(size))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ArgumentError(f"{path}: got no study of tracing ({error}), expected a trace.json") from error


def blocks_said(first: int, window: int) -> str:
    """Which blocks a window has, as people write it."""
    return str(first) if window == 1 else f"{first}-{first + window - 1}"


def _side(given: dict[str, Any]) -> Side:
    values = {name: _number(given[name]) for name in ("value", "low", "high")}
    return Side(**values, tokens=[(str(t), float(p)) for t, p in given["tokens"]])


def _map(given: dict[str, Any]) -> Map:
    arrays = {n: np.array(given[n], dtype=np.float64) for n in ("value", "low", "high")}
    places = [tuple(p) for p in given["places"]]
    return Map(**{**given, **arrays, "places": places, "estimated": np.array(given["estimated"], dtype=bool)})


def _number(value: float | None) -> float:
    return float("nan") if value is None else float(value)
