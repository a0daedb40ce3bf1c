"""Training curves from the JSON lines that `mmxai sae train` writes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmxai.errors import DataError
from mmxai.report.plots import curves

Series = dict[str, tuple[list[float], list[float]]]

_FIRST = ("loss", "fvu", "l0", "dead", "aux", "penalty", "grad_norm", "lr")
_LOGARITHMIC = {"loss", "fvu", "reconstruction", "aux"}
_ALONG = ("step", "rows", "time", "seconds", "epoch")


def read_metrics(path: str | Path) -> Series:
    """Metric -> (steps, values), of every number in the lines; those that people look at first, first.

    A last line cut short (a run that is writing, or was killed) is left out; other damage raises DataError.
    """
    lines = Path(path).read_text(encoding="utf-8").splitlines()
    found: Series = {}
    for i, line in enumerate(lines):
        if line.strip():
            try:
                entry = json.loads(line)
            except ValueError as error:
                if i == len(lines) - 1:
                    break
                raise DataError(f"{path}: line {i + 1} is no JSON ({error})") from error
            _take(found, entry, path, i)
    order = [*(n for n in _FIRST if n in found), *(n for n in found if n not in _FIRST)]
    return {name: found[name] for name in order}


def _take(found: Series, entry: Any, path: str | Path, i: int) -> None:
    if not isinstance(entry, Mapping) or not isinstance(entry.get("step"), int):
        raise DataError(f"{path}: line {i + 1} is {str(entry)[:80]}, expected an object with a whole `step`")
    for name, value in entry.items():
        if name not in _ALONG and isinstance(value, int | float) and not isinstance(value, bool):
            steps, values = found.setdefault(name, ([], []))
            steps.append(entry["step"])
            values.append(float(value))


def training_plots(runs: Mapping[str, Series]) -> list[dict[str, Any]]:
    """A plot a metric, with a line a run: `name`, `svg`, `last` (run -> value at the end), for a template.

    A metric that never changes is not drawn.
    """
    names = dict.fromkeys(name for series in runs.values() for name in series)
    plots = []
    for name in names:
        # A run without the metric keeps its place: colours go by the order of the runs.
        shown = {run: series.get(name, ([], [])) for run, series in runs.items()}
        if len({v for _, values in shown.values() for v in values}) > 1:
            positive = all(v > 0 for _, values in shown.values() for v in values if v == v)
            svg = curves(shown, log=name in _LOGARITHMIC and positive)
            plots.append({"name": name, "svg": svg, "last": {r: v[-1] for r, (_, v) in shown.items() if v}})
    return plots
