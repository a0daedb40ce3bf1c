"""`probe_page`: what probes found, as one HTML file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup

from mmxai.report.html import environment
from mmxai.report.plots import curves
from mmxai.report.tables import Cell, Heat, confusion_heat, cosine_heat

if TYPE_CHECKING:
    from mmxai.methods.probe.bootstrap import Estimate
    from mmxai.methods.probe.results import ProbeReport, Score

_UNBOUNDED = ("log loss", "RMSE", "codelength", "compression")
"""Figures that are not shares: their tint goes by the largest of the table."""

_FEW = 10  # items of a bin of probabilities whose share right is worth drawing

_MOST_NAMES = 48  # directions in a table of cosines


def probe_page(report: ProbeReport, out: str | Path, *, title: str = "Linear probes") -> Path:
    """Write the page to file `out`, and return its path. One file without outside resources."""
    figures = list(dict.fromkeys(name for s in report.scores for name in s.values()))
    html = (
        environment()
        .get_template("probe.html")
        .render(
            title=title,
            report=report,
            figures=[("", "accuracy, R2 of numbers"), *((name, name) for name in figures)],
            maps={name: _map(report, name or None) for name in ("", *figures)},
            tasks=[_task(report, task) for task in report.tasks],
            cosines=_cosines(report),
            between=[_between(report, t) for t in report.tasks if len(report.of(t)) > 1],
            names=figures,
            scores=[_line(score, figures) for score in report.scores],
        )
    )
    out = Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(html, encoding="utf-8")
    return out


def _map(report: ProbeReport, figure: str | None) -> Heat:
    """Sites by tasks."""
    table = report.table(figure)
    most = float(np.nanmax(table)) if figure in _UNBOUNDED and np.isfinite(table).any() else 1.0
    scores = {(s.site, s.task): s for s in report.scores}
    rows = []
    for site, values in zip(report.sites, table, strict=True):
        cells = []
        for task, value in zip(report.tasks, values, strict=True):
            if not np.isfinite(value):
                cells.append(Cell("", None))
                continue
            score = scores[site, task]
            said = f"{site}, {task}: {figure or score.main} {value:.4g}"
            interval = _interval(score, figure or score.main)
            cells.append(Cell(_short(value), float(value) / (most or 1.0), f"{said}{interval}"))
        rows.append((site, cells))
    return Heat(report.tasks, rows)


def _interval(score: Score, figure: str) -> str:
    found: Estimate | None = score.selectivity if figure == "selectivity" else score.figures.get(figure)
    return "" if found is None or np.isnan(found.low) else f" [{found.low:.4g}, {found.high:.4g}]"


def _task(report: ProbeReport, task: str) -> dict[str, Any]:
    best = report.best(task)
    figures = [
        (name, e, None if best.control is None else best.control[name]) for name, e in best.figures.items()
    ]
    drawn = None
    if best.confusion is not None and len(best.names) <= _MOST_NAMES:
        drawn = confusion_heat(best.confusion, best.names)
    return {
        "name": task,
        "best": best,
        "figures": figures,
        "curve": _curve(report, task),
        "confusion": drawn,
        "reliability": _reliability(best),
    }


def _curve(report: ProbeReport, task: str) -> dict[str, Any] | None:
    """The main figure over blocks, a line a kind of site, and that of the controls; None of one block."""
    series: dict[str, tuple[list[float], list[float]]] = {}
    controls: dict[int, list[float]] = {}
    for score in report.of(task):
        tower, _, rest = score.site.partition(".")
        number, _, kind = rest.partition(".")
        if not number.isdecimal():
            continue
        x, y = series.setdefault(f"{tower} {kind}", ([], []))
        x.append(int(number))
        y.append(score.figures[score.main].value)
        if score.control is not None:
            controls.setdefault(int(number), []).append(score.control[score.main].value)
    if not any(len(x) > 1 for x, _ in series.values()):
        return None
    if controls:
        order = sorted(controls)
        series["control"] = [float(b) for b in order], [float(np.mean(controls[b])) for b in order]
    return {"svg": Markup(curves(series, x="block")), "keys": list(series)}


def _reliability(score: Score) -> Markup | None:
    bins = [(c, r) for c, r, items in score.reliability if items >= _FEW]
    if len(bins) < 2:
        return None
    said, right = [c for c, _ in bins], [r for _, r in bins]
    ends = [min(said), max(said)]
    return Markup(curves({"right": (said, right), "as said": (ends, ends)}, x="probability said"))


def _cosines(report: ProbeReport) -> list[tuple[str, Heat]]:
    """Of the site that is best for most tasks: every direction with every other."""
    best = [report.best(task).site for task in report.tasks]
    site = max(dict.fromkeys(best), key=best.count)
    shown: list[str] = []
    count = 0
    for score in (s for s in report.scores if s.site == site):
        if count + len(score.names) <= _MOST_NAMES:
            shown.append(score.task)
            count += len(score.names)
    if count < 2:
        return []
    names, table = report.directions.at(site, shown)
    return [(site, cosine_heat(table, names))]


def _between(report: ProbeReport, task: str) -> tuple[str, Heat]:
    sites, table = report.directions.between(task)
    return task, cosine_heat(table, sites)


def _line(score: Score, figures: Sequence[str]) -> dict[str, Any]:
    values = score.values()
    cells = [(_short(values[f]) if f in values else "–", _interval(score, f).strip()) for f in figures]
    return {"score": score, "cells": cells}


def _short(value: float) -> str:
    text = f"{value:.3f}" if abs(value) < 10 else f"{value:.3g}"
    return text.replace("-", "\N{MINUS SIGN}")
