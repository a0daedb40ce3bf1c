"""`trace_page`: a study of causal tracing as one HTML file: what was asked and corrupted, and every map."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mmxai.report.html import environment, number
from mmxai.report.pictures import inverse, picture_uri
from mmxai.report.plots import curves
from mmxai.report.tables import Cell, Heat

if TYPE_CHECKING:
    from PIL import Image

    from mmxai.methods.trace.findings import Findings, Map

_RANDOM = "random, mean"
_MARKS = {"\n": "\N{RETURN SYMBOL}", "\t": "\N{RIGHTWARDS ARROW TO BAR}"}


def trace_page(
    found: Findings,
    out: str | Path,
    *,
    title: str = "Causal tracing",
    picture: Image.Image | None = None,
    corrupted: Image.Image | None = None,
    where: np.ndarray | None = None,
) -> Path:
    """Write the page to file `out`, and return its path. One file without outside resources.

    picture, corrupted: the pictures of the two runs. where: bool `[H, W]`, the region in question.
    """
    shown = None if picture is None else picture_uri(picture)
    sides = [
        {"name": name, "side": side, "picture": uri, "tokens": _tokens(side.tokens)}
        for name, side, uri in (
            ("clean", found.clean, shown),
            ("corrupted", found.corrupted, None if corrupted is None else picture_uri(corrupted)),
        )
    ]
    views = [_view(m, found, shown) for m in found.maps]
    html = (
        environment()
        .get_template("trace.html")
        .render(
            title=title, found=found, sides=sides, views=views, box=_box(where),
            small=picture is not None and picture.width * picture.height <= 9216,
            knockouts=any(m.shows == "knockouts" for m in found.maps),
            controlled=any(m.random for m in found.maps),
        )
    )  # fmt: skip
    out = Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(html, encoding="utf-8")
    return out


def _view(m: Map, found: Findings, picture: str | None) -> dict[str, Any]:
    """What there is to see of one map."""
    view: dict[str, Any] = {"map": m, "heat": None, "plot": None, "strip": [], "names": []}
    if m.shows == "patches" and picture is not None:
        view["strip"] = [_squares(m, block, found) for block in range(len(m.value))]
    else:
        view["heat"] = _heat(m)
    if m.shows in ("groups", "knockouts"):
        lines = _lines(m)
        # A curve of one block is a point, which the table says better.
        if len(m.value) > 1:
            x = [float(b) for b in range(len(m.value))]
            drawn = {name: (x, values.tolist()) for name, values in lines.items()}
            view["plot"], view["names"] = curves(drawn, x="first block", zero=True), list(lines)
    return view


def _lines(m: Map) -> dict[str, np.ndarray]:
    """Column -> `[blocks]`; random ones as their mean."""
    lines = {m.columns[i]: m.value[:, i] for i in m.named()}
    if m.random:
        lines[_RANDOM] = m.value[:, list(m.random)].mean(1)
    return lines


def _heat(m: Map) -> Heat:
    """Blocks x columns, random columns as their mean; the last block on top, as data flow upwards."""
    columns = [_visible(m.columns[i]) for i in m.named()]
    most = max(1.0, float(np.nanmax(np.abs(m.value[:, m.named()]), initial=0.0)))
    rows = []
    for block in reversed(range(len(m.value))):
        last = block + m.window - 1
        name = f"block {block}" if m.window == 1 else f"blocks {block}\N{EN DASH}{last}"
        cells = [
            _cell(float(m.value[block, i]), most, f"{name}, {m.columns[i]}: {_said(m, block, i)}",
                  bool(m.estimated[block, i]))
            for i in m.named()
        ]  # fmt: skip
        if m.random:
            drawn = m.value[block, list(m.random)]
            spread = f"{_text(drawn.min())} to {_text(drawn.max())} in {len(drawn)} draws"
            guessed = bool(m.estimated[block, list(m.random)].all())
            said = f"{name}, random as {m.control_of}: {_text(drawn.mean())}, {spread}"
            cells.append(_cell(float(drawn.mean()), most, said, guessed))
        rows.append((name, cells))
    return Heat([*columns, _RANDOM] if m.random else columns, rows)


def _cell(value: float, most: float, said: str, estimated: bool) -> Cell:
    if not np.isfinite(value):
        return Cell("", None)
    text = _text(value, 2)
    return Cell(f"~{text}" if estimated else text, value / most, said)


def _said(m: Map, block: int, column: int) -> str:
    """A value with all that is known of it."""
    low, high = m.low[block, column], m.high[block, column]
    span = "" if np.isnan(low) else f", 95% interval {_text(low)} to {_text(high)}"
    how = " (estimated, not run)" if m.estimated[block, column] else ""
    return f"{_text(m.value[block, column])}{span}{how}"


def _squares(m: Map, block: int, found: Findings) -> dict[str, Any]:
    """A picture under squares tinted by value, of each of its tiles."""
    most = max(1.0, float(np.nanmax(np.abs(m.value), initial=0.0)))
    tiles: dict[int, dict[str, Any]] = {}
    for column, (tile, y, x) in enumerate(m.places):
        value = float(m.value[block, column])
        height, width = (min(m.side, n - at) for n, at in zip(_grid(m, found, tile), (y, x), strict=True))
        one = tiles.setdefault(tile, {"matrix": _matrix(m, found, tile), "squares": []})
        said = f"block {block}, row {y}, column {x}: {_said(m, block, column)}"
        level = min(1.0, abs(value) / most)
        one["squares"].append((x, y, width, height, value < 0, 0.85 * level, said))
    values = np.where(np.isfinite(m.value[block]), m.value[block], -np.inf)
    return {"block": block, "tiles": list(tiles.values()), "most": _text(float(values.max()), 2)}


def _grid(m: Map, found: Findings, tile: int) -> tuple[int, int]:
    height, width = found.tiles[tile]["grid"]
    return int(height), int(width)


def _matrix(m: Map, found: Findings, tile: int) -> str:
    matrix = inverse(found.tiles[tile]["affine"])
    return " ".join(f"{v:.6g}" for v in matrix) if matrix is not None else "1 0 0 1 0 0"


def _tokens(tokens: Sequence[tuple[str, float]]) -> list[tuple[str, str, float]]:
    return [(_visible(token), f"{100 * p:.1f}%", p) for token, p in tokens]


def _visible(text: str) -> str:
    """A token as it is shown: line ends and tabs as signs, nothing but spaces as open boxes."""
    for character, mark in _MARKS.items():
        text = text.replace(character, mark)
    return text if text.strip() else "\N{OPEN BOX}" * max(1, len(text))


def _text(value: float, digits: int = 3) -> str:
    if digits == 2 and np.isfinite(value):
        text = f"{value:.2f}"
        return ("0" if text in ("-0.00", "0.00") else text).replace("-", "\N{MINUS SIGN}")
    return number(float(value))


def _box(where: np.ndarray | None) -> str | None:
    """The box around a region's pixels, as an SVG path."""
    if where is None:
        return None
    ys, xs = np.flatnonzero(where.any(1)), np.flatnonzero(where.any(0))
    height, width = int(ys[-1] - ys[0]) + 1, int(xs[-1] - xs[0]) + 1
    return f"M{xs[0]},{ys[0]}h{width}v{height}h{-width}z"
