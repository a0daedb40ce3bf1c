"""What a survey of a site's units found."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from mmxai.errors import ArgumentError
from mmxai.methods.neurons.redundancy import Redundancy
from mmxai.methods.neurons.strata import Strata
from mmxai.results import Result, axes, lines_of, number

if TYPE_CHECKING:
    import pandas
    from matplotlib.axes import Axes

MEASURES = ("auc", "correlation", "selectivity")


@dataclass
class Selectivity:
    """How well units tell labels apart, over `rows` labelled rows of which `positive` int64 `[K]` have each.

    auc float32 `[U, K]`: area under the ROC curve, off by at most `auc_error` `[U, K]` (0: exact).
    correlation: point-biserial. selectivity: (m1 - m0) / (m1 + m0) of the means of max(x, 0) with and without
    the label.
    index, best: task -> class-selectivity index `[U]` and the class of the largest mean, index into `names`.
    """

    names: tuple[str, ...]
    how: str
    rows: int
    positive: np.ndarray
    auc: np.ndarray
    auc_error: np.ndarray
    correlation: np.ndarray
    selectivity: np.ndarray
    index: dict[str, np.ndarray] = field(default_factory=dict)
    best: dict[str, np.ndarray] = field(default_factory=dict)

    def ranking(self, label: str, measure: str = "auc") -> np.ndarray:
        """Units by a measure for one label, the most selective first; int64 `[U]`."""
        if label not in self.names or measure not in MEASURES:
            raise ArgumentError(
                f"ranking: got {label!r} by {measure!r}, expected one of {self.names} by one of {MEASURES}"
            )
        k = self.names.index(label)
        if not 0 < self.positive[k] < self.rows:
            raise ArgumentError(
                f"ranking: got {label!r}, which {self.positive[k]:,} of {self.rows:,} labelled rows have, "
                "expected a label that some have and some lack"
            )
        values = getattr(self, measure)[:, k]
        return np.argsort(-np.nan_to_num(values, nan=-np.inf), kind="stable")

    def label_of(self, unit: int) -> int | None:
        """The label that a unit tells best by AUC, of those that some rows have and some lack."""
        own = self.auc[unit]
        return None if np.isnan(own).all() else int(np.nanargmax(own))

    def best_units(self) -> dict[str, int]:
        """Label -> the unit with the highest AUC for it."""
        there = ~np.isnan(self.auc).all(0)
        return {name: int(np.nanargmax(self.auc[:, k])) for k, name in enumerate(self.names) if there[k]}


@dataclass(repr=False)
class Neurons(Result):
    """The units of one site over `rows` rows. All arrays are by unit.

    mean, std, low, high, density (share of rows above 0), kurtosis (excess; 0 of a Gaussian, NaN of a
    constant): float64 `[U]`. by_type: token type -> mean. by_place float32
    `[h, w, U]`: mean by cell of the grid, None where rows are no cells. modality float64 `[U]`: mean over
    image tokens less mean over text tokens, in standard deviations; None unless the space has both. top_rows
    and sample_rows int64 `[U, k]` with top_values and sample_values float32: the highest rows of any samples,
    and the highest row of each of the highest samples (-1: there were fewer).
    """

    site: str
    kind: str
    rows: int
    samples: int
    mean: np.ndarray
    std: np.ndarray
    low: np.ndarray
    high: np.ndarray
    density: np.ndarray
    kurtosis: np.ndarray
    by_type: dict[str, np.ndarray]
    by_place: np.ndarray | None
    modality: np.ndarray | None
    top_rows: np.ndarray
    top_values: np.ndarray
    sample_rows: np.ndarray
    sample_values: np.ndarray
    strata: Strata
    redundancy: Redundancy
    labels: Selectivity | None = None

    @property
    def units(self) -> int:
        return len(self.mean)

    @property
    def median_kurtosis(self) -> float:
        """Of the units that ever change; NaN where none does."""
        known = self.kurtosis[~np.isnan(self.kurtosis)]
        return float(np.median(known)) if len(known) else float("nan")

    def to_pandas(self) -> pandas.DataFrame:
        """A row a unit; of labels the best by AUC."""
        import pandas

        columns: dict[str, Any] = {
            n: getattr(self, n) for n in ("mean", "std", "low", "high", "density", "kurtosis")
        }
        columns |= {f"mean {kind}": values for kind, values in self.by_type.items()}
        if self.modality is not None:
            columns["modality"] = self.modality
        columns["twin"], columns["twin r"] = self.redundancy.nearest[:, 0], self.redundancy.correlation[:, 0]
        if (found := self.labels) is not None:
            own = [found.label_of(u) for u in range(self.units)]
            columns["label"] = ["" if k is None else found.names[k] for k in own]
            for measure in MEASURES:
                values = getattr(found, measure)
                columns[measure] = [np.nan if k is None else values[u, k] for u, k in enumerate(own)]
            columns |= {f"selectivity index {task}": values for task, values in found.index.items()}
        return pandas.DataFrame(columns, index=pandas.RangeIndex(self.units, name=self.kind))

    def plot(self, ax: Axes | None = None) -> Axes:
        """How often against how heavy-tailed, a dot a unit."""
        ax = axes(ax)
        ax.scatter(self.density, self.kurtosis, s=8)
        ax.set(xlabel="share of rows above 0", ylabel="excess kurtosis", title=self.site)
        return ax

    def summary(self) -> str:
        groups = self.redundancy.groups
        head = (
            f"{self.units:,} {self.kind}s of {self.site}, {self.rows:,} rows of {self.samples:,} samples: "
            f"median kurtosis {number(self.median_kurtosis)}, median density "
            f"{number(float(np.median(self.density)))}, {sum(map(len, groups))} near-duplicates in "
            f"{len(groups)} groups (|r| >= {self.redundancy.level} over {self.redundancy.rows:,} rows)"
        )
        if (found := self.labels) is None:
            return head
        worst = float(np.nanmax(found.auc_error, initial=0))
        shown = sorted(
            found.best_units().items(), key=lambda item: -found.auc[item[1], found.names.index(item[0])]
        )
        table = [
            (
                name, str(unit), f"{found.auc[unit, k]:.3f}", f"{found.correlation[unit, k]:.3f}",
                f"{found.selectivity[unit, k]:.3f}", f"{found.positive[k] / found.rows:.1%}",
            )
            for name, unit in shown for k in (found.names.index(name),)
        ]  # fmt: skip
        exact = "exact" if worst == 0 else f"within {worst:.2g}"
        return (
            f"{head}\n\nof each label the best of all {self.kind}s, over {found.rows:,} labelled rows "
            f"({found.how}); AUC {exact}\n\n"
            + lines_of(("label", self.kind, "AUC", "r", "selectivity", "rows"), table)
        )
