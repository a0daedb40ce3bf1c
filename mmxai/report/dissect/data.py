"""Data that pages load when they need it: JSON, each file a script that hands it over.

A page opened from a folder may load scripts but not fetch JSON (browsers let no file read another), so
`data/x.js` is `loaded("data/x",...)`; the same works from any web server.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any


def write_data(out: Path, name: str, value: Any) -> int:
    """Write `out`/`name`.js; returns its bytes."""
    path = out / f"{name}.js"
    path.parent.mkdir(parents=True, exist_ok=True)
    content = script(name, value)
    path.write_bytes(content)
    return len(content)


def script(name: str, value: Any) -> bytes:
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return f"loaded({json.dumps(name)},{text})\n".encode()


def compact(value: float, digits: int = 4) -> float | int | None:
    """So many significant digits, whole numbers without a point; None of what is not finite."""
    value = float(value)
    if not math.isfinite(value):
        return None
    short = float(f"{value:.{digits}g}")
    return int(short) if short == int(short) and abs(short) < 1e15 else short
