"""Above which value a unit's mask is: quantiles of its values over the cells of pictures, or a number.

A mask is what is strictly above the threshold, so that of ties at the threshold none is in it: a ReLU unit
that is 0 in most cells has threshold 0, and its mask is where it is active.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from math import ceil

import numpy as np
import torch

from mmxai.errors import ArgumentError, NonFiniteError, SelectionError
from mmxai.methods.dissect.config import DissectConfig
from mmxai.methods.dissect.passes import Cells, place_of, within
from mmxai.methods.dissect.sources import Source
from mmxai.methods.dissect.values import fired
from mmxai.store.permute import Permutation
from mmxai.store.quantiles import exact_quantiles

BLOCK_VALUES = 1 << 21
"""Values of a block, 8 MiB in float32."""

_WAITING = 1 << 23
"""Values that wait to be sorted, of all units; 32 MiB."""

Keep = Callable[[np.ndarray], np.ndarray]
"""Of logical rows int64 `[N]`, which count: bool `[N]`."""


@dataclass(frozen=True)
class Threshold:
    """float32 `[U]`, and how they came about."""

    values: torch.Tensor
    how: str


def rule_of(source: Source, config: DissectConfig) -> str:
    """The rule that "auto" means for a site."""
    if config.rule != "auto":
        return config.rule
    sparse = source.sparse or source.units.kind == "latent"
    return "quantile" if config.nonzero or not sparse else "positive"


def find(source: Source, cells: Cells, config: DissectConfig, keep: Keep | None = None) -> Threshold:
    """Thresholds of a source's units over `cells`; `keep` tells of rows whether they count (bool `[N]`)."""
    rule = rule_of(source, config)
    if rule == "quantile":
        rows = chosen_rows(source, cells, config, keep)
        shares = torch.full((source.count,), config.quantile, dtype=torch.float64)
        made, count = _nonzero(source, rows, config) if config.nonzero else _top(source, rows, shares, config)
        of = "values that are not 0" if config.nonzero else "cells"
        return Threshold(made, f"top {config.quantile:g} of {count:,} {of}{rows.told}")
    if rule == "stats":
        return _from_stats(source, cells, config, keep)
    value = config.absolute if rule == "absolute" else 0.0
    return Threshold(torch.full((source.count,), value), f"above {value:g}")


def _from_stats(source: Source, cells: Cells, config: DissectConfig, keep: Keep | None) -> Threshold:
    """The quantiles that `store.stats` tells, of all rows of a site: those of the cells only where the rows
    are the cells. SelectionError where they are not."""
    table = cells.store.rows[cells.space]
    why = None
    if source.units.heads or source.rotation is not None:
        why = "its units are norms of heads, of which the store keeps no statistics"
    elif cells.side is not None and cells.held_out:
        why = f"pictures are held out ({cells.held_out:g}), whose rows are among them"
    elif keep is not None:
        why = "cells of high norm are left out, which are among them"
    elif config.nonzero:
        why = "nonzero asks for values that are not 0"
    else:
        count = sum(int(span.inside.sum()) for span in cells.views(BLOCK_VALUES))
        if count != len(table):
            why = f"{len(table) - count:,} of its {len(table):,} rows are no cells within a picture"
    if why is not None:
        raise SelectionError(
            f"{source.name}: got rule='stats', whose quantiles are of all rows of the site, but {why}; use "
            "rule='quantile', which takes those of the cells that are counted"
        )
    stats = cells.store.stats[source.name]
    found = stats.quantile(
        1 - config.quantile, rows=config.sketch_rows, seed=config.seed, exact=config.exact
    )[source.start : source.stop]
    bad = (stats.nan + stats.posinf + stats.neginf)[source.start : source.stop]
    if bad.any():
        unit = source.start + int(bad.nonzero()[0, 0])
        raise NonFiniteError(f"{source.name}: got NaN or inf of unit {unit}, expected finite activations")
    drawn = "" if config.exact or len(table) <= config.sketch_rows else f" {config.sketch_rows:,} of"
    how = f"top {config.quantile:g} of{drawn} all {len(table):,} rows, as store.stats tells"
    return Threshold(found.contiguous(), how)


def matched(
    source: Source, like: Source, threshold: Threshold, cells: Cells, config: DissectConfig,
    keep: Keep | None = None,
) -> Threshold:  # fmt: skip
    """Thresholds above which each unit of `source` is in as many cells as the same one of `like` is above its
    own: a control whose masks were larger or smaller would say nothing."""
    rows = chosen_rows(source, cells, replace(config, exact=False), keep)
    assert rows.drawn is not None
    above = np.zeros(like.count, np.int64)
    sparse = like.sparse and bool((threshold.values >= 0).all())
    for block in rows.blocks():
        x = like.entries(block) if sparse else like.values(block)
        above += fired(x, threshold.values, np.ones(len(block), bool))
    shares = torch.from_numpy(above / len(rows.drawn))
    # Units that are above their threshold nearly everywhere have tails of nearly all values: fewer rows then.
    every = ceil(8 * source.count * (float(shares.max()) * rows.most + 4) / config.bytes)
    if every > 1:
        drawn = rows.drawn[::every]
        rows = replace(rows, drawn=drawn, most=len(drawn), told=", drawn at random")
    made, count = _top(source, rows, shares, config)
    return Threshold(made, f"as many of {count:,} cells as of the units{rows.told}")


@dataclass(frozen=True)
class _Rows:
    """Logical rows of cells in blocks: drawn ones, or (None) all of them. `most`: at most so many; `told`:
    which they are, in words."""

    cells: Cells
    keep: Keep | None
    step: int
    drawn: np.ndarray | None
    most: int
    told: str

    def blocks(self) -> Iterator[np.ndarray]:
        if self.drawn is None:
            for span in self.cells.views(self.step):
                yield _kept(span.rows[span.inside], self.keep)
            return
        for start in range(0, len(self.drawn), self.step):
            yield self.drawn[start : start + self.step]


def chosen_rows(source: Source, cells: Cells, config: DissectConfig, keep: Keep | None) -> _Rows:
    """The rows that quantiles of a source are taken of."""
    step = max(1, BLOCK_VALUES // max(source.units.site.width, source.count))
    if config.exact:
        return _Rows(cells, keep, step, None, len(cells.store.rows[cells.space]), "")
    drawn, every = _drawn(cells, config, keep)
    return _Rows(cells, keep, step, drawn, len(drawn), "" if every else ", drawn at random")


def _kept(rows: np.ndarray, keep: Keep | None) -> np.ndarray:
    return rows if keep is None else rows[keep(rows)]


def _drawn(cells: Cells, config: DissectConfig, keep: Keep | None) -> tuple[np.ndarray, bool]:
    """Ascending logical rows of `config.sketch_rows` cells drawn at random, or of all where there are no
    more; and whether they are all. Drawn once."""
    asked = config.sketch_rows, config.seed, keep
    if asked not in cells.drawn:
        cells.drawn[asked] = _draw(cells, config, keep)
    return cells.drawn[asked]


def _draw(cells: Cells, config: DissectConfig, keep: Keep | None) -> tuple[np.ndarray, bool]:
    table = cells.store.rows[cells.space]
    total, wanted = len(table), config.sketch_rows
    order, found, count, every = Permutation(total, config.seed), [], 0, True
    draw = np.random.default_rng(config.seed)
    for start in range(0, total, wanted):
        rows = np.sort(order(range(start, min(start + wanted, total))))
        who = table.gather(rows)
        cell = cells.keep(who)
        rows, who = rows[cell], who[torch.from_numpy(cell)]
        place = torch.stack([who.sample, who.image.clamp(min=0), who.y, who.x], 1).numpy()
        rows = _kept(rows[_inside(cells, place)], keep)
        found.append(rows)
        count += len(rows)
        if count >= wanted:
            every = count == wanted and start + wanted >= total
            found[-1] = draw.permutation(found[-1])[: len(found[-1]) - (count - wanted)]
            break
    if not count:
        raise SelectionError(
            f"{cells.space}: got no row that is a cell of a picture, expected some; harvest patches or maps"
        )
    return np.sort(np.concatenate(found)), every


def _inside(cells: Cells, place: np.ndarray) -> np.ndarray:
    """bool `[N]` of (sample, image, y, x): whether cells share area with their picture."""
    out = np.zeros(len(place), bool)
    if not len(place):
        return out
    views, which = np.unique(place[:, :2], axis=0, return_inverse=True)
    order = np.argsort(which, kind="stable")
    grids: dict[tuple, np.ndarray] = {}
    for (sample, image), own in zip(
        views.tolist(), np.split(order, np.cumsum(np.bincount(which))[:-1]), strict=True
    ):
        tile, size = place_of(cells.store, cells.space, sample, image)
        key = (*tile["affine"], *tile["grid"], *size)
        if key not in grids:
            grids[key] = within(tile, size)
        out[own] = grids[key][place[own, 2], place[own, 3]]
    return out


def _top(
    source: Source, rows: _Rows, shares: torch.Tensor, config: DissectConfig
) -> tuple[torch.Tensor, int]:
    """The value that each unit's top share (float64 `[U]`) of the cells is above, and the number of cells.
    From the largest values of each unit, where so many fit in memory, else by radix selection in passes."""
    held = ceil(float(shares.max()) * rows.most) + 2
    if 8 * source.count * (held + 1) > config.bytes:
        count = sum(len(block) for block in rows.blocks())
        level = 1 - shares[:1]  # there are many rows only where all units have one share
        return exact_quantiles(lambda: map(source.values, rows.blocks()), source.count, level)[0], count
    tail = Tail(source.count, held)
    for block in rows.blocks():
        if len(block):
            tail.add(source.values(block))
    found = tail.quantile(shares)
    if not torch.isfinite(found).all():
        unit = source.start + int((~torch.isfinite(found)).nonzero()[0, 0])
        raise NonFiniteError(f"{source.name}: got NaN or inf of unit {unit}, expected finite activations")
    return found, tail.count


class Tail:
    """The `most` largest values of each of U units of all that is added; NaN is larger than anything."""

    def __init__(self, units: int, most: int):
        self.most, self.count = most, 0
        # The more is put off, the less often it is sorted: a value costs (1 + most / room) comparisons or so.
        self._held = torch.empty(units, most + max(most, _WAITING // max(1, units)))
        self._fill = 0

    def add(self, x: torch.Tensor) -> None:
        """`[N, U]`."""
        self.count += len(x)
        while len(x):
            take = x[: self._held.shape[1] - self._fill]
            self._held[:, self._fill : self._fill + len(take)] = take.T
            self._fill += len(take)
            x = x[len(take) :]
            if self._fill == self._held.shape[1]:
                self._held[:, : self.most] = self._held.topk(self.most, dim=1, sorted=False).values
                self._fill = self.most

    def quantile(self, tops: torch.Tensor) -> torch.Tensor:
        """float32 `[U]`: the quantile at 1 - `tops` (float64 `[U]`) of each unit, linear between order
        statistics, which `most` must reach. Not finite where a unit had a NaN or inf, which is among its
        largest."""
        if not self.count:
            raise SelectionError("quantiles: got no cells of pictures, expected some")
        at = (1 - tops) * (self.count - 1)
        low = at.floor().to(torch.int64)
        high = (low + 1).clamp(max=self.count - 1)
        deepest = int(self.count - low.min())
        best = self._held[:, : self._fill].topk(deepest, dim=1).values.double()
        a, b = (best.gather(1, (self.count - 1 - place)[:, None])[:, 0] for place in (low, high))
        found = (a + (b - a) * (at - low)).float()
        return torch.where(torch.isfinite(best[:, 0]), found, torch.nan)


def _nonzero(source: Source, rows: _Rows, config: DissectConfig) -> tuple[torch.Tensor, int]:
    """Quantiles among each unit's values that are not 0; 0 of a unit that has none."""
    units: list[np.ndarray] = []
    values: list[np.ndarray] = []
    count = 0
    for block in rows.blocks():
        if source.sparse:
            codes = source.entries(block)
            value, index = codes.values, codes.indices
        else:
            x = source.values(block).float()
            where = x != 0
            value, index = x[where], where.nonzero()[:, 1].to(torch.int32)
        count += len(value)
        if 24 * count > config.bytes:
            raise ArgumentError(
                f"{source.name}: got {count:,} values that are not 0, which take more than memory="
                f"{config.memory} GiB to order, expected fewer; use a sketch of fewer rows, or more memory"
            )
        units.append(index.numpy())
        values.append(value.numpy())
    unit, every = np.concatenate(units), np.concatenate(values)
    order = np.lexsort((every, unit))
    ordered, number = every[order].astype(np.float64), np.bincount(unit, minlength=source.count)
    first = np.cumsum(number) - number
    at = (1 - config.quantile) * np.maximum(number - 1, 0)
    low = at.astype(np.int64)
    some = number > 0
    out = np.zeros(source.count)
    a = ordered[(first + low)[some]]
    b = ordered[(first + np.minimum(low + 1, number - 1))[some]]
    out[some] = a + (b - a) * (at - low)[some]
    return torch.from_numpy(out.astype(np.float32)), count


def norm_filter(source: Source, cells: Cells, config: DissectConfig) -> tuple[Keep, float, float]:
    """Of logical rows, whether their norm at `source` is at most `config.high_norm` times the median over
    cells drawn at random; that norm; and the share of those cells that are above it."""
    assert config.high_norm is not None
    drawn, _ = _drawn(cells, config, None)
    step = max(1, BLOCK_VALUES // source.units.site.width)
    norms = torch.cat([source.norms(drawn[i : i + step]) for i in range(0, len(drawn), step)])
    most = config.high_norm * float(norms.median())

    def keep(rows: np.ndarray) -> np.ndarray:
        found: np.ndarray = (source.norms(rows) <= most).numpy()
        return found

    return keep, most, float((norms > most).double().mean())


def given(values: Sequence[float] | torch.Tensor, source: Source) -> Threshold:
    """Thresholds that were found elsewhere, of all units of a site."""
    made = torch.as_tensor(values, dtype=torch.float32).cpu()
    if made.shape != (source.units.count,) or torch.isnan(made).any():
        raise ArgumentError(
            f"thresholds of {source.name}: got {tuple(made.shape)}"
            f"{' with NaN' if torch.isnan(made).any() else ''}, expected a number for each of its "
            f"{source.units.count} units"
        )
    return Threshold(made[source.start : source.stop].contiguous(), "as given")
