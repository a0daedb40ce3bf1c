"""`neuron_page`: what is in a store, and what a few of its neurons respond to, as one HTML file."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from mmxai.errors import ArgumentError
from mmxai.report.cards import card
from mmxai.report.examples import Example, neurons_of
from mmxai.report.html import environment, size
from mmxai.report.pictures import picture_uri

if TYPE_CHECKING:
    from mmxai.store.reader import Store


def neuron_page(
    store: Store,
    sites: Sequence[str],
    units: int | Mapping[str, Sequence[int]],
    out: str | Path,
    images: Callable[[int], Image.Image] | None = None,
    *,
    decode: Callable[[int], str] | None = None,
    top: int = 8,
    title: str = "What is in the store",
    facts: Mapping[str, str] | None = None,
    notes: Mapping[str, Mapping[int, str]] | None = None,
    about: str = "",
) -> Path:
    """Write the page to file `out`, and return its path.

    `units`: how many neurons of each site (those that stand out), or which of each site. `images`:
    sample index -> the original picture; None shows none. `decode`: token id -> its text, with which
    texts are shown token by token. `facts`: further figures for the header, such as rates. `notes`: what
    to say of a neuron, by site and unit. `about`: a paragraph under the title, such as how units were chosen.

    One file without outside resources: about 4 KB a small picture, 8 KB a photograph.
    """
    unknown = [] if isinstance(units, int) else sorted(set(units) - set(sites))
    if unknown or not sites:
        raise ArgumentError(
            f"neuron_page: got sites {list(sites)}, units for {unknown}; expected units of the sites"
        )
    cache: dict[int, str] = {}

    def picture(example: Example) -> str | None:
        """Each picture is encoded once."""
        index = example.sample.sample
        if images is None or example.sample.size is None:
            return None
        if index not in cache:
            cache[index] = picture_uri(images(index))
        return cache[index]

    shown = []
    for name in sites:
        wanted = units if isinstance(units, int) else units.get(name, ())
        found = neurons_of(store, name, wanted, top)
        cards = [(n, [card(e, picture(e), decode) for e in n.examples]) for n in found]
        said = (notes or {}).get(name, {})
        shown.append({"site": store[name], "neurons": cards, "notes": said})
    template = environment().get_template("neurons.html")
    html = template.render(
        title=title,
        about=about,
        facts=dict(facts or {}),
        overview=_overview(store),
        sites=store.values(),
        shown=shown,
    )
    out = Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(html, encoding="utf-8")
    return out


def _overview(store: Store) -> dict[str, str]:
    done, total = store.parts
    return {
        "samples": f"{len(store.samples):,}",
        "rows": f"{sum(len(table) for table in store.rows.values()):,}",
        "sites": f"{len(store):,}",
        "activations": size(sum(site.nbytes for site in store.values())),
        "parts": f"{done:,}" if total is None else f"{done:,} of {total:,}",
    }
