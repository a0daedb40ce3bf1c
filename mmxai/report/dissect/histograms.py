"""The plots that network dissections are shown by: detectors by layer and category, and by label."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from urllib.parse import quote

from mmxai.report.axis import Axis

_LEFT, _RIGHT, _TOP, _KEYS = 44, 12, 14, 22


def by_layer(
    names: Sequence[str],
    counts: Sequence[Mapping[str, int]],
    controls: Mapping[str, Sequence[int | None]],
    colours: Mapping[str, int],
    what: str,
    *,
    keys: bool = False,
) -> str:
    """A bar a layer, stacked by category; a dashed line for each control.

    names: of the layers, as written below the bars. colours: category -> its number, in the order of
    stacking. keys: say above the bars which is which, where no page does.
    """
    totals = [sum(one.values()) for one in counts]
    values = [v for line in controls.values() for v in line if v is not None]
    long = max((len(n) for n in names), default=1)
    turned = long > 3
    below = 20 + (6 * min(long, 24) if turned else 6)
    told, right = _keys(colours, controls) if keys else ([], 0.0)
    width, height = max(440, right, _LEFT + _RIGHT + 30 * len(names)), 190 + below + (_KEYS if keys else 0)
    floor = height - below
    up = Axis(0, max([*totals, *values, 1]) * 1.08, floor, _TOP + (_KEYS if keys else 0))
    parts = [*told, *_rules(up, width)]
    step = min(60, (width - _LEFT - _RIGHT) / max(1, len(names)))
    for i, (name, own) in enumerate(zip(names, counts, strict=True)):
        left, at = _LEFT + (i + 0.15) * step, 0
        for category in colours:
            if n := own.get(category, 0):
                top = up(at + n)
                box = f'x="{left:.1f}" y="{top:.1f}" width="{0.7 * step:.1f}" height="{up(at) - top:.1f}"'
                parts.append(_bar(box, colours[category], f"{name}: {n:,} {what} of {category}"))
                at += n
        parts.append(_name(left + 0.35 * step, floor, name, turned))
    for k, (name, line) in enumerate(controls.items()):
        for i, v in enumerate(line):
            if v is not None:
                left, right = _LEFT + (i + 0.06) * step, _LEFT + (i + 0.94) * step
                parts.append(
                    f'<path class="control k{k % 3}" d="M{left:.1f},{up(v):.1f}H{right:.1f}">'
                    f"<title>{escape(f'{names[i]}, {name}: {v:,} {what}')}</title></path>"
                )
    parts.append(f'<path class="axis" d="M{_LEFT},{floor}H{width - _RIGHT}"/>')
    return _svg(parts, width, height)


def _keys(colours: Mapping[str, int], controls: Mapping[str, object]) -> tuple[list[str], float]:
    """What colours and lines mean, side by side, and where that ends."""
    parts, x = [], float(_LEFT)
    marks = [(n, f'<rect class="part {colour_class(k)}" x="{{}}" y="4" width="10" height="10"/>')
             for n, k in colours.items()]  # fmt: skip
    marks += [
        (n, f'<path class="control k{k % 3}" d="M{{}},9h14"/>') for k, n in enumerate(controls)
    ]  # fmt: skip
    for name, mark in marks:
        parts += [mark.format(f"{x:.1f}"), f'<text x="{x + 18:.1f}" y="13">{escape(name)}</text>']
        x += 28 + 5.6 * len(name)
    return parts, x


def by_label(found: Mapping[str, Mapping[str, int]], colours: Mapping[str, int]) -> str:
    """A bar a label, its detectors, most first within each category: the figure of Bau et al. 2017. A bar
    leads to its label's units in the list of the page."""
    shown = [
        (category, name, n)
        for category in colours
        for name, n in sorted(found.get(category, {}).items(), key=lambda item: -item[1])
    ]
    if not shown:
        return ""
    step = 13 if len(shown) > 24 else 20
    below = 10 + 5.6 * min(26, max(len(name) for _, name, _ in shown))
    width, height = _LEFT + _RIGHT + step * len(shown), 150 + below
    floor = height - below
    up = Axis(0, max(n for *_, n in shown) * 1.08, floor, _TOP)
    parts = _rules(up, width)
    for i, (category, name, n) in enumerate(shown):
        left = _LEFT + (i + 0.12) * step
        box = f'x="{left:.1f}" y="{up(n):.1f}" width="{0.76 * step:.1f}" height="{floor - up(n):.1f}"'
        bar = _bar(box, colours[category], f"{name} ({category}): {n:,} detectors")
        parts.append(f'<a href="#label={quote(name)}">{bar}</a>')
        parts.append(_name(left + 0.38 * step, floor, name, True))
    parts.append(f'<path class="axis" d="M{_LEFT},{floor:.1f}H{width - _RIGHT}"/>')
    return _svg(parts, width, height)


def colour_class(number: int) -> str:
    """Six colours, then the same paler."""
    return f"c{number % 6}" + (f" f{min(number // 6, 3)}" if number >= 6 else "")


def _rules(up: Axis, width: float) -> list[str]:
    parts = []
    for tick in up.ticks(4):
        if tick == int(tick):
            parts.append(f'<path class="rule" d="M{_LEFT},{up(tick):.1f}H{width - _RIGHT}"/>')
            text = f'x="{_LEFT - 6}" y="{up(tick) + 3.5:.1f}" text-anchor="end"'
            parts.append(f"<text {text}>{up.label(tick)}</text>")
    return parts


def _bar(box: str, colour: int, said: str) -> str:
    return f'<rect class="part {colour_class(colour)}" {box}><title>{escape(said)}</title></rect>'


def _name(x: float, floor: float, name: str, turned: bool) -> str:
    short = name if len(name) <= 26 else name[:25] + "…"
    if not turned:
        return f'<text x="{x:.1f}" y="{floor + 16:.1f}" text-anchor="middle">{escape(short)}</text>'
    place = f'transform="translate({x + 3.5:.1f} {floor + 6:.1f}) rotate(-90)" text-anchor="end"'
    return f"<text {place}>{escape(short)}</text>"


def _svg(parts: Sequence[str], width: float, height: float) -> str:
    style = f'style="width: {width:.0f}px"'
    box = f'viewBox="0 0 {width:.0f} {height:.0f}"'
    return f'<svg class="plot" {style} {box} role="img">{"".join(parts)}</svg>'
