"""`path_page`: what each head and MLP contributes to an output, as one HTML file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mmxai.report.html import environment, number
from mmxai.report.tables import Cell, Heat

if TYPE_CHECKING:
    from mmxai.methods.path import Ablation, Contributions

_NEURONS = 20


def path_page(
    found: Contributions, out: str | Path, *, title: str, ablations: Sequence[Ablation] = ()
) -> Path:
    """Write the page to file `out`, and return its path. One file without outside resources."""
    targets: list[int | None] = [None, *range(len(found.targets))]
    html = (
        environment()
        .get_template("path.html")
        .render(
            title=title, found=found, kinds=found.by_kind(), views=[_view(found, t) for t in targets],
            ablations=[(a, _ablated(a)) for a in ablations],
        )
    )  # fmt: skip
    out = Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(html, encoding="utf-8")
    return out


def _view(found: Contributions, target: int | None) -> dict[str, Any]:
    """What there is to see of one target, or of shares of the output."""
    name = "share of the output" if target is None else found.targets[target]
    grid, columns = found.grid(target)
    most = float(np.abs(grid).max()) or 1.0
    rows = []
    for block, line in enumerate(grid):
        cells = [
            Cell(_said(v, target), float(v) / most, f"block {block}, {column}: {_said(v, target)}")
            for column, v in zip(columns, line, strict=True)
        ]
        rows.append((f"block {block}", cells))
    values = found.share if target is None else found.mean[:, target]
    outside = [i for i, t in enumerate(found.terms) if t.kind not in ("head", "mlp")]
    return {
        "name": name,
        "sum": _said(float(values.sum()), target),
        "map": Heat(columns, rows),
        "terms": [
            (
                found.terms[i].name, _said(values[i], target),
                "" if target is None else number(found.std[i, target]),
            )
            for i in found.top(_NEURONS, target)
        ],
        "neurons": [(f"{s}:{i}", _said(v, target)) for s, i, v in found.top_neurons(_NEURONS, target)],
        "others": [(found.terms[i].name, _said(values[i], target)) for i in outside],
    }  # fmt: skip


def _said(value: float, target: int | None) -> str:
    text = f"{100 * value:.1f}%" if target is None else f"{value:.3f}" if abs(value) < 10 else f"{value:.3g}"
    return text.replace("-", "\N{MINUS SIGN}")


def _ablated(found: Ablation) -> Heat:
    """A row a set: accuracy without it, and without as many others; tinted by what is lost."""
    rows = []
    for name, size, own, random in zip(found.names, found.sizes, found.accuracy, found.random, strict=True):
        values = (own, random.mean(), random.min(), random.max())
        cells = [Cell(f"{size:,}", 0.0)]
        cells += [Cell(f"{100 * v:.1f}%", min(0.0, float(v) - found.clean)) for v in values]
        rows.append((name, cells))
    return Heat(["terms", "without it", "random sets", "worst of them", "best of them"], rows)
