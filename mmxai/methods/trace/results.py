"""What a trace found: an effect a cell and sample, with maps, recovered fractions and intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np

from mmxai.errors import ArgumentError
from mmxai.methods.trace.types import Cell
from mmxai.results import Result, axes, lines_of, number

if TYPE_CHECKING:
    import pandas
    from matplotlib.axes import Axes

Quantity = Literal["recovered", "effect", "value"]
QUANTITIES: tuple[Quantity, ...] = ("recovered", "effect", "value")


@dataclass(frozen=True)
class Interval:
    """A mean over samples, with the bounds of its bootstrap interval; NaN of a single sample."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        if np.isnan(self.low):
            return number(self.mean)
        return f"{number(self.mean)} [{number(self.low)}, {number(self.high)}]"


@dataclass(repr=False)
class TraceResult(Result):
    """The metric at the end of every intervention.

    value: float64 `[cells, samples]`. base `[samples]`: with nothing put in ("restore": corrupted; "patch":
    clean). other: of the run that values come from (NaN where they come from no run). prompt, draw: int
    `[samples]`, of which prompt a sample is and with which draw of the corruption. spans: their names.
    how: the path each cell took, and why not the quick one where it did not; forwards: batches that ran.
    estimated: bool `[cells]`, cells whose values were not run but estimated (`Prefiltered`); None: none.
    """

    metric: str
    mode: str
    replace: str
    tower: str
    corruption: str
    cells: list[Cell]
    spans: list[str]
    value: np.ndarray
    base: np.ndarray
    other: np.ndarray
    prompt: np.ndarray
    draw: np.ndarray
    how: dict[str, str] = field(default_factory=dict)
    forwards: int = 0
    seconds: float = 0.0
    estimated: np.ndarray | None = None

    @property
    def effect(self) -> np.ndarray:
        """What each cell changes, `[cells, samples]`."""
        return self.value - self.base

    @property
    def total(self) -> np.ndarray:
        """What there is to change: the other run less the base, `[samples]`."""
        return self.other - self.base

    def recovered(self, samples: np.ndarray | None = None) -> np.ndarray:
        """Mean effect over mean total effect, `[cells]`: 1 where a cell makes the base like the other run.

        A ratio of means: samples in which the corruption changed little do not blow it up. samples: int
        numbers, repeated ones count as often.
        """
        index = np.arange(len(self.base)) if samples is None else samples
        with np.errstate(divide="ignore", invalid="ignore"):
            return self.effect[:, index].mean(1) / self.total[index].mean()

    def quantity(self, what: Quantity = "recovered", samples: np.ndarray | None = None) -> np.ndarray:
        """`[cells]`: "recovered", or the mean "effect" or "value"."""
        if what == "recovered":
            return self.recovered(samples)
        index = np.arange(len(self.base)) if samples is None else samples
        return (self.effect if what == "effect" else self.value)[:, index].mean(1)

    def interval(
        self,
        cells: Sequence[int] | None = None,
        what: Quantity = "recovered",
        *,
        level: float = 0.95,
        draws: int = 1000,
        seed: int = 0,
    ) -> list[Interval]:
        """Bootstrap intervals of some cells (default: all): prompts are drawn with replacement, and of each
        its draws of the corruption."""
        chosen = np.arange(len(self.cells)) if cells is None else np.asarray(cells)
        some = self._part(chosen)
        if len(self.base) < 2:
            return [Interval(float(m), np.nan, np.nan) for m in some.quantity(what)]
        found = np.stack([some.quantity(what, index) for index in self.resamples(draws, seed)])
        low, high = np.nanquantile(found, [(1 - level) / 2, (1 + level) / 2], axis=0)
        means = some.quantity(what)
        return [Interval(float(m), float(a), float(b)) for m, a, b in zip(means, low, high, strict=True)]

    def resamples(self, draws: int, seed: int = 0) -> list[np.ndarray]:
        """Bootstrap samples, each int `[samples]` numbers of samples."""
        generator = np.random.default_rng(seed)
        groups = [np.flatnonzero(self.prompt == p) for p in np.unique(self.prompt)]
        found = []
        for _ in range(draws):
            picked = generator.integers(len(groups), size=len(groups))
            found.append(np.concatenate([generator.choice(groups[g], len(groups[g])) for g in picked]))
        return found

    def _part(self, cells: np.ndarray) -> TraceResult:
        return TraceResult(
            self.metric, self.mode, self.replace, self.tower, self.corruption,
            [self.cells[i] for i in cells], self.spans, self.value[cells], self.base, self.other,
            self.prompt, self.draw,
        )  # fmt: skip

    def kinds(self) -> list[str]:
        return list(dict.fromkeys(c.kind for c in self.cells))

    def index(
        self, kind: str | None = None, block: int | None = None, span: str | None = None,
        heads: tuple[int, ...] | None = None,
    ) -> list[int]:  # fmt: skip
        """Numbers of the cells of a kind, first block, span and heads (None: any)."""
        return [
            i
            for i, c in enumerate(self.cells)
            if (kind is None or c.kind == kind)
            and (block is None or c.block == block)
            and (span is None or self.spans[c.span] == span)
            and (heads is None or c.heads == heads)
        ]

    def maps(self, kind: str, what: Quantity = "recovered") -> np.ndarray:
        """`[blocks, columns]` of a kind, NaN where there is no cell. Columns are spans, or where cells are of
        single heads, heads (of one span). Rows are the windows' first blocks, from 0."""
        chosen = [i for i in self.index(kind) if self.cells[i].block is not None]
        if not chosen:
            raise ArgumentError(f"maps: got kind {kind!r}, expected one of {self.kinds()} that has blocks")
        columns = self.columns(kind)
        values = self.quantity(what)
        out = np.full((max(self.cells[i].block or 0 for i in chosen) + 1, len(columns)), np.nan)
        for i in chosen:
            out[self.cells[i].block or 0, columns.index(self._column(self.cells[i]))] = values[i]
        return out

    def columns(self, kind: str) -> list[str]:
        """What the columns of `maps(kind)` are."""
        return list(dict.fromkeys(self._column(self.cells[i]) for i in self.index(kind)))

    def _column(self, cell: Cell) -> str:
        heads = "" if cell.heads is None else "head " + ",".join(map(str, cell.heads))
        one = len({c.span for c in self.cells if c.kind == cell.kind}) == 1
        return heads if heads and one else f"{self.spans[cell.span]} {heads}".strip()

    def to_pandas(self) -> pandas.DataFrame:
        """A row a cell."""
        import pandas

        recovered, effect, value = (self.quantity(w) for w in QUANTITIES)
        rows = [
            {
                "kind": c.kind, "block": c.block, "window": c.window, "span": self.spans[c.span],
                "heads": None if c.heads is None else list(c.heads), "value": value[i],
                "effect": effect[i], "recovered": recovered[i],
                "estimated": self.estimated is not None and bool(self.estimated[i]),
            }
            for i, c in enumerate(self.cells)
        ]  # fmt: skip
        return pandas.DataFrame(rows)

    def plot(self, ax: Axes | None = None, kind: str | None = None, what: Quantity = "recovered") -> Axes:
        """Block against span, of one kind (default: the first)."""
        ax = axes(ax)
        kind = kind or self.kinds()[0]
        image = self.maps(kind, what)
        high = float(np.nanmax(np.abs(image))) or 1.0
        shown = ax.imshow(image, origin="lower", aspect="auto", cmap="RdBu_r", vmin=-high, vmax=high)
        names = self.columns(kind)
        ax.set_xticks(range(len(names)), names, rotation=90 if len(names) > 8 else 30)
        ax.set(ylabel="block", title=f"{kind}: {what}")
        ax.figure.colorbar(shown, ax=ax)
        return ax

    def summary(self) -> str:
        best = np.argsort(-np.nan_to_num(np.abs(self.quantity("effect"))))[:8]
        other = "" if np.isnan(self.other).all() else f", other {number(float(self.other.mean()))}"
        head = (
            f"{self.mode} ({self.replace}), {self.corruption}: {self.metric} "
            f"{number(float(self.base.mean()))}{other}; {len(self.cells):,} cells, "
            f"{len(self.base)} samples, {self.forwards} forwards"
        )
        rows = [
            [
                self._named(self.cells[i]),
                number(float(self.quantity("effect")[i])),
                str(interval),
            ]
            for i, interval in zip(best, self.interval([int(b) for b in best], draws=200), strict=True)
        ]  # fmt: skip
        ways = "".join(f"\n{way}: {text}" for way, text in self.how.items())
        return f"{head}\n\n" + lines_of(("largest effects", "effect", "recovered"), rows) + ways

    def _named(self, cell: Cell) -> str:
        return " ".join(p for p in (cell.kind, self._blocks(cell), self._column(cell)) if p)

    @staticmethod
    def _blocks(cell: Cell) -> str:
        if cell.block is None:
            return ""
        return str(cell.block) if cell.window == 1 else f"{cell.block}-{cell.block + cell.window - 1}"
