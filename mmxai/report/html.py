"""What all pages share: the template environment and how figures are written."""

from __future__ import annotations

import functools
import math

import jinja2


@functools.cache
def environment() -> jinja2.Environment:
    made = jinja2.Environment(
        loader=jinja2.PackageLoader("mmxai.report"), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    made.filters |= {"size": size, "number": number, "share": share, "count": count}
    return made


def number(value: float) -> str:
    """Three significant digits; no exponent below a million. A dash where there is none."""
    if value != value:
        return "\N{EN DASH}"
    text = f"{value:.3g}"
    if 999 < abs(value) < 1e6:
        text = f"{float(text):,.0f}"
    return text.replace("-", "\N{MINUS SIGN}")


def count(value: int) -> str:
    return f"{value:,}"


def share(value: float) -> str:
    """A fraction as a percentage that keeps two digits however small it is."""
    if not math.isfinite(value):
        return "none"
    percent = 100 * value
    if percent == 0 or percent >= 10:
        return f"{percent:.0f}%"
    return f"{percent:.1f}%" if percent >= 1 else f"{percent:.2g}%"


def size(nbytes: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if nbytes < 1024:
            return f"{nbytes:.3g} {unit}"
        nbytes /= 1024
    return f"{nbytes:.3g} TiB"
