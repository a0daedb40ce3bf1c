"""Everything a template shows of one unit, gathered from what was found and from the store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup

from mmxai.report import plots
from mmxai.report.examples import between
from mmxai.report.html import number, share
from mmxai.report.units.gather import Examples, Scale

if TYPE_CHECKING:
    from mmxai.methods.neurons.results import Neurons

_LABELS = 12  # shown of a unit
_GALLERY, _GALLERY_TEXTS = 6, 2  # of each unit on the index
_SEARCHED = 2000  # characters of captions, labels and tokens that a gallery's search looks at


@dataclass(frozen=True)
class Panel:
    """A list on a unit's page: rows of (name, value), bars by |value|; `about` stands below it."""

    name: str
    rows: Sequence[tuple[str, float]]
    note: str = ""
    about: str = ""

    @property
    def highest(self) -> float:
        return max((abs(v) for _, v in self.rows), default=0) or 1


@dataclass
class Gatherer:
    """What all pages of one site share. shown: units that have pages."""

    found: Neurons
    examples: Examples
    panels: Mapping[int, Sequence[Panel]]
    shown: set[int] = field(default_factory=set)

    def _scale(self, unit: int) -> Scale:
        """From its mean, or from 0 where it is mostly silent, to its maximum."""
        low = 0.0 if self.found.density[unit] < 0.5 and self.found.low[unit] >= 0 else self.found.mean[unit]
        return between(float(low), float(self.found.high[unit]))

    def top(self, unit: int, most: int) -> list[dict[str, Any]]:
        """The samples in which the unit is highest; a sparse unit's list ends where it is 0."""
        rows, values = self.found.sample_rows[unit], self.found.sample_values[unit]
        there = (rows >= 0) & ((values > 0) | (self.found.low[unit] < 0))
        return self.examples.cards(
            unit, rows[there].tolist(), values[there].tolist(), most, self._scale(unit)
        )

    def bands(self, unit: int) -> list[dict[str, Any]]:
        """What rows drawn from each band of the unit's range look like, the highest band first."""
        strata = self.found.strata
        made = []
        for band in reversed(range(strata.rows.shape[1])):
            rows, values = strata.rows[unit, band], strata.values[unit, band]
            there = rows >= 0
            if not there.any():
                continue
            cards = self.examples.cards(
                unit, rows[there].tolist(), values[there].tolist(), int(there.sum()), self._scale(unit)
            )
            low, high = strata.edges[unit, band : band + 2].tolist()
            made.append(
                {
                    "from": strata.levels[band],
                    "to": strata.levels[band + 1],
                    "low": low,
                    "high": high,
                    "cards": cards,
                }
            )
        return made

    def figures(self, unit: int) -> dict[str, str]:
        """The figures at the head of a unit's page."""
        found = self.found
        shown = {
            "above 0 in": f"{share(float(found.density[unit]))} of rows",
            "mean ± std": f"{number(float(found.mean[unit]))} ± {number(float(found.std[unit]))}",
            "range": f"{number(float(found.low[unit]))} to {number(float(found.high[unit]))}",
            "excess kurtosis": number(float(found.kurtosis[unit])),
        }
        if found.modality is not None:
            shown["image less text"] = f"{number(float(found.modality[unit]))} std"
        if found.labels is not None:
            for task, index in found.labels.index.items():
                if np.isfinite(index[unit]):
                    name = found.labels.names[found.labels.best[task][unit]]
                    most = f" ({name})" if index[unit] > 0 else ""
                    shown[f"selectivity index, {task}"] = f"{number(float(index[unit]))}{most}"
        return shown

    def plots(self, unit: int) -> list[dict[str, Any]]:
        """Histogram of the values; where on the grid. `name`, `svg`, `note` each."""
        found, (low, high) = self.found, self.found.strata.quantiles[unit, [0, -1]].tolist()
        counts = found.strata.histogram[unit].tolist()
        edges = np.linspace(low, max(high, low + 1e-30), len(counts) + 1).tolist()
        kinds = ", ".join(f"{kind} {number(float(v[unit]))}" for kind, v in found.by_type.items())
        made = [
            {
                "name": "values",
                "svg": Markup(
                    plots.histogram(
                        edges, counts, x="activation; rows on a logarithmic axis", log_counts=True,
                        marks={"mean": float(found.mean[unit])},
                    )
                ),
                "note": f"mean by token type: {kinds}" if len(found.by_type) > 1 else "",
            }
        ]  # fmt: skip
        if found.by_place is not None:
            height, width = found.by_place.shape[:2]
            made.append(
                {
                    "name": f"mean by place on the {height} × {width} grid",
                    "svg": Markup(plots.heat(found.by_place[..., unit])),
                    "note": "",
                }
            )
        return made

    def labels(self, unit: int) -> list[dict[str, Any]]:
        """Labels by AUC, the best told first."""
        told = self.found.labels
        if told is None:
            return []
        order = np.argsort(-np.nan_to_num(told.auc[unit], nan=-1), kind="stable")
        return [
            {
                "name": told.names[k], "auc": float(told.auc[unit, k]), "r": float(told.correlation[unit, k]),
                "selectivity": float(told.selectivity[unit, k]), "share": told.positive[k] / told.rows,
            }
            for k in order[:_LABELS] if np.isfinite(told.auc[unit, k])
        ]  # fmt: skip

    def note(self, unit: int) -> str:
        """The label that it tells best of all units."""
        told = self.found.labels
        mine = [] if told is None else [name for name, best in told.best_units().items() if best == unit]
        return f"best for {', '.join(mine)}" if mine else ""

    def near(self, unit: int) -> list[dict[str, Any]]:
        """Units that correlate most with this one, with small pictures of what drives them."""
        found = self.found
        return [
            {
                "unit": int(other),
                "r": float(r),
                "thumbs": self.examples.thumbs(found.sample_rows[other][found.sample_rows[other] >= 0]),
                "page": int(other) in self.shown,
            }
            for other, r in zip(
                found.redundancy.nearest[unit], found.redundancy.correlation[unit], strict=True
            )
        ]

    def entry(self, unit: int, cards: list[dict[str, Any]]) -> dict[str, Any]:
        """A unit on the index: its first examples, out of the `cards` of its page."""
        best = next((label for label in self.labels(unit) if label["auc"] > 0.5), None)
        pictures = [c for c in cards if c["picture"]][:_GALLERY]
        tokens = [text for c in cards for text, _, top in c["tokens"] if top]
        named = [] if best is None else [best["name"]]
        words = [self.note(unit), *named, *tokens, *(c["sample"].text for c in cards)]
        return {
            "unit": unit,
            "note": self.note(unit),
            "best": best,
            "density": float(self.found.density[unit]),
            "kurtosis": float(np.nan_to_num(self.found.kurtosis[unit], nan=-3)),
            "maximum": float(self.found.high[unit]),
            "pictures": [c | {"picture": c["picture"].removeprefix(self.examples.up)} for c in pictures],
            "texts": [c for c in cards if not c["picture"]][:_GALLERY_TEXTS],
            "search": " ".join(w for w in words if w).lower()[:_SEARCHED],
        }
