"""`unit_pages`: the units of one site as a folder of static pages, an index and one a unit."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from mmxai.errors import ArgumentError
from mmxai.report.cards import Decode
from mmxai.report.html import environment
from mmxai.report.neurons.entries import Gatherer, Panel
from mmxai.report.neurons.index import Plot, index_page
from mmxai.report.units.folder import clear, write
from mmxai.report.units.gather import Examples
from mmxai.report.units.pictures import PictureFiles
from mmxai.store.permute import Permutation
from mmxai.store.units import Units

if TYPE_CHECKING:
    from mmxai.methods.neurons.results import Neurons
    from mmxai.store.reader import Store

__all__ = ["Panel", "Plot", "UnitPages", "choose", "unit_pages"]


@dataclass(frozen=True)
class UnitPages:
    """What `unit_pages` wrote."""

    index: Path
    units: list[int]
    nbytes: int

    def __str__(self) -> str:
        return f"{len(self.units):,} pages, {self.nbytes / 1e6:.1f} MB: {self.index}"


def choose(found: Neurons, number: int, seed: int = 0) -> tuple[list[int], str]:
    """`number` units at random and, of each label, the one that tells it best; and that in words."""
    drawn = Permutation(found.units, seed)(np.arange(min(number, found.units))).tolist()
    how = f"all {found.units:,}" if number >= found.units else f"{len(drawn)} drawn at random"
    if found.labels is None or number >= found.units:
        return sorted(drawn), how
    best = set(found.labels.best_units().values())
    return sorted({*drawn, *best}), f"{how}, and of each label the {found.kind} that tells it best"


def unit_pages(
    found: Neurons,
    store: Store,
    out: str | Path,
    units: Sequence[int],
    *,
    heads: int | None = None,
    images: Callable[[int], Image.Image] | None = None,
    decode: Decode | None = None,
    panels: Mapping[int, Sequence[Panel]] | None = None,
    plots: Sequence[Plot] = (),
    facts: Mapping[str, str] | None = None,
    how: str = "as asked for",
    title: str | None = None,
    top: int = 16,
    progress: Callable[[], object] | None = None,
) -> UnitPages:
    """Write `out`/index.html and `out`/units/<n>.html for `units` of what `methods.neurons.neurons` found.

    `heads`: as it was found with. `images`: sample index -> the original picture. `decode`: token id -> its
    text. `panels`: further lists of a unit's page, such as what it contributes to. `plots`, `facts`: for the
    index. `how`: how the units were chosen, in words. `progress` is called after each page.
    """
    order = sorted({int(u) for u in units})
    if not order or order[0] < 0 or order[-1] >= found.units or top < 1:
        raise ArgumentError(
            f"unit_pages: got units {order[:4]} ... {order[-4:]}, top={top}; expected some, from 0 to "
            f"{found.units - 1}, and top >= 1"
        )
    read = Units(store, found.site, heads)
    if read.count != found.units:
        raise ArgumentError(
            f"unit_pages: got {found.units} units of {found.site}, which has {read.count} here; give the "
            "heads and the store that it was found with"
        )
    out = Path(out)
    clear(out / "units", order)
    files = PictureFiles(out, images)
    gather = Gatherer(found, Examples(read, files, decode), dict(panels or {}), set(order))
    title = title or f"{found.kind}s of {found.site}"
    template = environment().get_template("unit.html")
    nbytes, gallery = 0, []
    for at, unit in enumerate(order):
        cards = gather.top(unit, top)
        html = template.render(
            title=title,
            kind=found.kind,
            unit=unit,
            note=gather.note(unit),
            previous=order[at - 1] if at else None,
            following=order[at + 1] if at + 1 < len(order) else None,
            figures=gather.figures(unit),
            plots=gather.plots(unit),
            labels=gather.labels(unit),
            told=found.labels,
            panels=gather.panels.get(unit, ()),
            cards=cards,
            bands=gather.bands(unit),
            near=gather.near(unit),
            redundancy=found.redundancy,
        )
        nbytes += write(out / "units" / f"{unit}.html", html)
        gallery.append(gather.entry(unit, cards))
        if progress is not None:
            progress()
    html = index_page(gather, gallery, title=title, how=how, facts=facts or {}, plots=plots)
    nbytes += write(out / "index.html", html)
    files.tidy()
    return UnitPages(out / "index.html", order, nbytes + files.nbytes)
