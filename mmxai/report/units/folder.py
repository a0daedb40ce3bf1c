"""A folder of pages, one a unit."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path


def file_of(site: str) -> str:
    """A site's name as a file's."""
    return re.sub(r"[^\w.-]", "_", site)


def clear(folder: Path, units: Sequence[int]) -> None:
    """Remove pages of other units: one that stays from another call would show other pictures.

    The index beside `folder` goes first, for it leads to them; it is written last.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder.parent / "index.html").unlink(missing_ok=True)
    kept = {f"{unit}.html" for unit in units}
    for page in folder.glob("*.html"):
        if page.stem.isdecimal() and page.name not in kept:
            page.unlink()


def write(path: Path, html: str) -> int:
    """Write a page; returns its bytes."""
    content = html.encode("utf-8")
    path.write_bytes(content)
    return len(content)
