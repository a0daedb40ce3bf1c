"""What probes found: figures of every site and task, and their directions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mmxai.methods.probe.bootstrap import Estimate
from mmxai.methods.probe.directions import Directions
from mmxai.methods.probe.erasers import Erasers, save_erasers
from mmxai.methods.probe.mdl import Codelength
from mmxai.results import Result, axes, lines_of, number

if TYPE_CHECKING:
    import pandas
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class Score:
    """One task at one site, on test items alone.

    figures: those of `metrics.CLASSES` or `NUMBERS`. control: the same of its control tasks, mean over them.
    selectivity: accuracy (R2 of numbers) less the control's, resampled in pairs. majority: share of the
    commonest class; None but of classes. penalty: the one chosen, NaN of mean_difference; at_edge: the
    smallest or largest candidate; converged: logistic regression came to its end (the others have none to
    come to); temperature: what scores
    are multiplied by to be log odds. confusion: `[K, K]`, rows the truth. reliability: see
    `metrics.reliability`.
    """

    site: str
    task: str
    kind: str
    level: str
    names: tuple[str, ...]
    method: str
    train: int
    test: int
    test_samples: int
    penalty: float
    at_edge: bool
    converged: bool
    temperature: float
    figures: dict[str, Estimate]
    majority: float | None = None
    control: dict[str, Estimate] | None = None
    selectivity: Estimate | None = None
    codelength: Codelength | None = None
    control_codelength: Codelength | None = None
    confusion: np.ndarray | None = None
    reliability: list[tuple[float, float, int]] = field(default_factory=list)

    @property
    def main(self) -> str:
        """The figure that selectivity is about."""
        return "R2" if self.kind == "regression" else "accuracy"

    def values(self) -> dict[str, float]:
        """Every figure by name."""
        out = {name: e.value for name, e in self.figures.items()}
        if self.selectivity is not None and self.control is not None:
            out |= {"control": self.control[self.main].value, "selectivity": self.selectivity.value}
        if self.codelength is not None:
            out |= {"codelength": self.codelength.bits, "compression": self.codelength.compression}
        return out


@dataclass(repr=False)
class ProbeReport(Result):
    """`about`: what was probed, in words; `notes`: what was left out, and why; `config`: the options.

    `directions`, and `erasers` where asked for, are kept apart from the JSON.
    """

    about: dict[str, str]
    config: dict[str, Any]
    scores: list[Score]
    notes: list[str] = field(default_factory=list)
    directions: Directions = field(default_factory=Directions)
    erasers: Erasers = field(default_factory=dict)

    @property
    def sites(self) -> list[str]:
        return list(dict.fromkeys(s.site for s in self.scores))

    @property
    def tasks(self) -> list[str]:
        return list(dict.fromkeys(s.task for s in self.scores))

    def of(self, task: str) -> list[Score]:
        return [s for s in self.scores if s.task == task]

    def best(self, task: str) -> Score:
        """The site where the task is told best, by its main figure."""
        return max(self.of(task), key=lambda s: np.nan_to_num(s.figures[s.main].value, nan=-np.inf))

    def table(self, figure: str | None = None) -> np.ndarray:
        """float64 `[sites, tasks]` of a figure of `Score.values`, by default each task's main one; NaN where
        there is none."""
        found = {(s.site, s.task): s.values().get(figure or s.main, np.nan) for s in self.scores}
        return np.array([[found.get((site, task), np.nan) for task in self.tasks] for site in self.sites])

    def to_json(self) -> dict[str, Any]:
        """All but directions and erasers."""
        made = super().to_json()
        del made["directions"], made["erasers"]
        return made

    def save(self, path: str | Path) -> Path:
        """`to_json` to the file `path` (`.json`); beside it the directions, `.safetensors`, and where there
        are erasers, `.erasers.safetensors`; those of an earlier report there go, so that all are of one."""
        path = super().save(path)
        self.directions.save(path.with_suffix(".safetensors"))
        erasers = path.with_suffix(".erasers.safetensors")
        if self.erasers:
            save_erasers(self.erasers, erasers)
        else:
            erasers.unlink(missing_ok=True)
        return path

    def to_pandas(self) -> pandas.DataFrame:
        """A row a site and task, intervals as `<figure> low` and `<figure> high`."""
        import pandas

        rows = []
        for s in self.scores:
            row: dict[str, Any] = {
                "site": s.site, "task": s.task, "method": s.method, "penalty": s.penalty, "test": s.test,
                "majority": s.majority,
            }  # fmt: skip
            intervals = s.figures | ({} if s.selectivity is None else {"selectivity": s.selectivity})
            for name, value in s.values().items():
                row[name] = value
                if name in intervals:
                    row |= {f"{name} low": intervals[name].low, f"{name} high": intervals[name].high}
            rows.append(row)
        return pandas.DataFrame(rows)

    def summary(self) -> str:
        lines = [f"{name}: {value}" for name, value in self.about.items()]
        rows = [
            (site, *(f"{v:.3f}" if np.isfinite(v) else "-" for v in row))
            for site, row in zip(self.sites, self.table(), strict=True)
        ]
        lines += ["", lines_of(("accuracy, R2 of numbers", *self.tasks), rows), ""]
        lines += [_told(self.best(task)) for task in self.tasks]
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])

    def plot(self, ax: Axes | None = None) -> Axes:
        """Sites by tasks, coloured by accuracy (R2 of numbers)."""
        ax, table = axes(ax), self.table()
        ax.imshow(table, vmin=0, vmax=1, aspect="auto", cmap="viridis")
        ax.set_xticks(range(len(self.tasks)), self.tasks, rotation=30, ha="right")
        ax.set_yticks(range(len(self.sites)), self.sites)
        for (i, j), value in np.ndenumerate(table):
            if np.isfinite(value):
                colour = "white" if value < 0.6 else "black"
                ax.text(j, i, f"{value:.2f}", ha="center", va="center", color=colour, fontsize=8)
        return ax


def _told(score: Score) -> str:
    e = score.figures[score.main]
    text = f"{score.task}: best at {score.site}, {score.main} {e.value:.3f}"
    if np.isfinite(e.low):
        text += f" [{e.low:.3f}, {e.high:.3f}]"
    if score.majority is not None:
        text += f", commonest class {score.majority:.3f}"
    if score.control is not None and score.selectivity is not None:
        text += f", control {score.control[score.main].value:.3f}, selectivity {score.selectivity.value:.3f}"
    if score.codelength is not None:
        shorter = number(score.codelength.compression)
        text += f", {number(score.codelength.bits)} bits an item ({shorter}x shorter than uniform)"
    return text


def mean_of(every: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Figures of several controls, averaged resample by resample."""
    return {name: np.mean([one[name] for one in every], 0) for name in every[0]}
