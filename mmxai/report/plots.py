"""Small plots as SVG inside a page: they take its colours, scale with it, and name every bar on pointing."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from html import escape

import numpy as np

from mmxai.errors import ArgumentError
from mmxai.report.axis import Axis, tick_label
from mmxai.report.html import environment, number

WIDTH, HEIGHT = 340, 175
WIDE = 540, 215  # a plot that has half a page
_LEFT, _RIGHT, _TOP, _BOTTOM = 50, 14, 12, 34
_BINS = 240  # points of a curve; longer ones show the mean and the range of what falls between


def curves(
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    *,
    x: str = "step",
    log: bool = False,
    zero: bool = False,
    bands: Mapping[str, tuple[Sequence[float], Sequence[float]]] | None = None,
) -> str:
    """Lines over `x`, one a series of (x, y); values that are not finite are left out.

    bands: of a series what to draw behind it, low and high at each of its x (an interval).

    Long series are drawn as the mean of neighbouring points, with their range as a band. `log`: a logarithmic
    vertical axis, of the positive values, where they span a factor of 10 at least (of less it has no ticks).
    `zero`: 0 is on the vertical axis, so that small changes look small.
    """
    drawn = {name: _thinned(*points, log=log) for name, points in series.items()}
    for name, (least, most) in (bands or {}).items():
        if np.isfinite([least, most]).all() and drawn[name].shape[1] == len(least):
            drawn[name][2:] = least, most
    every = np.concatenate(list(drawn.values()), 1) if drawn else np.zeros((4, 0))
    if not every.shape[1]:
        return _svg([_text(WIDTH / 2, HEIGHT / 2, "no values", "middle")])
    low, high = float(every[2].min()), float(every[3].max())
    if zero:
        low, high = min(low, 0.0), max(high, 0.0)
    log = log and high >= 10 * low
    if high == low:
        low, high = low - (abs(low) or 1) / 2, high + (abs(high) or 1) / 2
    across = Axis(float(every[0].min()), float(every[0].max()), _LEFT, WIDTH - _RIGHT)
    up = Axis(low, high, HEIGHT - _BOTTOM, _TOP, log)
    parts = _frame(across, up, x)
    for i, (name, points) in enumerate(drawn.items()):  # an empty one keeps its colour from the next
        if not points.shape[1]:
            continue
        at = [across(v) for v in points[0]]
        mean, least, most = ([up(v) for v in row] for row in points[1:])
        if max(b - a for a, b in zip(most, least, strict=True)) > 1:
            band = _path(at, most) + "L" + _path(at[::-1], least[::-1])[1:] + "Z"
            parts.append(f'<path class="band c{i % 6}" d="{band}"/>')
        title = f"{name}: {number(points[1][-1])} at the end"
        parts.append(
            f'<path class="line c{i % 6}" d="{_path(at, mean)}"><title>{escape(title)}</title></path>'
        )
        parts.append(f'<circle class="dot c{i % 6}" cx="{at[-1]:.1f}" cy="{mean[-1]:.1f}" r="2.5"/>')
    return _svg(parts)


def front(
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]], *, x: str, y: str, log_y: bool = False
) -> str:
    """What each of several methods reaches: a dot a run at (x, y), both above 0, joined by a line a method.

    `x` is logarithmic, as L0 or sizes are; names stand in the upper right, which such a front leaves free.
    """
    runs = {
        name: np.array(sorted(zip(*xy, strict=True)), np.float64).reshape(-1, 2)
        for name, xy in series.items()
    }
    every = np.concatenate(list(runs.values())) if runs else np.zeros((0, 2))
    if not len(every) or not (np.isfinite(every) & (every > 0)).all():
        raise ArgumentError(f"front: got {len(every)} points, expected some, finite and above 0")
    low, high = _padded(np.log10(every[:, 0]))
    across = Axis(10.0**low, 10.0**high, _LEFT, WIDE[0] - _RIGHT, True)
    low, high = _padded(np.log10(every[:, 1])) if log_y else (0, 1.05 * every[:, 1].max())
    up = Axis(10.0**low if log_y else low, 10.0**high if log_y else high, WIDE[1] - _BOTTOM, _TOP, log_y)
    parts = _frame(across, up, x, y=y, size=WIDE)
    for i, (name, points) in enumerate(runs.items()):
        at, level = [across(v) for v in points[:, 0]], [up(v) for v in points[:, 1]]
        parts.append(f'<path class="line c{i % 6}" d="{_path(at, level)}"/>')
        for a, b, (u, v) in zip(at, level, points, strict=True):
            said = f"{name}: {y} {number(v)} at {x} {number(u)}"
            dot = f'<circle class="dot c{i % 6}" cx="{a:.1f}" cy="{b:.1f}" r="3">'
            parts.append(f"{dot}<title>{escape(said)}</title></circle>")
        line = _TOP + 9 + 14 * i
        parts.append(f'<circle class="dot c{i % 6}" cx="{WIDE[0] - _RIGHT - 5}" cy="{line - 4}" r="3"/>')
        parts.append(_text(WIDE[0] - _RIGHT - 14, line, name, "end"))
    return _svg(parts, WIDE)


def standalone(svg: str, width: int = 620, styles: Sequence[str] = ()) -> str:
    """A plot as the text of an .svg file that stands alone, light or dark as its reader's screen is.

    `styles`: further style sheets among the templates."""
    head, _, body = svg.partition(">")
    sheets = ("_palette.css", "_plot.css", *styles)
    style = "".join(environment().get_template(name).render() for name in sheets)
    own = f"svg {{ width: {width}px; font-family: system-ui, sans-serif; }}"
    return f'{head} xmlns="http://www.w3.org/2000/svg" width="{width}"><style>{style}{own}</style>{body}\n'


def histogram(
    edges: Sequence[float],
    counts: Sequence[int],
    *,
    x: str,
    log_x: bool = False,
    log_counts: bool = False,
    label: Callable[[float], str] = tick_label,
    marks: Mapping[str, float] | None = None,
    size: tuple[int, int] = (WIDTH, HEIGHT),
) -> str:
    """Bars of `counts` between `edges` (one more). A logarithmic axis of counts begins at 0.8.

    `label`: how values are written. `marks`: name -> where a dashed line stands.
    """
    most, (width, height) = max([*counts, 1]), size
    floor = height - _BOTTOM
    across = Axis(edges[0], edges[-1], _LEFT, width - _RIGHT, log_x, label)
    low, high = (0.8, most * 1.3) if log_counts else (0, most * 1.05)
    up = Axis(low, high, floor, _TOP, log_counts)
    parts = _frame(across, up, x, size=size)
    for i, n in enumerate(counts):
        if n:
            a, b, top = across(edges[i]), across(edges[i + 1]), up(n)
            said = f"{n:,} from {label(edges[i])} to {label(edges[i + 1])}"
            parts.append(
                f'<rect class="bar" x="{a + 0.4:.1f}" y="{top:.1f}" width="{max(0.6, b - a - 0.8):.1f}" '
                f'height="{max(0.0, floor - top):.1f}"><title>{escape(said)}</title></rect>'
            )
    for name, value in (marks or {}).items():
        at = across(min(max(value, edges[0]), edges[-1]))
        left = at > width * 0.7
        parts.append(f'<path class="mark" d="M{at:.1f},{_TOP}V{floor}"/>')
        parts.append(_text(at - 4 if left else at + 4, _TOP + 9, name, "end" if left else "start"))
    return _svg(parts, size)


def cloud(
    x: np.ndarray,
    y: np.ndarray,
    *,
    names: tuple[str, str],
    label: Callable[[float], str] = tick_label,
    links: Mapping[int, tuple[str, str]] | None = None,
    what: str = "latents",
) -> str:
    """Points (`x`, `y` `[N]`, above 0) as counts on a grid of logarithmic axes, those of `links` as dots.

    `label`: how values of `x` are written. `links`: index of a point -> (address, name). `what`: what points
    are, in the plural.
    """
    width, height = WIDE
    keep = np.isfinite(x) & np.isfinite(y) & (x > 0) & (y > 0)
    if not keep.any():
        return _svg([_text(width / 2, height / 2, f"no {what} to show", "middle")], WIDE)
    ranges = [_padded(np.log10(v[keep])) for v in (x, y)]
    counts, *edges = np.histogram2d(
        np.log10(x[keep]), np.log10(y[keep]), bins=(width // 6, height // 7), range=ranges
    )
    (left, right), (low, high) = [(10.0**a, 10.0**b) for a, b in ranges]
    across = Axis(left, right, _LEFT, width - _RIGHT, True, label)
    up = Axis(low, high, height - _BOTTOM, _TOP, True)
    parts = _frame(across, up, names[0], y=names[1], size=WIDE)
    xs, ys = ([axis(10.0**e) for e in one] for axis, one in zip((across, up), edges, strict=True))
    for i, j in zip(*np.nonzero(counts), strict=True):
        strength = 0.12 + 0.6 * math.log1p(counts[i, j]) / math.log1p(counts.max())
        parts.append(
            f'<rect class="bar" x="{xs[i]:.1f}" y="{ys[j + 1]:.1f}" width="{xs[i + 1] - xs[i]:.1f}" '
            f'height="{ys[j] - ys[j + 1]:.1f}" opacity="{strength:.2f}">'
            f"<title>{int(counts[i, j]):,} {what}</title></rect>"
        )
    for index, (address, name) in (links or {}).items():
        if keep[index]:
            parts.append(
                f'<a href="{escape(address)}"><circle class="pick" cx="{across(x[index]):.1f}" '
                f'cy="{up(y[index]):.1f}" r="3"><title>{escape(name)}</title></circle></a>'
            )
    return _svg(parts, WIDE)


def cells(counts: np.ndarray) -> str:
    """Counts `[h, w]` as a grid of squares, the most frequent cell the strongest."""
    most, (height, width) = max(int(counts.max(initial=0)), 1), counts.shape
    parts = [
        f'<rect class="bar" x="{x}" y="{y}" width="1" height="1" opacity="{0.05 + 0.95 * n / most:.2f}">'
        f"<title>{n:,} rows at cell {y}, {x}</title></rect>"
        for (y, x), n in np.ndenumerate(counts)
    ]
    return f'<svg class="plot cells" viewBox="0 0 {width} {height}" role="img">{"".join(parts)}</svg>'


def heat(values: np.ndarray) -> str:
    """Means `[h, w]` as a grid of squares, the largest the strongest, the smallest the faintest."""
    low, high, (height, width) = float(values.min()), float(values.max()), values.shape
    parts = [
        f'<rect class="bar" x="{x}" y="{y}" width="1" height="1" '
        f'opacity="{0.05 + 0.95 * (v - low) / ((high - low) or 1):.2f}">'
        f"<title>{number(float(v))} on average at cell {y}, {x}</title></rect>"
        for (y, x), v in np.ndenumerate(values)
    ]
    return f'<svg class="plot cells" viewBox="0 0 {width} {height}" role="img">{"".join(parts)}</svg>'


def _frame(
    across: Axis, up: Axis, x: str, *, y: str = "", size: tuple[int, int] = (WIDTH, HEIGHT)
) -> list[str]:
    """Grid lines, tick labels and the axes' names."""
    width, height = size
    floor = height - _BOTTOM
    parts = []
    for tick in up.ticks(4):
        at = up(tick)
        parts.append(f'<path class="rule" d="M{_LEFT},{at:.1f}H{width - _RIGHT}"/>')
        parts.append(_text(_LEFT - 6, at + 3.5, up.label(tick), "end"))
    for tick in across.ticks(6):
        at = across(tick)
        parts.append(f'<path class="rule" d="M{at:.1f},{floor}v4"/>')
        parts.append(_text(at, floor + 15, across.label(tick), "middle"))
    parts.append(f'<path class="axis" d="M{_LEFT},{floor}H{width - _RIGHT}"/>')
    parts.append(_text((_LEFT + width - _RIGHT) / 2, height - 4, x, "middle"))
    if y:
        turned = f'transform="rotate(-90)" x="{-(floor + _TOP) / 2:.0f}" y="10" text-anchor="middle"'
        parts.append(f"<text {turned}>{escape(y)}</text>")
    return parts


def _thinned(x: Sequence[float], y: Sequence[float], *, log: bool) -> np.ndarray:
    """`[4, n]`: x, mean, least and most of y, over runs of neighbouring points."""
    points = np.array([x, y], np.float64)
    points = points[:, np.isfinite(points).all(0) & ((points[1] > 0) | (not log))]
    groups = np.array_split(points, min(_BINS, max(1, points.shape[1])), axis=1)
    found = [[g[0, -1], g[1].mean(), g[1].min(), g[1].max()] for g in groups if g.shape[1]]
    return np.array(found).T if found else np.zeros((4, 0))


def _padded(values: np.ndarray) -> tuple[float, float]:
    low, high = float(values.min()), float(values.max())
    space = 0.04 * (high - low) or 0.5
    return low - space, high + space


def _path(x: Sequence[float], y: Sequence[float]) -> str:
    return "M" + "L".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True))


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _svg(parts: Sequence[str], size: tuple[int, int] = (WIDTH, HEIGHT)) -> str:
    return f'<svg class="plot" viewBox="0 0 {size[0]} {size[1]}" role="img">{"".join(parts)}</svg>'
