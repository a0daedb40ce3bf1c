"""Statistics of a site over a whole snapshot, from the partial statistics of its parts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from mmxai.errors import ArgumentError, StoreError
from mmxai.stats import PART_SHIFT, Merger
from mmxai.store.permute import Permutation
from mmxai.store.quantiles import exact_quantiles, sample_quantiles
from mmxai.store.table import Matrix
from mmxai.store.view import View

QUANTILE_ROWS = 65_536
_SORT_VALUES = 1 << 24
_BLOCK_VALUES = 1 << 22


class SiteStats:
    """Per neuron, over all rows of the site. NaN and infinities are counted and else left out.

    `count` rows; `finite nan posinf neginf` int64 `[D]`; `mean var std` float64 `[D]` (var over the finite
    values, divisor n); `min max` float32 `[D]`; `positive` float64 `[D]`, the fraction of finite values above
    0; `topk_values` float32 `[D, k]`, descending, and `topk_rows` int64 `[D, k]`, logical rows (-1 where a
    neuron has fewer than k finite values). `bottom_values` ascending, and `bottom_rows`, likewise of the
    smallest; `topk_samples`, `bottom_samples` int64 `[D, k]`, data set indices, where every sample has one
    entry at most: None where the harvest was not asked for them (`bottom`, `exemplars="sample"`).
    """

    def __init__(self, view: View, site: str, state: Mapping[str, np.ndarray]):
        self._view, self.site = view, site
        held = {name: torch.from_numpy(np.array(value)) for name, value in state.items()}
        self.count = int(held["count"])
        self.nan, self.posinf, self.neginf = held["nan"], held["posinf"], held["neginf"]
        self.finite = self.count - self.nan - self.posinf - self.neginf
        some = self.finite.clamp(min=1).to(torch.float64)
        none = self.finite == 0
        self.mean = torch.where(none, torch.nan, held["mean"])
        self.var = torch.where(none, torch.nan, held["m2"] / some)
        self.min, self.max = held["min"], held["max"]
        self.positive = torch.where(none, torch.nan, held["positive"] / some)
        self.topk_values = held["topk_values"]
        self.topk_rows = torch.from_numpy(self._logical(np.asarray(state["topk_rows"])))
        self.topk_samples = held.get("topk_samples")
        self.bottom_values = held.get("bottom_values")
        self.bottom_samples = held.get("bottom_samples")
        self.bottom_rows: torch.Tensor | None = None
        if "bottom_rows" in state:
            self.bottom_rows = torch.from_numpy(self._logical(np.asarray(state["bottom_rows"])))

    @property
    def std(self) -> torch.Tensor:
        return self.var.sqrt()

    def _logical(self, ids: np.ndarray) -> np.ndarray:
        table = self._view.site_table(self.site)
        if ids.size == 0 or len(table.parts) == 0:
            return np.full(ids.shape, -1, np.int64)
        index = np.searchsorted(table.parts, ids >> PART_SHIFT).clip(max=len(table.parts) - 1)
        rows = table.starts[index] + (ids & ((1 << PART_SHIFT) - 1))
        return np.where(ids < 0, -1, rows)

    def quantile(
        self, q: float | Sequence[float], *, rows: int = QUANTILE_ROWS, seed: int = 0, exact: bool = False
    ) -> torch.Tensor:
        """Quantiles of the finite values of every neuron: float32 `[D]`, or `[len(q), D]` for several.

        From `rows` rows drawn without replacement by a keyed hash and read from the store, so the same
        snapshot gives the same answer; all rows, and then exact (linear between order statistics), where
        the site has no more. By the Dvoretzky-Kiefer-Wolfowitz inequality with Massart's constant (1990)
        the level of the value returned is, for one neuron, within e of q with probability at least
        1 - 2 exp(-2 rows e^2): within 0.0064 at 99% for the default of 65,536 rows. `exact=True` reads the
        whole site in place of a sample, twice (four times in float32), in memory that does not grow with it.
        Of an int8 or topk site both are of what was kept (of topk, with its zeros), where the other
        statistics are of what was seen.
        """
        several = not isinstance(q, (int, float))
        levels = torch.tensor(list(q) if not isinstance(q, (int, float)) else [q], dtype=torch.float64)
        if not ((levels >= 0) & (levels <= 1)).all() or rows < 1:
            raise ArgumentError(f"quantile: got q={q}, rows={rows}, expected 0 <= q <= 1 and rows >= 1")
        table = self._view.site_table(self.site)
        n = table.num_rows
        if exact:
            out = exact_quantiles(lambda: self._blocks(table), table.width, levels)
            return out if several else out[0]
        chosen = np.sort(Permutation(n, seed)(range(rows))) if n > rows else np.arange(n)
        values = self._view.gather(table, chosen)
        out = torch.full((len(levels), table.width), torch.nan)
        step = max(1, _SORT_VALUES // max(1, len(chosen)))
        for start in range(0, table.width if len(chosen) else 0, step):
            out[:, start : start + step] = sample_quantiles(
                values[:, start : start + step].to(torch.float32), levels
            )
        return out if several else out[0]

    def _blocks(self, table: Matrix) -> Iterator[torch.Tensor]:
        step = max(1, _BLOCK_VALUES // table.width)
        for start in range(0, table.num_rows, step):
            yield self._view.gather(table, np.arange(start, min(start + step, table.num_rows)))

    def to_pandas(self) -> Any:
        """A row a neuron, without the top-k."""
        import pandas

        names = ("mean", "std", "min", "max", "positive", "finite", "nan", "posinf", "neginf")
        frame = pandas.DataFrame({name: getattr(self, name).numpy() for name in names})
        frame.index.name = "neuron"
        return frame

    def __repr__(self) -> str:
        bad = int((self.nan + self.posinf + self.neginf).sum())
        return (
            f"SiteStats({self.site!r}, {len(self.mean)} neurons over {self.count:,} rows, "
            f"top {self.topk_rows.shape[1]}" + (f", {bad:,} values not finite)" if bad else ")")
        )


class StatsTable(Mapping[str, SiteStats]):
    """`store.stats[site]`; partial statistics are read and merged at first use, for all sites at once."""

    def __init__(self, view: Callable[[], View]):
        self._view = view
        self._merged: tuple[View, dict[str, SiteStats]] | None = None

    def _all(self) -> dict[str, SiteStats]:
        view = self._view()
        if self._merged is None or self._merged[0] is not view:
            self._merged = view, _merge(view)
        return self._merged[1]

    def __getitem__(self, site: str) -> SiteStats:
        stats = self._all()
        if site in stats:
            return stats[site]
        if site not in {s.name for s in self._view().plan.sites}:
            raise KeyError(site)
        raise StoreError(f"{site}: the store was written without statistics")

    def __iter__(self) -> Iterator[str]:
        return iter(self._all())

    def __len__(self) -> int:
        return len(self._all())


def _merge(view: View) -> dict[str, SiteStats]:
    mergers = {site.name: Merger() for site in view.plan.sites}
    found: set[str] = set()
    for state in view.snapshot.stats_states():
        by_site: dict[str, dict[str, np.ndarray]] = {}
        for name, value in state.items():
            site, _, array = name.rpartition("/")
            by_site.setdefault(site, {})[array] = value
        for site, arrays in by_site.items():
            mergers[site].add(arrays)
            found.add(site)
    out = {}
    for spec in view.plan.sites:
        if spec.name not in found:
            continue
        stats = SiteStats(view, spec.name, mergers[spec.name].result())
        rows = view.num_rows(spec.space)
        if stats.count != rows:
            raise StoreError(f"{spec.name}: statistics cover {stats.count} rows, the site has {rows}")
        out[spec.name] = stats
    return out
