"""`lens_page`: what every block says at every position, and over pictures, as one HTML file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup

from mmxai.report.html import environment
from mmxai.report.lens.data import sample_data
from mmxai.report.plots import curves
from mmxai.report.tables import Cell, Heat

if TYPE_CHECKING:
    from PIL import Image

    from mmxai.methods.lens import LensResult, Transfer

_MOST_STATES = 64  # of a table of layers


def lens_page(
    found: LensResult,
    out: str | Path,
    *,
    title: str = "Logit lens",
    between: Transfer | None = None,
    pictures: Callable[[int], Image.Image] | None = None,
    samples: int = 8,
) -> Path:
    """Write the page to file `out`, and return its path. One file without outside resources.

    between: layers held against each other. pictures: a sample's original. samples: how many are shown.
    """
    shown = list(dict.fromkeys(found.rows[:, 0].tolist()))[:samples]
    html = (
        environment()
        .get_template("lens.html")
        .render(
            title=title,
            found=found,
            samples=[(s, _called(found, s)) for s in shown],
            data={
                "states": found.states,
                "stream": found.stream() or list(range(len(found.states))),
                "targets": found.target_names,
                "samples": [sample_data(found, s, pictures) for s in shown],
            },
            plots=[_curve(found, figure) for figure in dict.fromkeys(c.figure for c in found.curves)],
            maps=[] if between is None or len(between.states) > _MOST_STATES else _maps(between),
        )
    )
    out = Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(html, encoding="utf-8")
    return out


def _called(found: LensResult, sample: int) -> str:
    known = found.samples.get(sample, {})
    said = " ".join(f"{known.get('key') or ''} {known.get('text') or ''}".split())
    return f"{sample}: {said[:60]}" if said else f"sample {sample}"


def _curve(found: LensResult, figure: str) -> dict[str, Any]:
    """A figure over the stream, a line a token type, with its intervals; of other states a line a kind."""
    stream = found.stream() or list(range(len(found.states)))
    own = [c for c in found.curves if c.figure == figure]
    several = [c for c in own if c.type != "all"] or own
    x = [float(i) for i in range(len(stream))]
    lines = {f"{c.type} ({c.rows:,})": (x, c.mean[stream].tolist()) for c in several}
    bands = {f"{c.type} ({c.rows:,})": (c.low[stream].tolist(), c.high[stream].tolist()) for c in several}
    said = {
        "kl": "KL of the last to it, nats",
        "entropy": "entropy, nats",
        "agreement": "says the last's answer",
    }
    svg = curves(lines, x="blocks passed", zero=True, bands=bands)
    return {"name": said.get(figure, figure), "svg": Markup(svg), "keys": list(lines)}


def _maps(between: Transfer) -> list[tuple[str, str, Heat]]:
    states = between.states
    names = [s.split(".", 1)[1] for s in states]
    most = float(np.max(between.kl)) or 1.0
    agree = _heat(names, between.agreement, 1.0, "{0} and {1} say the same in {2:.1%} of rows", 100)
    apart = _heat(names, between.kl, most, "KL({1} || {0}) is {2:.3g} nats", 1)
    return [
        ("Agreement", "percent of rows where two say the same", agree),
        ("Divergence", "KL of the column to the row, nats", apart),
    ]


def _heat(names: Sequence[str], table: np.ndarray, most: float, said: str, times: float) -> Heat:
    rows = []
    for one, line in zip(names, table, strict=True):
        cells = [
            Cell(_short(times * v), float(v) / most, said.format(one, other, v))
            for other, v in zip(names, line, strict=True)
        ]
        rows.append((one, cells))
    return Heat(names, rows)


def _short(value: float) -> str:
    return f"{value:.0f}" if value >= 10 else f"{value:.1f}"
