"""What drives a neuron most: its top rows, back in the samples they came from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from mmxai.errors import ArgumentError
from mmxai.store.units import Units
from mmxai.types import TOKEN_CODES, TOKEN_TYPES, Rows

if TYPE_CHECKING:
    from mmxai.store.reader import Site, Store
    from mmxai.store.samples import StoredSample
    from mmxai.store.site_stats import SiteStats

_ENOUGH = 4  # a neuron with fewer different samples among its top rows shows little
_CANDIDATES = 8  # neurons looked at for each one shown


@dataclass(frozen=True)
class Token:
    """A stored token of a text: its id, how active the neuron is there (0..1), whether it is the top one."""

    token_id: int
    level: float
    top: bool


@dataclass(frozen=True)
class Example:
    """A sample high on a neuron; where they apply, the cell (y, x) of its tile and heat `[h, w]` in 0..1."""

    sample: StoredSample
    value: float
    kind: str
    position: int
    cell: tuple[int, int] | None = None
    tile: dict[str, Any] | None = None
    heat: np.ndarray | None = None
    tokens: list[Token] = field(default_factory=list)


@dataclass(frozen=True)
class Neuron:
    """One unit of a site, its statistics over all rows, and its best examples, the highest first."""

    unit: int
    mean: float
    std: float
    low: float
    high: float
    positive: float
    examples: list[Example]


def neurons_of(store: Store, name: str, units: int | Sequence[int], top: int) -> list[Neuron]:
    """The neurons `units` of site `name`, or so many chosen by `pick_units`, with `top` samples each."""
    site, stats = store[name], store.stats[name]
    chosen = pick_units(site, stats, units) if isinstance(units, int) else [int(u) for u in units]
    wrong = [u for u in chosen if not 0 <= u < site.width]
    if wrong:
        raise ArgumentError(f"{name}: got units {wrong}, expected 0 <= unit < {site.width}")
    columns = Units(store, name, heads=0)
    return [_neuron(columns, stats, unit, top) for unit in chosen]


def pick_units(site: Site, stats: SiteStats, number: int) -> list[int]:
    """Neurons that stand out: whose median top-k value lies most standard deviations above the mean.

    Those whose top rows come from at least four different samples, and are patches or words rather than
    class or special tokens, go first. The median, for a few outliers do not make a neuron worth showing.
    """
    typical = stats.topk_values.double().median(dim=1).values
    score = torch.where(stats.std > 0, (typical - stats.mean) / stats.std, -torch.inf)
    score = score.nan_to_num(nan=-torch.inf)
    order = score.argsort(descending=True, stable=True)[: _CANDIDATES * number]
    telling = {int(u): _different_samples(_top_rows(site, stats, int(u))[1]) for u in order}
    return sorted(telling, key=lambda u: telling[u] < _ENOUGH)[:number]


def _different_samples(rows: Rows) -> int:
    special = torch.tensor([TOKEN_CODES["cls"], TOKEN_CODES["special"], TOKEN_CODES["register"]])
    return len(set(rows.sample[~torch.isin(rows.token_type, special)].tolist()))


def _top_rows(site: Site, stats: SiteStats, unit: int) -> tuple[np.ndarray, Rows]:
    rows = stats.topk_rows[unit]
    rows = rows[rows >= 0]
    return rows.numpy(), site.rows.gather(rows)


def _neuron(units: Units, stats: SiteStats, unit: int, top: int) -> Neuron:
    numbers, who = _top_rows(units.site, stats, unit)
    mean, high = float(stats.mean[unit]), float(stats.max[unit])
    seen: set[int] = set()
    examples: list[Example] = []
    for k, row in enumerate(numbers.tolist()):
        sample = int(who.sample[k])
        if sample not in seen and len(examples) < top:
            seen.add(sample)
            value = float(stats.topk_values[unit, k])
            examples.append(example_at(units, unit, row, who[k : k + 1], value, between(mean, high)))
    return Neuron(
        unit,
        mean,
        float(stats.std[unit]),
        float(stats.min[unit]),
        high,
        float(stats.positive[unit]),
        examples,
    )


def between(low: float, high: float) -> Callable[[torch.Tensor], np.ndarray]:
    """0 at `low` or below (a neuron's mean), 1 at `high` (its maximum)."""
    span = max(high - low, 1e-12)
    return lambda x: ((x.double() - low) / span).clamp(0, 1).nan_to_num(0).numpy()


def example_at(
    units: Units,
    unit: int,
    row: int,
    who: Rows,
    value: float,
    scale: Callable[[torch.Tensor], np.ndarray],
) -> Example:
    """The example at logical row `row`, whose identity is `who` (one row); `scale` makes levels of values."""
    store, site = units.store, units.site
    index, image, y, x = (int(getattr(who, name)[0]) for name in ("sample", "image", "y", "x"))
    code, position = int(who.token_type[0]), int(who.position[0])
    sample, kind = store.samples[index], "pooled" if code < 0 else TOKEN_TYPES[code]
    # A sample's rows lie together, so none is further away than the most a sample can have.
    reach = store.plan.rows_per_sample[site.space]
    numbers = np.arange(max(0, row - reach + 1), min(len(site), row + reach))
    near = site.rows.gather(numbers)
    own = (near.sample == index).numpy()
    near, numbers = near[torch.from_numpy(own)], numbers[own]
    level = scale(units.of(unit, numbers))
    shown = kind == "image"  # a soft token: a piece of a picture, although it stands in a text
    if int(who.token_id[0]) >= 0 and not shown:
        tokens = [
            Token(t, float(v), n == row)
            for t, v, n in zip(near.token_id.tolist(), level, numbers.tolist(), strict=True)
            if t >= 0
        ]
        return Example(sample, value, kind, position, tokens=tokens)
    cell = (y, x) if y >= 0 and x >= 0 else None
    number = max(image, 0)
    if number >= len(sample.tiles) or (site.space.startswith("text") and not shown):
        return Example(sample, value, kind, position, cell)
    tile = sample.tile_in(site.space, number)
    return Example(sample, value, kind, position, cell, tile, _heat(near, level, image, tile["grid"]))


def _heat(near: Rows, level: np.ndarray, image: int, grid: Sequence[int]) -> np.ndarray | None:
    """The neuron over the whole grid `[h, w]`; None unless every cell of it is in the store."""
    height, width = grid
    here = ((near.y >= 0) & (near.x >= 0) & ((near.image == image) | (image < 0))).numpy()
    heat = np.full((height, width), np.nan)
    heat[near.y.numpy()[here], near.x.numpy()[here]] = level[here]
    return None if np.isnan(heat).any() else heat
