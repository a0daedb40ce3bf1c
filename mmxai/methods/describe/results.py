"""What a description found: words of each unit, how they do on other pictures, and what chance reaches."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from mmxai.methods.describe.measures import LEAST, MEASURES, PASSING
from mmxai.results import Result, axes, lines_of, number, plain

if TYPE_CHECKING:
    import pandas
    from matplotlib.axes import Axes


@dataclass(repr=False)
class Description(Result):
    """The units of one site.

    index int64 `[U, R]`: the words of highest score, best first, into `words`; -1 where a unit has none (it
    is constant, or its score undefined). score float32 `[U, R]`; correlation float64 `[U, R]`: simulation
    correlation on `scored` pictures, which the words were not chosen on unless held_out is 0. null float32
    and null_correlation float64 `[P, U]`: best score, and correlation of that word, of each unit where its
    pictures are permuted before words are chosen, P times (correlations NaN where nothing is held out: those
    of words chosen on the same pictures are more than chance gives). alike: scores of all units have one
    null, else each has its own. spoilt: what becomes of measures of the first word when labels are missing
    or extra (see `evaluate.spoilt`), `[U]` each; empty where not asked for. fired int64 `[U]`: of the
    `chosen` pictures, in how many a unit is above 0; constant bool `[U]`. top_samples int64 `[U, k]` and
    top_values float32: the pictures in which a unit is highest. how: a unit's one value a picture, in words.
    """

    site: str
    kind: str
    how: str
    words: tuple[str, ...]
    index: np.ndarray
    score: np.ndarray
    correlation: np.ndarray
    null: np.ndarray
    null_correlation: np.ndarray
    alike: bool
    spoilt: dict[str, np.ndarray]
    fired: np.ndarray
    constant: np.ndarray
    chosen: int
    scored: int
    held_out: float
    top_samples: np.ndarray
    top_values: np.ndarray

    @property
    def units(self) -> int:
        return len(self.index)

    @property
    def labels(self) -> list[str]:
        """Each unit's word; "" where it has none."""
        return [self.words[i] if i >= 0 else "" for i in self.index[:, 0]]

    def beaten(self) -> tuple[np.ndarray, np.ndarray]:
        """float64 `[U]`: how likely chance makes a score as high as a unit's, and a correlation: the share
        of the null that is at least as high, with the unit's own counted in; NaN without a null or a word."""
        null = _pooled(self.null) if self.alike else self.null
        correlations = _pooled(self.null_correlation)
        return _beaten(null, self.score[:, 0]), _beaten(correlations, self.correlation[:, 0])

    def named(self, level: float = 0.05) -> np.ndarray:
        """bool `[U]`: whose word is beyond all but `level` of the null, by its correlation on pictures held
        out; by its score where none are."""
        score, found = self.beaten()
        return (found if self.held_out else score) <= level

    def falls(self, measure: str = "correlation") -> np.ndarray:
        """bool `[U]`: whether a measure of the first word falls both with missing and with extra labels."""
        return (self.spoilt[f"missing {measure}"] < -LEAST) & (self.spoilt[f"extra {measure}"] < -LEAST)

    def to_pandas(self) -> pandas.DataFrame:
        """A row a unit; the first four columns are those of CLIP-Dissect's tables."""
        import pandas

        by_score, by_correlation = self.beaten()
        columns: dict[str, Any] = {
            "layer": self.site, "unit": range(self.units), "description": self.labels,
            "similarity": self.score[:, 0], "correlation": self.correlation[:, 0],
            "beaten": by_score, "beaten_correlation": by_correlation,
        }  # fmt: skip
        if self.spoilt:
            columns["share"] = self.spoilt["share"]
            columns["missing"] = self.spoilt["missing correlation"]
            columns["extra"] = self.spoilt["extra correlation"]
        columns["fired"] = self.fired
        columns["runners_up"] = ["|".join(self._words(u)[1:]) for u in range(self.units)]
        return pandas.DataFrame(columns)

    def _words(self, unit: int) -> list[str]:
        return [self.words[i] for i in self.index[unit] if i >= 0]

    def plot(self, ax: Axes | None = None) -> Axes:
        """Correlations of the labels beside those of labels chosen on permuted pictures."""
        ax = axes(ax)
        found = self.correlation[:, 0]
        found = found[np.isfinite(found)]
        chance = _pooled(self.null_correlation)[:, 0]
        bins = np.histogram_bin_edges(np.concatenate([found, chance]), 40).tolist()
        if len(chance):
            ax.hist(chance, bins, density=True, alpha=0.5, label="pictures permuted")
        ax.hist(found, bins, density=True, alpha=0.5, label=f"{len(found)} units")
        ax.set_xlabel("simulation correlation")
        ax.legend()
        return ax

    def to_json(self) -> dict[str, Any]:
        """Figures, and the units one by one."""
        by_score, by_correlation = self.beaten()
        units = [
            {
                "unit": u, "words": self._words(u), "score": plain(self.score[u]),
                "correlation": plain(self.correlation[u]), "beaten": plain(by_score[u]),
                "beaten_correlation": plain(by_correlation[u]), "fired": int(self.fired[u]),
                "spoilt": {name: plain(v[u]) for name, v in self.spoilt.items()},
                "top_samples": plain(self.top_samples[u]), "top_values": plain(self.top_values[u]),
            }
            for u in range(self.units)
        ]  # fmt: skip
        return {
            "site": self.site, "kind": self.kind, "how": self.how, "chosen": self.chosen,
            "scored": self.scored, "held_out": self.held_out, "constant": int(self.constant.sum()),
            "named": int(self.named().sum()), "alike": self.alike, "null": plain(self.null),
            "null_correlation": plain(self.null_correlation), "units": units,
        }  # fmt: skip

    def summary(self) -> str:
        live = ~self.constant
        found, chance = self.correlation[live, 0], self.null_correlation
        where = f"{self.scored:,} pictures held out" if self.held_out else "the pictures words were chosen on"
        lines = [
            f"{self.site}: {self.units:,} {self.kind}s, {self.how}; {int(self.constant.sum())} are constant",
            f"  simulation correlation on {where}: mean {number(_mean(found))}, "
            f"with permuted pictures {number(_mean(chance))}",
        ]
        if len(self.null):
            by_score, by_correlation = ((p <= 0.05).sum() for p in self.beaten())
            lines.append(
                f"  beyond 95% of what permuted pictures give: {by_correlation:,} units by correlation, "
                f"{by_score:,} by score; by chance {0.05 * live.sum():.0f}"
            )
        order = np.argsort(-np.nan_to_num(self.correlation[:, 0], nan=-np.inf), kind="stable")[:8]
        by_score, _ = self.beaten()
        rows = [
            [str(u), self.labels[u], number(self.score[u, 0]), number(by_score[u]),
             number(self.correlation[u, 0])]
            for u in order
        ]  # fmt: skip
        return "\n".join([*lines, "", lines_of(["unit", "word", "score", "beaten", "correlation"], rows)])

    def tests(self, units: np.ndarray | None = None) -> pandas.DataFrame:
        """A row a measure: its mean, its mean change with missing and with extra labels, of which share of
        the units that have a word it falls in each, and whether it does of all in Neuron_Eval. units: bool
        `[U]`, those alone."""
        import pandas

        live = np.isfinite(self.correlation[:, 0])
        live = live if units is None else live & units
        rows = []
        for name in MEASURES if self.spoilt else ():
            missing, extra = self.spoilt[f"missing {name}"][live], self.spoilt[f"extra {name}"][live]
            rows.append(
                [name, _mean(self.spoilt[f"score {name}"][live]), _mean(missing), _mean(extra),
                 _mean(missing < -LEAST), _mean(extra < -LEAST), name in PASSING]
            )  # fmt: skip
        columns = ["measure", "mean", "missing", "extra", "falls_missing", "falls_extra", "sound"]
        return pandas.DataFrame(rows, columns=columns)


@dataclass(repr=False)
class Descriptions(Result):
    """Sites described by one judge. about: store, judge and word list; notes: what to know beside."""

    about: dict[str, Any]
    config: dict[str, Any]
    sites: dict[str, Description]
    notes: list[str] = field(default_factory=list)

    def to_pandas(self) -> pandas.DataFrame:
        import pandas

        return pandas.concat([d.to_pandas() for d in self.sites.values()], ignore_index=True)

    def plot(self, ax: Axes | None = None) -> Axes:
        """Mean simulation correlation by site, and with permuted pictures."""
        ax, names = axes(ax), list(self.sites)
        ax.plot(names, [_mean(d.correlation[:, 0]) for d in self.sites.values()], marker="o", label="units")
        chance = [_mean(d.null_correlation) for d in self.sites.values()]
        ax.plot(names, chance, marker=".", linestyle="--", label="pictures permuted")
        ax.tick_params("x", rotation=90)
        ax.set(ylabel="simulation correlation")
        ax.legend()
        return ax

    def to_json(self) -> dict[str, Any]:
        sites = {name: one.to_json() for name, one in self.sites.items()}
        return {"about": self.about, "config": self.config, "notes": self.notes, "sites": sites}

    def summary(self) -> str:
        lines = [f"{name}: {value}" for name, value in self.about.items()]
        for one in self.sites.values():
            lines += ["", str(one)]
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])


def _pooled(null: np.ndarray) -> np.ndarray:
    """Of all units: `[M, 1]`, ascending."""
    return np.sort(null[np.isfinite(null)])[:, None]


def _beaten(null: np.ndarray, found: np.ndarray) -> np.ndarray:
    """float64 `[U]`, by a null `[M, 1]` of all units, ascending, or `[M, U]` of each."""
    if not null.size:
        return np.full(len(found), np.nan)
    if null.shape[1] == 1:
        higher = len(null) - np.searchsorted(null[:, 0], found, side="left")
    else:
        higher = (null >= found).sum(0)
    return np.where(np.isfinite(found), (1 + higher) / (1 + len(null)), np.nan)


def _mean(values: np.ndarray) -> float:
    values = np.asarray(values, np.float64)
    values = values[np.isfinite(values)]
    return float(values.mean()) if len(values) else float("nan")
