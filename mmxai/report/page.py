"""`neuron_page`: what is in a store, and what a few of its neurons respond to, as one HTML file."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
from PIL import Image

from mmxai.errors import ArgumentError
from mmxai.report.examples import Example, neurons_of
from mmxai.report.pictures import heat_uri, inverse, outline, picture_uri

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
        cards = [(n, [_card(e, picture(e), decode) for e in n.examples]) for n in found]
        said = (notes or {}).get(name, {})
        shown.append({"site": store[name], "neurons": cards, "notes": said})
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("mmxai.report"), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {"size": _size, "number": _number}
    html = environment.get_template("neurons.html").render(
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
        "activations": _size(sum(site.nbytes for site in store.values())),
        "parts": f"{done:,}" if total is None else f"{done:,} of {total:,}",
    }


def _card(example: Example, picture: str | None, decode: Callable[[int], str] | None) -> dict[str, Any]:
    """What the template shows of an example: picture, veil and outline, or text and its tokens."""
    sample = example.sample
    card: dict[str, Any] = {
        "example": example,
        "sample": sample,
        "picture": None,
        "where": example.kind if example.cell is None else f"cell {example.cell[0]}, {example.cell[1]}",
        "tokens": [],
    }
    if example.tokens:
        card["where"] = f"token {example.position}"
        if decode is not None:
            card["tokens"] = [(decode(t.token_id), round(100 * t.level), t.top) for t in example.tokens]
        return card
    if picture is None:
        return card
    card |= {"picture": picture, "heat": None, "outline": None, "matrix": None, "seen": None}
    matrix = None if example.tile is None else inverse(example.tile["affine"])
    if example.tile is not None and matrix is not None:
        card["matrix"] = " ".join(f"{v:.6g}" for v in matrix)
        card["seen"] = _points(outline(matrix, 0, 0, *example.tile["grid"]))
        if example.cell is not None:
            card["outline"] = _points(outline(matrix, *example.cell))
        if example.heat is not None:
            card |= {"heat": heat_uri(example.heat), "grid": example.heat.shape}
    return card


def _points(corners: list[tuple[float, float]]) -> str:
    return " ".join(f"{x:.6g},{y:.6g}" for x, y in corners)


def _number(value: float) -> str:
    return f"{value:.3g}".replace("-", "\N{MINUS SIGN}")


def _size(nbytes: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if nbytes < 1024:
            return f"{nbytes:.3g} {unit}"
        nbytes /= 1024
    return f"{nbytes:.3g} TiB"
