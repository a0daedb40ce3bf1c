"""`dissect_pages`: a dissection as a static site, from tens of units to tens of thousands."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from mmxai.errors import ArgumentError
from mmxai.report.dissect.budget import LEAST, LIMIT, plan
from mmxai.report.dissect.exemplars import exemplars
from mmxai.report.dissect.site import Site, first
from mmxai.report.dissect.sprites import FOLDER, Images

if TYPE_CHECKING:
    import pandas

    from mmxai.concepts import Concepts
    from mmxai.methods.dissect.results import Dissections
    from mmxai.store.reader import Store

MARK = ".mmxai-site"
"""A file in every folder that is a site, so that nothing else is ever replaced."""

_OWN = ("data", FOLDER, "sites", "tables", "index.html", "unit.html", "pages.js", "licences.csv")


@dataclass(frozen=True)
class DissectPages:
    """What `dissect_pages` wrote. shown: exemplars of a unit; pictures: how many there are, `side` pixels at
    most; unstated: how many of them nobody states a licence for; limit: the bytes it might take."""

    index: Path
    units: int
    shown: int
    pictures: int
    side: int
    unstated: int
    nbytes: int
    limit: float
    images: bool = field(default=True)

    @property
    def per_units(self) -> float:
        """Bytes that 32,768 units would take at this rate."""
        return self.nbytes / max(1, self.units) * 32_768

    def __str__(self) -> str:
        kept = (
            f"{self.pictures:,} pictures of at most {self.side} pixels a side"
            if self.images
            else "no pictures"
        )
        said = (
            f"{self.units:,} units, {self.shown} exemplars each, {kept}: {self.nbytes / 1e6:.1f} MB of "
            f"at most {self.limit / 1e6:.1f} ({self.per_units / 1e6:.0f} MB for 32,768 units): {self.index}"
        )
        if self.images and self.unstated:
            said += (
                f"\n{self.unstated:,} of the pictures come with no licence (licences.csv); before you "
                "publish them, know that you may, or leave pictures out (--no-images)"
            )
        return said


def dissect_pages(
    found: Dissections,
    store: Store,
    out: str | Path,
    *,
    concepts: Concepts | None = None,
    images: Images | None = None,
    tables: Mapping[str, pandas.DataFrame] | None = None,
    title: str | None = None,
    limit: float | None = None,
    progress: Callable[[str], object] = lambda what: None,
) -> DissectPages:
    """Write a site to the folder `out`: an index, a page a layer, and a page that shows any unit.

    found: what `methods.dissect.dissect` found in `store`. concepts: for the licences of annotations and
    pictures. images: sample index -> the original picture; None: outlines of masks alone. tables: of each
    site its table in the published columns (`methods.dissect.tables.published`), written as CSV and JSON.
    limit: bytes that the site may take (default: 200 MB for 32,768 units, but at least 8 MB): pictures
    become smaller, then fewer, until it fits. progress: is told what is being done.

    It works from a folder as from a web server, and asks nothing of any other place. ArgumentError where
    `out` holds anything that is no site written before.
    """
    if not found.sites or any(one.concepts != first(found).concepts for one in found.sites.values()):
        raise ArgumentError(
            f"dissect_pages: got sites {list(found.sites)} of different concepts, expected sites of one "
            "dissection"
        )
    out = Path(out)
    _clear(out)
    held = {}
    for name, one in found.sites.items():
        progress(f"{name}: outlines of masks")
        heads = found.config.get("heads") if name.endswith(".z") else None
        held[name] = exemplars(one, store, heads=heads, norm_site=found.config.get("norm_site"))
    writer = Site(out, found, store, concepts, images, title or f"Dissection of {store.path.name}")
    units = sum(one.units for one in found.sites.values())
    limit = max(LEAST, LIMIT * units) if limit is None else limit
    for name, frame in (tables or {}).items():
        writer.table(name, frame)
    writer.static()
    chosen = plan(list(held.values()), writer.size, images, lambda shown: writer.used(held, shown), limit)
    writer.pictures(chosen, progress)
    for name in found.sites:
        progress(f"{name}: {found.sites[name].units:,} units")
        writer.units(name, held[name], chosen)
    nbytes = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    return DissectPages(
        out / "index.html", units, chosen.shown, len(chosen.samples), chosen.sheets.side, writer.unstated,
        nbytes, limit, images is not None,
    )  # fmt: skip


def _clear(out: Path) -> None:
    """Make way for a site; of a folder only what was such a site goes."""
    if out.exists() and not (out / MARK).exists() and (not out.is_dir() or any(out.iterdir())):
        raise ArgumentError(
            f"{out}: got a folder that holds other things, expected a new or empty one, or a site that was "
            "written before"
        )
    out.mkdir(parents=True, exist_ok=True)
    (out / MARK).write_text(
        "This folder is written by mmxai dissect, and replaced when it writes here again.\n"
    )
    for name in _OWN:
        path = out / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
