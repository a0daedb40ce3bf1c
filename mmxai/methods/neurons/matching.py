"""Units of two models, or of two towers of one, that answer to the same samples: matching by correlation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from mmxai.errors import ArgumentError, RowSpaceError
from mmxai.linalg.correlation import PAIR_BYTES, sparse_correlation, standardised
from mmxai.results import Result, axes, lines_of
from mmxai.store.permute import Permutation
from mmxai.store.units import BLOCK_VALUES, RowBlocks, Units

if TYPE_CHECKING:
    import pandas
    from matplotlib.axes import Axes

By = Literal["row", "max", "mean"]

_SHOWN = 20
_PRODUCTS, _FEWEST = 1 << 40, 4096  # a minute's work or so; rows or samples that a correlation has at least
_ENTRY_BYTES = 36  # of a sparse row's entry: value and column, and copies by unit
_TABLE_ROWS = 1 << 16  # of row tables at a time


@dataclass(repr=False)
class Matches(Result):
    """nearest int64 `[A, n]` and correlation float32 `[A, n]`: of each unit of a those of b, the largest |r|
    first, over `count` rows or samples; back int64 `[B]`: of each unit of b its nearest of a.

    null_a float32 `[A]`, null_b `[B]`: the largest |r| of each unit where the other side's rows are paired
    with those of other samples: what so many candidates reach without any tie between them.
    """

    a: str
    b: str
    by: str
    count: int
    nearest: np.ndarray
    correlation: np.ndarray
    back: np.ndarray
    null_a: np.ndarray
    null_b: np.ndarray

    def best(self) -> tuple[np.ndarray, np.ndarray]:
        """Of each unit of a its nearest of b by |r|, int64 `[A]`, and the signed r, float32 `[A]`."""
        return self.nearest[:, 0], self.correlation[:, 0]

    def mutual(self) -> list[tuple[int, int, float]]:
        """Pairs that are each other's nearest, the closest first: (unit of a, unit of b, r)."""
        to_b, r = self.best()
        pairs = [(i, int(j), float(r[i])) for i, j in enumerate(to_b) if self.back[j] == i]
        return sorted(pairs, key=lambda p: -abs(p[2]))

    def to_pandas(self) -> pandas.DataFrame:
        """A row a unit of a."""
        import pandas

        index, r = self.best()
        mutual = {i for i, _, _ in self.mutual()}
        return pandas.DataFrame(
            {"match": index, "r": r, "mutual": [i in mutual for i in range(len(r))], "null": self.null_a},
            index=pandas.RangeIndex(len(r), name=self.a),
        )

    def plot(self, ax: Axes | None = None) -> Axes:
        """Largest |r| of each unit of a, sorted, beside the null's."""
        ax = axes(ax)
        ax.plot(np.sort(np.abs(self.best()[1]))[::-1], label="matched")
        ax.plot(np.sort(self.null_a)[::-1], label="other samples")
        ax.set(xlabel=f"units of {self.a}", ylabel="largest |r|")
        ax.legend()
        return ax

    def to_json(self) -> dict[str, Any]:
        """Of each unit its nearest, and mutual matches."""
        index, r = self.best()
        found = {"a": self.a, "b": self.b, "by": self.by, "count": self.count, "match": index.tolist()}
        return found | {"r": [round(float(v), 5) for v in r], "mutual": self.mutual()}

    def summary(self) -> str:
        _, r = self.best()
        mutual, null = self.mutual(), float(np.median(self.null_a))
        table = [(str(i), str(j), f"{v:.3f}") for i, j, v in mutual[:_SHOWN]]
        return (
            f"{self.a} to {self.b} by {self.by}, {self.count:,} {'rows' if self.by == 'row' else 'samples'}: "
            f"median largest |r| {np.median(np.abs(r)):.3f} (other samples: {null:.3f}), {len(mutual):,} "
            f"mutual matches\n\n" + lines_of((self.a, self.b, "r"), table)
        )


def match(
    a: Units, b: Units, by: By = "row", tokens: str | None = None, split: str | None = None,
    b_tokens: str | None = "same", near: int = 8, memory: int = 1 << 30, seed: int = 0,
) -> Matches:  # fmt: skip
    """Correlate every unit of `a` with every unit of `b`, which may be of another store of the same samples.

    by: "row" needs rows that correspond (the same tokens of the same samples: RowSpaceError where they do
    not); "max" and "mean" pool a sample's rows, which serves across towers and grids. `tokens` filters a's
    rows, `b_tokens` b's ("same": as a's; None: all). Samples are paired by their number in the data set;
    those of one store alone are left out.

    memory: bytes, half for values of both sides, half for correlations of as many units as it holds at once.
    Where there are more samples than that holds, or than some 2^40 products allow, they are drawn. near:
    how many of b are kept of each unit of a.
    """
    if by not in ("row", "max", "mean"):
        raise RowSpaceError(f"match: got by={by!r}, expected row, max or mean")
    sides = _Side(a, tokens, split), _Side(b, tokens if b_tokens == "same" else b_tokens, split)
    x, y = _values(sides, by, memory // 2, seed)
    count = x.shape[0]
    other = np.roll(np.arange(count), count // 2)
    each = max(1, memory // 2 // (PAIR_BYTES * b.count))
    near = min(near, b.count)
    # Made before the loop: small things kept between large ones would keep the heap from shrinking.
    nearest, found = torch.empty(a.count, near, dtype=torch.int64), torch.empty(a.count, near)
    null_a, null_b, most = torch.empty(a.count), torch.zeros(b.count), torch.zeros(b.count)
    back = torch.zeros(b.count, dtype=torch.int64)
    for first in range(0, a.count, each):
        own = slice(first, first + each)
        group = x[:, own]
        r = _correlation(group, y)
        size = r.abs()
        nearest[own] = size.topk(near, dim=1).indices
        found[own] = r.gather(1, nearest[own])
        best, which = size.max(0)
        back[best > most] = which[best > most] + first
        torch.maximum(most, best, out=most)
        del r, size
        chance = _correlation(group[other], y).abs_()
        null_a[own] = chance.amax(1)
        torch.maximum(null_b, chance.amax(0), out=null_b)
        del chance
    return Matches(
        a.name, b.name, by, count, nearest.numpy(), found.numpy(), back.numpy(), null_a.numpy(),
        null_b.numpy(),
    )  # fmt: skip


class _Side:
    """The rows of one side that are looked at, by sample: `samples` int64 ascending, `counts` of each."""

    def __init__(self, units: Units, tokens: str | None, split: str | None):
        self.units = units
        blocks = list(RowBlocks(units.store, units.site.space, tokens, split)(_TABLE_ROWS))
        numbers = np.concatenate([rows for rows, _ in blocks])
        sample = np.concatenate([who.sample.numpy() for _, who in blocks])
        order = np.argsort(sample, kind="stable")
        self._numbers = numbers[order]
        self.samples, self._starts, self.counts = np.unique(
            sample[order], return_index=True, return_counts=True
        )

    def rows(self, samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Logical rows of these samples, one sample after another, and how many are of each."""
        at = np.searchsorted(self.samples, samples)
        own = zip(self._starts[at], self.counts[at], strict=True)
        return np.concatenate([self._numbers[s : s + n] for s, n in own]), self.counts[at]


def _values(sides: tuple[_Side, _Side], by: By, room: int, seed: int) -> tuple[Any, Any]:
    """Values of both, item by item, in `room` bytes: float32 `[N, units]` standardised, or sparse."""
    a, b = (side.units for side in sides)
    samples = np.intersect1d(sides[0].samples, sides[1].samples)
    if len(samples) < 2:
        raise RowSpaceError(
            f"match: got {len(samples)} samples that {a.name} and {b.name} share, expected two at least"
        )
    # Dense: values, and a copy of a group's. Sparse: entries by row and by unit, as slow as 32 products.
    cost, work = 4 * (2 * a.count + b.count), a.count * b.count
    sparse = by == "row" and a.entries is not None and b.entries is not None
    if sparse and a.entries is not None and b.entries is not None:
        cost, work = _ENTRY_BYTES * (a.entries + b.entries), 32 * a.entries * b.entries
    most = min(room // cost, max(_FEWEST, _PRODUCTS // work))
    if by == "row":
        most = int(most // sides[0].counts.mean())
    if most < 2:
        raise ArgumentError(
            f"match: got memory={2 * room:,} bytes, expected room for two samples at least of {a} and {b}"
        )
    if len(samples) > most:
        samples = np.sort(samples[Permutation(len(samples), seed)(np.arange(most))])
    if by != "row":
        return standardised(_pooled(sides[0], samples, by)), standardised(_pooled(sides[1], samples, by))
    one, two = (side.rows(samples)[0] for side in sides)
    _same(a, b, one, two)
    if sparse:
        return a.sparse(one).tocsc(), b.sparse(two)
    return standardised(_read(a, one)), standardised(_read(b, two))


def _correlation(x: Any, y: Any) -> torch.Tensor:
    return x.T @ y if isinstance(x, torch.Tensor) else sparse_correlation(x, y)


def _read(units: Units, rows: np.ndarray) -> torch.Tensor:
    """float32 `[N, units]`, block by block: of heads the columns take more than the norms."""
    found = torch.empty(len(rows), units.count)
    step = max(1, BLOCK_VALUES // units.site.width)
    for start in range(0, len(rows), step):
        found[start : start + step] = units.values(rows[start : start + step])
    return found


def _pooled(side: _Side, samples: np.ndarray, by: By) -> torch.Tensor:
    """float32 `[samples, units]`: each sample's largest or mean values over its rows."""
    units, reduce = side.units, np.maximum.reduceat if by == "max" else np.add.reduceat
    found = torch.empty(len(samples), units.count)
    step = max(1, BLOCK_VALUES // int(units.site.width * side.counts.max()))
    for start in range(0, len(samples), step):
        rows, counts = side.rows(samples[start : start + step])
        starts = np.cumsum(counts) - counts
        pooled = torch.from_numpy(reduce(units.values(rows).numpy(), starts, axis=0))
        found[start : start + step] = pooled if by == "max" else pooled / torch.from_numpy(counts)[:, None]
    return found


def _same(a: Units, b: Units, one: np.ndarray, two: np.ndarray) -> None:
    # Sample, position and token id: two towers' grids differ in where a row is, two tokenisers in what it is.
    columns = [0, 1, 5]
    for start in range(0, max(len(one), len(two)), _TABLE_ROWS):
        x, y = (
            units.site.rows.gather(rows[start : start + _TABLE_ROWS]).table[:, columns]
            for units, rows in ((a, one), (b, two))
        )
        if x.shape != y.shape or not torch.equal(x, y):
            raise RowSpaceError(
                f"match: got rows of {a.name} and {b.name} that do not correspond, expected the same tokens "
                "of the same samples; by='max' or by='mean' pools a sample's rows"
            )
