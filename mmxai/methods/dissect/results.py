"""What a dissection found: of each unit its label, how well it fits, and what controls reach."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mmxai.concepts import Concept
from mmxai.errors import ArgumentError
from mmxai.methods.dissect import measures
from mmxai.methods.dissect.config import Area
from mmxai.methods.dissect.controls import Control
from mmxai.methods.dissect.counts import Counts
from mmxai.methods.dissect.forms import Forms
from mmxai.methods.dissect.resume import write_arrays
from mmxai.results import Result, axes, lines_of, number, plain

if TYPE_CHECKING:
    import pandas
    from matplotlib.axes import Axes


_SHOWN = 3  # sites that are shown unit by unit beside one another


@dataclass(repr=False)
class Dissection(Result):
    """The units of one site.

    threshold float32 `[U]`, `how` it came about. candidates int64 `[U, R]`: numbers of the concepts of
    highest IoU on the pictures of `chosen`, best first, -1 where there is none; the first is the unit's
    label. iou float64 `[U, R]`: theirs on the pictures of `scored` (the same counts where nothing was held
    out), and its interval `[low, high]` at `confidence`, NaN without resamples. ceiling float64 `[C]`: the
    best IoU that whole cells attain for a concept on those pictures. top_rows int64 `[U, k]`, top_values
    float32: the row in which a unit is highest, of each of the pictures in which it is (-1: there were
    fewer). excluded: share of the cells left out because their norm is above `norm`. unannotated: pictures of
    which nothing is known; they count nowhere. auprc float64 `[U, R]`: area under the precision-recall curve
    of each candidate, on the pictures of `scored`; that over all values is at most auprc_bound away. forms:
    logical forms of concepts, where they were searched for.
    """

    site: str
    kind: str
    concepts: tuple[Concept, ...]
    categories: tuple[str, ...]
    mode: str
    definition: Area
    threshold: np.ndarray
    how: str
    candidates: np.ndarray
    iou: np.ndarray
    low: np.ndarray
    high: np.ndarray
    confidence: float
    ceiling: np.ndarray
    top_rows: np.ndarray
    top_values: np.ndarray
    chosen: Counts
    scored: Counts
    held_out: float
    controls: dict[str, Control] = field(default_factory=dict)
    level: float = 0.04
    min_fired: int = 10
    unannotated: int = 0
    excluded: float = 0.0
    norm: float | None = None
    auprc: np.ndarray | None = None
    auprc_bound: np.ndarray | None = None
    forms: Forms | None = None

    @property
    def units(self) -> int:
        return len(self.threshold)

    @property
    def label(self) -> np.ndarray:
        """Concept number of each unit, int64 `[U]`, -1: none."""
        return self.candidates[:, 0]

    @property
    def best(self) -> np.ndarray:
        """IoU of each unit with its label, float64 `[U]`."""
        return self.iou[:, 0]

    @property
    def counts(self) -> Counts:
        """Of all pictures, those that labels were chosen on and those that were held out."""
        return self.chosen if self.scored is self.chosen else self.chosen + self.scored

    @property
    def fired(self) -> np.ndarray:
        """Cells in which each unit was above its threshold, int64 `[U]`."""
        return self.chosen.fired if self.scored is self.chosen else self.chosen.fired + self.scored.fired

    @property
    def dead(self) -> np.ndarray:
        """bool `[U]`: units that never were."""
        return self.fired == 0

    @property
    def rare(self) -> np.ndarray:
        """bool `[U]`: units that were, in fewer than `min_fired` cells."""
        return (self.fired > 0) & (self.fired < self.min_fired)

    def detectors(self, level: float | None = None) -> np.ndarray:
        """bool `[U]`: units whose IoU with their label is above `level` (default: as the run was asked), dead
        and rare ones aside."""
        above = self.best > (self.level if level is None else level)
        return above & (self.fired >= self.min_fired)

    def unique(self, level: float | None = None) -> int:
        """How many labels detectors have between them."""
        return measures.unique_labels(self.label, self.detectors(level))

    def by_category(self, level: float | None = None) -> dict[str, dict[str, int]]:
        """Category -> label -> its detectors, most first: the histogram that papers show."""
        found: dict[str, dict[str, int]] = {name: {} for name in self.categories}
        numbers, units = np.unique(self.label[self.detectors(level)], return_counts=True)
        for k in np.argsort(-units, kind="stable"):
            concept = self.concepts[numbers[k]]
            found[concept.category][concept.name] = int(units[k])
        return found

    def relative(self) -> np.ndarray:
        """IoU over what the grid can attain, float64 `[U, R]`; 0 where there is no candidate. Above 1 it can
        be in bilinear mode alone, for the ceiling is that of whole cells."""
        ceiling = np.where(self.candidates < 0, 0.0, self.ceiling[np.maximum(self.candidates, 0)])
        return measures.ratio(self.iou, ceiling)

    def measured(self, unit: int, concept: int) -> dict[str, float]:
        """All that is known of a pair, on the pictures of `scored`."""
        one = self.scored.range(unit, unit + 1)
        area = self.definition
        values = {
            "iou": one.iou(area), "precision": one.precision(area), "recall": one.recall(),
            "f1": one.f1(area), "phi": one.phi(area), "correlation": one.correlation(),
        }  # fmt: skip
        out = {name: float(v[0, concept]) for name, v in values.items()}
        own = np.flatnonzero(self.candidates[unit] == concept)
        if self.auprc is not None and len(own):
            out["auprc"] = float(self.auprc[unit, own[0]])
        return out | {"ceiling": float(self.ceiling[concept]), "chosen iou": self._chosen_iou(unit, concept)}

    def _chosen_iou(self, unit: int, concept: int) -> float:
        return float(self.chosen.range(unit, unit + 1).iou(self.definition)[0, concept])

    def category_best(self, category: str) -> np.ndarray:
        """The concept of a category with the highest IoU on the pictures of `chosen`, int64 `[U]`, -1:
        none."""
        if category not in self.categories:
            raise ArgumentError(f"dissection: got category {category!r}, expected one of {self.categories}")
        own = np.flatnonzero([c.category == category for c in self.concepts])
        if not len(own):
            return np.full(self.units, -1)
        out = np.empty(self.units, np.int64)
        for start in range(0, self.units, 1024):
            iou = self.chosen.range(start, start + 1024).iou(self.definition)[:, own]
            out[start : start + 1024] = np.where(iou.max(1) > 0, own[iou.argmax(1)], -1)
        return out

    def to_json(self) -> dict[str, Any]:
        """All but the counts, of which the figures of every unit's candidates are told."""
        aside = {"chosen", "scored", "concepts", "controls", "forms"}
        made = {f.name: plain(getattr(self, f.name)) for f in fields(self) if f.name not in aside}
        made["concepts"] = [[c.name, c.category] for c in self.concepts]
        made["pixels"], made["pictures"] = self.scored.pixels, self.scored.pictures
        made["forms"] = None if self.forms is None else self.forms.to_json(self.concepts)
        made["fired"] = plain(self.fired)
        made["detectors"], made["unique"] = int(self.detectors().sum()), self.unique()
        made["by_category"] = self.by_category()
        made["controls"] = {
            name: {
                "how": c.how, "detectors": c.detectors(self.level), "unique": c.unique(self.level),
                "level 99%": plain(c.level()), "label": plain(c.label), "iou": plain(c.iou),
            }
            for name, c in self.controls.items()
        }  # fmt: skip
        return made

    def to_pandas(self) -> pandas.DataFrame:
        """A row a unit, of its label."""
        import pandas

        own = self.label
        some = own >= 0
        at = np.maximum(own, 0)
        rows = np.arange(self.units)
        unit = self.scored.area(self.definition)
        area = unit[:, 0] if unit.shape[1] == 1 else unit[rows, at]
        inter, truth = self.scored.inter[rows, at], self.scored.truth[at]
        columns: dict[str, Any] = {
            "label": [self.concepts[k].name if k >= 0 else "" for k in own],
            "category": [self.concepts[k].category if k >= 0 else "" for k in own],
            "iou": self.best, "low": self.low[:, 0], "high": self.high[:, 0],
            "ceiling": np.where(some, self.ceiling[at], 0.0), "of ceiling": self.relative()[:, 0],
            "precision": np.where(some, measures.precision(inter, area), 0),
            "recall": np.where(some, measures.recall(inter, truth), 0),
            "f1": np.where(some, measures.f1(inter, area, truth), 0),
            "correlation": np.where(some, self._correlations(at), np.nan),
            "detector": self.detectors(), "fired": self.fired, "threshold": self.threshold,
        }  # fmt: skip
        if self.auprc is not None:
            columns["auprc"] = self.auprc[:, 0]
        if self.forms is not None:
            columns |= self.forms.columns(self.concepts, " ")
        return pandas.DataFrame(columns, index=pandas.RangeIndex(self.units, name=self.kind))

    def _correlations(self, concept: np.ndarray) -> np.ndarray:
        """Of each unit with a concept of its own, float64 `[U]`."""
        counts = self.scored
        if not counts.along.shape[1]:
            return np.full(self.units, np.nan)
        rows, area = np.arange(self.units), counts.category[concept]
        return measures.correlation(
            counts.along[rows, concept], counts.along[rows, counts.concepts + area],
            counts.squares[rows, area], counts.truth[concept], counts.pixels_in[area],
        )  # fmt: skip

    def line(self) -> tuple[str, ...]:
        """The site's row of a table by layer."""
        found = self.detectors()
        own = (
            self.site,
            f"{self.units:,}",
            f"{found.sum():,}",
            f"{self.unique():,}",
            number(_mean(self.best)),
        )
        beside = [f"{c.detectors(self.level):,} / {c.unique(self.level):,}" for c in self.controls.values()]
        return (*own, *beside)

    def summary(self) -> str:
        head = (
            f"{self.units:,} {self.kind}s of {self.site}, mask above {self.how}, {self.mode}; "
            f"{self.scored.pictures:,} pictures"
            + (f" held out ({self.held_out:.0%})" if self.held_out else "")
            + f", {len(self.concepts):,} concepts in {len(self.categories)} categories"
        )
        found = self.detectors()
        lines = [
            head,
            f"{found.sum():,} detectors (IoU > {self.level:g}, area {self.definition}) of {self.unique():,} "
            f"labels; {self.dead.sum():,} units dead, {self.rare.sum():,} rare (< {self.min_fired} cells)",
        ]
        lines += [
            f"{name}: {c.detectors(self.level):,} detectors of {c.unique(self.level):,} labels ({c.how}); "
            f"99% of its units at or below IoU {c.level():.3f}"
            for name, c in self.controls.items()
        ]
        shown = np.argsort(-np.where(found, self.best, -1), kind="stable")[: min(12, int(found.sum()))]
        if len(shown):
            correlation = self._correlations(np.maximum(self.label, 0))
            rows = [
                (
                    str(self.concepts[self.label[u]]), str(u), f"{self.best[u]:.3f}",
                    f"{number(self.low[u, 0])}-{number(self.high[u, 0])}", f"{self.relative()[u, 0]:.0%}",
                    number(float(correlation[u])),
                )
                for u in shown
            ]  # fmt: skip
            lines += ["", lines_of(("label", self.kind, "IoU", "interval", "of ceiling", "r"), rows)]
        if self.forms is not None:
            lines += ["", *self.forms.lines(self.concepts, self.kind)]
        return "\n".join(lines)

    def plot(self, ax: Axes | None = None) -> Axes:
        """Detectors by label, coloured by category."""
        ax = axes(ax)
        start = 0
        names: list[str] = []
        for category, found in self.by_category().items():
            if found:
                ax.bar(range(start, start + len(found)), list(found.values()), label=category)
                start, names = start + len(found), [*names, *found]
        ax.set_xticks(range(len(names)), names, rotation=90)
        ax.set(ylabel="detectors", title=self.site)
        if names:
            ax.legend()
        return ax


@dataclass(repr=False)
class Dissections(Result):
    """Of several sites. `about`: of what and by what, in words; `config`: the options; `notes`: what was left
    out, and why."""

    about: dict[str, str]
    config: dict[str, Any]
    sites: dict[str, Dissection]
    notes: list[str] = field(default_factory=list)

    def __getitem__(self, site: str) -> Dissection:
        if site not in self.sites:
            raise ArgumentError(f"dissections: got {site!r}, expected one of {list(self.sites)}")
        return self.sites[site]

    def to_json(self) -> dict[str, Any]:
        return {**super().to_json(), "sites": {name: d.to_json() for name, d in self.sites.items()}}

    def save(self, path: str | Path) -> Path:
        """`to_json` to the file `path` (`.json`), and all counts beside it, `.safetensors`:
        `<site>/chosen.table` and so on (see `Counts`)."""
        path = super().save(path)
        arrays: dict[str, np.ndarray] = {}
        for name, one in self.sites.items():
            sides = {"chosen": one.chosen} | ({} if one.scored is one.chosen else {"scored": one.scored})
            for side, counts in sides.items():
                arrays |= {f"{name}/{side}.{k}": np.ascontiguousarray(v) for k, v in counts.arrays().items()}
        write_arrays(path.with_suffix(".safetensors"), arrays, {"format": "mmxai-dissect"})
        return path

    def to_pandas(self) -> pandas.DataFrame:
        """A row a site and unit."""
        import pandas

        frames = {name: one.to_pandas().rename_axis("unit") for name, one in self.sites.items()}
        return pandas.concat(frames, names=["site"]).reset_index()

    def summary(self) -> str:
        lines = [f"{name}: {value}" for name, value in self.about.items()]
        if len(self.sites) > 1:
            controls = list(dict.fromkeys(name for one in self.sites.values() for name in one.controls))
            columns = ("site", "units", "detectors", "labels", "mean IoU", *controls)
            lines += ["", lines_of(columns, [one.line() for one in self.sites.values()])]
            if controls:
                lines.append(f"of controls: detectors / labels of them ({', '.join(controls)})")
        if len(self.sites) <= _SHOWN:
            for one in self.sites.values():
                lines += ["", str(one)]
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])

    def plot(self, ax: Axes | None = None) -> Axes:
        """Detectors by site, and those of the controls."""
        ax, names = axes(ax), list(self.sites)
        ax.plot(names, [int(d.detectors().sum()) for d in self.sites.values()], marker="o", label="units")
        controls = list(dict.fromkeys(name for one in self.sites.values() for name in one.controls))
        for name in controls:
            own = [
                d.controls[name].detectors(d.level) if name in d.controls else np.nan
                for d in self.sites.values()
            ]
            ax.plot(names, own, marker=".", linestyle="--", label=name)
        ax.tick_params("x", rotation=90)
        ax.set(ylabel="detectors")
        ax.legend()
        return ax


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else float("nan")
