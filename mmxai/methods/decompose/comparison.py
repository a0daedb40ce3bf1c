"""One table for dictionaries of all kinds: what they reconstruct, how sparsely, and whether another seed
finds the same directions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import torch

from mmxai.errors import ArgumentError
from mmxai.linalg.overlap import matched_cosine, overlap
from mmxai.methods.decompose.stream import Blocks
from mmxai.results import Result, axes, lines_of, number

if TYPE_CHECKING:
    import pandas
    from matplotlib.axes import Axes

LEVELS = (1, 2, 4, 8, 16, 32, 64)
"""How many units of a row the curve of FVU keeps."""

MATCHED_MOST = 4096
"""Directions up to which they are matched one to one: time grows with the cube."""

_CODES = 1 << 24  # codes held at a time


class Coder(Protocol):
    """What can be compared: `Dictionary` is one, and so is an SAE of one site."""

    def encode_dense(self, x: torch.Tensor, /) -> torch.Tensor:
        """Codes float32 `[N, M]` of rows `[N, D]`."""

    def decode(self, codes: torch.Tensor, /) -> torch.Tensor:
        """Rows float32 `[N, D]` of codes `[N, M]`."""


@dataclass(frozen=True)
class Entry:
    """A dictionary in the table. directions `[M, D]`: what one unit of each code adds; `again`: those of the
    same fit from other seeds; signed: whether a direction's sign means something; note: what to know of
    it."""

    coder: Coder
    directions: torch.Tensor
    again: tuple[torch.Tensor, ...] = ()
    signed: bool = True
    note: str = ""


@dataclass(frozen=True)
class Line:
    """Figures of one dictionary, of `rows` held-out rows.

    fvu: squared error over squared distance from the mean row. l0: units other than 0 in a row, mean. hoyer:
    sparsity of a row's codes, (sqrt(M) - |h|_1 / |h|_2) / (sqrt(M) - 1): 0 where all are equal, 1 where one
    is alone (Hoyer 2004), mean over the rows with any, NaN of one unit; comparable at equal M only. dead:
    share of units that are 0 in every row. stability: mean over other seeds of the mean largest cosine of a
    direction with any of theirs; matched: the same under the best one-to-one matching; shared: share of
    directions in a mutual pair of at least 0.7; chance: stability that random directions would have. None
    without another seed.

    kept: for each n, FVU where of every row only the n units of largest contribution |code| |direction| stay.
    """

    units: int
    fvu: float
    l0: float
    hoyer: float
    dead: float
    kept: dict[int, float]
    stability: float | None = None
    matched: float | None = None
    shared: float | None = None
    chance: float | None = None
    note: str = ""


@dataclass(repr=False)
class Comparison(Result):
    """Dictionaries by name, all over the same held-out `rows` of `site`."""

    site: str
    rows: int
    lines: dict[str, Line] = field(default_factory=dict)

    COLUMNS = ("units", "fvu", "l0", "hoyer", "dead", "stability", "matched", "shared", "chance")

    def summary(self) -> str:
        table = [
            (name, f"{line.units:,}", *(number(getattr(line, c)) for c in self.COLUMNS[1:]))
            for name, line in self.lines.items()
        ]
        notes = [f"{name}: {line.note}" for name, line in self.lines.items() if line.note]
        head = f"{self.site}, {self.rows:,} held-out rows"
        return "\n".join([head, lines_of(("dictionary", *self.COLUMNS), table), *notes])

    def to_pandas(self) -> pandas.DataFrame:
        """A row a dictionary; FVU at n units as `fvu_at_<n>`."""
        import pandas

        rows = {
            name: {c: getattr(line, c) for c in self.COLUMNS}
            | {f"fvu_at_{n}": v for n, v in line.kept.items()}
            for name, line in self.lines.items()
        }
        return pandas.DataFrame.from_dict(rows, orient="index").rename_axis("dictionary")

    def plot(self, ax: Axes | None = None) -> Axes:
        """FVU against units kept a row, and where each dictionary is by itself."""
        ax = axes(ax)
        for name, line in self.lines.items():
            (drawn,) = ax.plot(list(line.kept), list(line.kept.values()), marker=".", label=name)
            ax.plot([line.l0], [line.fvu], marker="o", color=drawn.get_color())
        ax.set(xscale="log", xlabel="units kept a row", ylabel="fraction of variance unexplained")
        ax.legend()
        return ax


def compare(entries: Mapping[str, Entry], blocks: Blocks, site: str) -> Comparison:
    """Figures of every entry in one pass over held-out rows (`blocks`, float32 `[n, D]` each)."""
    if not entries:
        raise ArgumentError("compare: got no dictionaries, expected at least one")
    sums = {name: _Sums(entry) for name, entry in entries.items()}
    rows, mean, spread = 0, None, 0.0
    for x in blocks():
        wide = x.double()
        own = wide.mean(0)
        mean = torch.zeros_like(own) if mean is None else mean
        apart = own - mean
        total = rows + len(x)
        spread += float((wide - own).square().sum() + apart.square().sum() * (rows * len(x) / total))
        mean, rows = mean + apart * (len(x) / total), total
        for one in sums.values():
            one.update(x)
    if not rows:
        raise ArgumentError("compare: got no rows, expected one at least")
    return Comparison(site, rows, {name: one.line(spread) for name, one in sums.items()})


class _Sums:
    """What a pass adds up of one entry."""

    def __init__(self, entry: Entry):
        self.entry, units = entry, len(entry.directions)
        self.lengths = entry.directions.float().norm(dim=1)
        self.levels = [n for n in LEVELS if n < units]
        self.error = self.l0 = self.hoyer = 0.0
        self.kept = dict.fromkeys(self.levels, 0.0)
        self.rows = self.some = 0
        self.used = torch.zeros(units, dtype=torch.bool)

    def update(self, rows: torch.Tensor) -> None:
        units = len(self.lengths)
        for x in rows.split(max(1, _CODES // units)):
            codes = self.entry.coder.encode_dense(x).cpu()
            self.error += self._wrong(codes, x)
            size = codes.abs()
            active = size > 0
            counts = active.sum(1)
            self.used |= active.any(0)
            self.l0 += float(counts.sum())
            if units > 1:
                flat = size.sum(1) / size.norm(dim=1).clamp(min=1e-30)
                each = (units**0.5 - flat) / (units**0.5 - 1)
                self.hoyer += float(each[counts > 0].double().sum())
            self.some += int((counts > 0).sum())
            self.rows += len(x)
            for n, kept in _truncated(codes, size * self.lengths, self.levels):
                self.kept[n] += self._wrong(kept, x)

    def _wrong(self, codes: torch.Tensor, x: torch.Tensor) -> float:
        return float((self.entry.coder.decode(codes).cpu() - x).square().sum(dtype=torch.float64))

    def line(self, spread: float) -> Line:
        whole = spread or float("nan")
        return Line(
            units=len(self.lengths), fvu=self.error / whole, l0=self.l0 / self.rows,
            hoyer=self.hoyer / self.some if self.some and len(self.lengths) > 1 else float("nan"),
            dead=float((~self.used).double().mean()),
            kept={n: wrong / whole for n, wrong in self.kept.items()},
            note=self.entry.note, **_stability(self.entry),
        )  # fmt: skip


def _truncated(
    codes: torch.Tensor, weight: torch.Tensor, levels: Sequence[int]
) -> Iterator[tuple[int, torch.Tensor]]:
    """Codes with the n largest by `weight` of each row, for every n."""
    if levels:
        order = weight.topk(levels[-1], dim=1).indices
        for n in levels:
            at = order[:, :n]
            yield n, torch.zeros_like(codes).scatter_(1, at, codes.gather(1, at))


def _stability(entry: Entry) -> dict[str, Any]:
    if not entry.again:
        return {}
    found = [overlap(entry.directions, other, signed=entry.signed) for other in entry.again]
    few = max(len(entry.directions), *(len(other) for other in entry.again)) <= MATCHED_MOST
    matched = [matched_cosine(entry.directions, o, signed=entry.signed) for o in entry.again] if few else []

    def mean(values: Sequence[float]) -> float | None:
        return sum(values) / len(values) if values else None

    return {
        "stability": mean([o.mean_max for o in found]),
        "matched": mean(matched),
        "shared": mean([o.shared for o in found]),
        "chance": mean([o.chance for o in found]),
    }
