"""What `mmxai sae eval` found, as a table: the SAE's figures beside those of its nulls."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmxai.errors import DataError

_FIGURES = {"fvu": "FVU", "l0": "L0", "dead": "dead", "cosine": "cosine", "norm_ratio": "norm ratio"}


@dataclass(frozen=True)
class Figures:
    """`columns`: the SAE, then its nulls. `rows`: (figure, a value a column; None where there is none)."""

    columns: list[str]
    rows: list[tuple[str, list[float | None]]]
    over: int


def read_evaluation(path: str | Path) -> Figures:
    """The figures in an `eval.json`; DataError where it is not one."""
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
        each = {str(found["name"]): _figures(found)}
        each |= {name: _figures(null) for name, null in found.get("nulls", {}).items()}
        over = int(found["metrics"]["rows"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: {error!r}, expected the file that `mmxai sae eval` writes") from error
    names = dict.fromkeys(name for figures in each.values() for name in figures)
    return Figures(list(each), [(name, [f.get(name) for f in each.values()]) for name in names], over)


def _figures(evaluation: Mapping[str, Any]) -> dict[str, float | None]:
    metrics = evaluation["metrics"]
    found = {said: metrics.get(name) for name, said in _FIGURES.items()}
    for name, one in (evaluation.get("recovered") or {}).items():
        found[f"{name} recovered"] = one.get("recovered")
    return found
