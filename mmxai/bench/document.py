"""The JSON of a machine's figures.

{"machine": {...},
 "cases": {case: {"commit", "tests": "green", "date": "2026-01-31", "quick": false, "backends": {op: ...}}},
 "figures": {name: value},
 "details": {name: {"case", "value", "target", "verdict", "detail", "floor"}}}
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mmxai.bench.figures import Figure
from mmxai.bench.machine import commit, machine
from mmxai.errors import ArgumentError
from mmxai.kernels import status

Document = dict[str, Any]
_SAME = ("cpu", "cores", "gpu")  # what makes two runs the same machine; software may move on


def new() -> Document:
    return {"machine": machine(), "cases": {}, "figures": {}, "details": {}}


def add(document: Document, case: str, figures: Sequence[Figure], tests: str, *, quick: bool = False) -> None:
    """Put the figures of one run of a case in place of what the document held of it."""
    stale = [name for name, figure in document["details"].items() if figure["case"] == case]
    for name in stale:
        del document["figures"][name], document["details"][name]
    for figure in figures:
        if figure.name in document["figures"]:
            other = document["details"][figure.name]["case"]
            raise ArgumentError(f"figure {figure.name} of case {case}: case {other} has one of that name")
        document["figures"][figure.name] = figure.value
        detail = asdict(figure) | {"verdict": figure.verdict, "case": case}
        document["details"][figure.name] = {k: v for k, v in detail.items() if k != "name"}
    document["cases"][case] = {
        "commit": commit(),
        "tests": tests,
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "quick": quick,
        "backends": backends(document["machine"]["gpu"] is not None),
    }


def backends(gpu: bool) -> dict[str, str]:
    """Which backend serves each op here: on the CPU, or 'cpu / cuda' where there is a GPU."""
    chosen: dict[str, list[str]] = {}
    for line in status():
        if line.selected and (gpu or line.device == "cpu"):
            chosen.setdefault(line.op, []).append(line.backend)
    return {op: " / ".join(names) for op, names in chosen.items()}


def merge(path: Path, fresh: Document) -> Document:
    """`fresh` over what the file holds of the same machine; figures of other cases stay."""
    if not path.exists():
        return fresh
    held = load(path)
    for key in _SAME:
        if held["machine"][key] != fresh["machine"][key]:
            raise ArgumentError(
                f"{path} is of a machine with {key} {held['machine'][key]!r}, this one has "
                f"{fresh['machine'][key]!r}; write to another file"
            )
    kept = {n: d for n, d in held["details"].items() if d["case"] not in fresh["cases"]}
    figures = {n: held["figures"][n] for n in kept}
    if clash := sorted(set(kept) & set(fresh["figures"])):
        raise ArgumentError(f"{path}: two cases have a figure {clash[0]!r}")
    return {
        "machine": fresh["machine"],
        "cases": dict(sorted((held["cases"] | fresh["cases"]).items())),
        "figures": figures | fresh["figures"],
        "details": kept | fresh["details"],
    }


def load(path: Path) -> Document:
    document = json.loads(path.read_text())
    if not isinstance(document, dict) or not {"machine", "cases", "figures", "details"} <= set(document):
        raise ArgumentError(f"{path}: not a file of figures; expected machine, cases, figures and details")
    return document


def write(path: Path, document: Document) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=2) + "\n")
