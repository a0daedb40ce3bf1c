"""Units of two models, or of two towers of one, that answer to the same samples: matching by correlation."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from mmxai.errors import RowSpaceError
from mmxai.linalg.correlation import CrossMoments
from mmxai.results import Result, axes, lines_of
from mmxai.store.units import RowBlocks, Units, blocks

if TYPE_CHECKING:
    import pandas
    from matplotlib.axes import Axes

By = Literal["row", "max", "mean"]

_SHOWN = 20


@dataclass(repr=False)
class Matches(Result):
    """`correlation` float32 `[A, B]` over `count` rows or samples. null_a float32 `[A]`, null_b `[B]`: the
    largest |r| of each unit where the other side's rows are paired with those of the next samples: what so
    many candidates reach without any tie between them.
    """

    a: str
    b: str
    by: str
    count: int
    correlation: np.ndarray
    null_a: np.ndarray
    null_b: np.ndarray

    def best(self) -> tuple[np.ndarray, np.ndarray]:
        """Of each unit of a its nearest of b by |r|, int64 `[A]`, and the signed r, float32 `[A]`."""
        index = np.abs(self.correlation).argmax(1)
        return index, self.correlation[np.arange(len(index)), index]

    def mutual(self) -> list[tuple[int, int, float]]:
        """Pairs that are each other's nearest, the closest first: (unit of a, unit of b, r)."""
        to_b, r = self.best()
        to_a = np.abs(self.correlation).argmax(0)
        pairs = [(i, int(j), float(r[i])) for i, j in enumerate(to_b) if to_a[j] == i]
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
        """Matches, without the matrix."""
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
    b_tokens: str | None = "same",
) -> Matches:  # fmt: skip
    """Correlate every unit of `a` with every unit of `b`, which may be of another store of the same samples.

    by: "row" needs rows that correspond (the same tokens of the same samples: RowSpaceError where they do
    not); "max" and "mean" pool a sample's rows, which serves across towers and grids. `tokens` filters a's
    rows, `b_tokens` b's ("same": as a's; None: all). Samples are paired by their number in the data set;
    those of one store alone are left out. Some 40 bytes a pair of units are held.
    """
    theirs = tokens if b_tokens == "same" else b_tokens
    if by not in ("row", "max", "mean"):
        raise RowSpaceError(f"match: got by={by!r}, expected row, max or mean")
    found, null = CrossMoments(a.count, b.count), CrossMoments(a.count, b.count)
    for x, y in _paired(a, b, by, (tokens, theirs), split):
        found.update(x, y)
        null.update(x, y.roll(max(1, len(y) // 2), 0))
    if not found.count:
        raise RowSpaceError(f"match: got no sample that {a.name} and {b.name} share, expected some")
    chance = null.correlation().abs().numpy()
    return Matches(
        a.name, b.name, by, found.count, found.correlation().numpy(), chance.max(1), chance.max(0)
    )  # fmt: skip


def _paired(
    a: Units, b: Units, by: By, tokens: tuple[str | None, str | None], split: str | None
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    theirs = _samples(b)
    for block in blocks(a, RowBlocks(a.store, a.site.space, tokens[0], split)):
        sample = block.who.sample.numpy()
        keep = np.isin(sample, theirs[0])
        if not keep.any():
            continue
        mine, own = block.values[torch.from_numpy(keep)], sample[keep]
        order = list(dict.fromkeys(own.tolist()))
        rows, who = _rows_of(b, theirs, order, tokens[1])
        values = b.values(rows)
        if by == "row":
            _same(a, b, block.who[torch.from_numpy(keep)].table, who.table)
            yield mine, values
        else:
            yield _pooled(mine, own, order, by), _pooled(values, who.sample.numpy(), order, by)


def _samples(units: Units) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Samples with rows, ascending, and the first row and number of rows of each."""
    sample = units.site.rows.sample.numpy()
    starts = np.flatnonzero(np.diff(sample, prepend=-2))
    counts = np.diff(np.append(starts, len(sample)))
    order = np.argsort(sample[starts], kind="stable")
    return sample[starts][order], starts[order], counts[order]


def _rows_of(units: Units, held: tuple, samples: list[int], tokens: str | None) -> tuple[np.ndarray, Any]:
    from mmxai.store.select import RowFilter

    at = np.searchsorted(held[0], samples)
    rows = np.concatenate([np.arange(s, s + n) for s, n in zip(held[1][at], held[2][at], strict=True)])
    who = units.site.rows.gather(rows)
    chosen = RowFilter.parse(tokens, None, (0.8, 0.1, 0.1))
    if not chosen.everything:
        keep = chosen.keep(who.table.numpy())
        rows, who = rows[keep], who[torch.from_numpy(keep)]
    return rows, who


def _same(a: Units, b: Units, one: torch.Tensor, two: torch.Tensor) -> None:
    # Sample, position and token id: two towers' grids differ in where a row is, two tokenisers in what it is.
    columns = [0, 1, 5]
    if one.shape != two.shape or not torch.equal(one[:, columns], two[:, columns]):
        raise RowSpaceError(
            f"match: got rows of {a.name} and {b.name} that do not correspond, expected the same "
            "tokens of the same samples; by='max' or by='mean' pools a sample's rows"
        )


def _pooled(x: torch.Tensor, sample: np.ndarray, order: list[int], by: By) -> torch.Tensor:
    starts = np.flatnonzero(np.diff(sample, prepend=-2))
    if sample[starts].tolist() != order:
        raise RowSpaceError(
            "match: got samples without a row on one side, expected rows of each; choose other tokens"
        )
    reduce = np.maximum.reduceat if by == "max" else np.add.reduceat
    pooled = torch.from_numpy(reduce(x.numpy(), starts, axis=0))
    counts = torch.from_numpy(np.diff(np.append(starts, len(sample))))
    return pooled if by == "max" else pooled / counts[:, None]
