"""The index of a site's units: how they are as a whole, which tell which label, and a gallery."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup

from mmxai.report import plots as draw
from mmxai.report.html import environment, number
from mmxai.report.neurons.entries import Gatherer

_GROUPS = 12  # of near-duplicates listed


@dataclass(frozen=True)
class Plot:
    """A picture for the index: an SVG of `mmxai.report.plots` (trusted), a name, a line below it."""

    name: str
    svg: str
    note: str = ""
    lines: Sequence[str] = ()


def index_page(
    gather: Gatherer,
    gallery: list[dict[str, Any]],
    *,
    title: str,
    how: str,
    facts: Mapping[str, str],
    plots: Sequence[Plot],
) -> str:
    """The HTML of the index; `gallery`: an entry a unit that has a page, `how` they were chosen."""
    found = gather.found
    duplicates = found.redundancy.groups
    shown = {
        "units": f"{found.units:,} {found.kind}s",
        "rows": f"{found.rows:,}",
        "samples": f"{found.samples:,}",
        "median excess kurtosis": number(found.median_kurtosis),
        "near-duplicates": f"{sum(map(len, duplicates)):,}",
    }
    links = {n: (f"units/{n}.html", f"{found.kind} {n}") for n in gather.shown}
    heavy = np.nan_to_num(found.kurtosis, nan=-3) + 3  # kurtosis itself, for a logarithmic axis
    return (
        environment()
        .get_template("units_index.html")
        .render(
            title=title,
            kind=found.kind,
            figures=shown | dict(facts),
            cloud=Markup(
                draw.cloud(
                    found.density, heavy, names=("share of rows above 0", "kurtosis (3: Gaussian)"),
                    label=lambda v: f"{100 * v:.3g}%" if v <= 1 else "", links=links, what=f"{found.kind}s",
                )
            ),
            kurtosis=Markup(_kurtosis(heavy)),
            told=found.labels,
            best=_best(gather),
            shown=gather.shown,
            redundancy=found.redundancy,
            groups=duplicates[:_GROUPS],
            plots=[{"name": p.name, "svg": Markup(p.svg), "note": p.note, "lines": p.lines} for p in plots],
            gallery=gallery,
            how=how,
        )
    )  # fmt: skip


def _kurtosis(heavy: np.ndarray) -> str:
    """How heavy-tailed units are; constant ones have no place on a logarithmic axis."""
    logs = np.log10(heavy[heavy > 0])
    if not len(logs):
        return draw.histogram([0.1, 1], [0], x="no unit ever changes", log_x=True)
    counts, edges = np.histogram(logs, bins=40, range=(min(0.0, logs.min()), max(logs.max(), 1.0)))
    return draw.histogram(
        (10.0**edges).tolist(),
        counts.tolist(),
        x="kurtosis",
        log_x=True,
        marks={"Gaussian": 3.0},
        size=draw.WIDE,
    )


def _best(gather: Gatherer) -> list[dict[str, Any]]:
    """Of each label the unit with the highest AUC."""
    told = gather.found.labels
    if told is None:
        return []
    made = []
    for name, unit in told.best_units().items():
        k = told.names.index(name)
        made.append(
            {
                "name": name, "unit": unit, "auc": float(told.auc[unit, k]),
                "r": float(told.correlation[unit, k]), "selectivity": float(told.selectivity[unit, k]),
                "share": told.positive[k] / told.rows,
            }
        )  # fmt: skip
    return sorted(made, key=lambda entry: -entry["auc"])
