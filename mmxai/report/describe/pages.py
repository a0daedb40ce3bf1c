"""`describe_pages`: a description as a folder of static pages."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup
from PIL import Image

from mmxai.errors import ArgumentError
from mmxai.report import plots
from mmxai.report.html import environment, number
from mmxai.report.units.folder import file_of, write
from mmxai.report.units.pictures import PictureFiles

if TYPE_CHECKING:
    from mmxai.methods.describe.results import Description, Descriptions
    from mmxai.store.reader import Store

MOST = 4096
"""Units of a layer's page, at most: some 8 MB, which a browser still searches at once."""

_PICTURES = 6
_BARS = 40


@dataclass(frozen=True)
class DescribePages:
    """What `describe_pages` wrote."""

    index: Path
    units: int
    nbytes: int

    def __str__(self) -> str:
        return f"{self.units:,} units, {self.nbytes / 1e6:.1f} MB: {self.index}"


def describe_pages(
    found: Descriptions,
    store: Store,
    out: str | Path,
    *,
    images: Callable[[int], Image.Image] | None = None,
    most: int = MOST,
    progress: Callable[[str], object] = lambda what: None,
) -> DescribePages:
    """Write `out`/index.html and `out`/layers/<site>.html, of what `methods.describe.describe` found.

    images: sample index -> the original picture; None shows none. most: units of a layer's page, those whose
    words correlate best. progress: is told what is being done.
    """
    if most < 1:
        raise ArgumentError(f"describe_pages: got most={most}, expected at least 1")
    out = Path(out)
    layers = out / "layers"
    layers.mkdir(parents=True, exist_ok=True)
    for left in layers.glob("*.html"):  # of another run, which would show other units
        left.unlink()
    files = PictureFiles(out, images)
    units = nbytes = 0
    for name, one in found.sites.items():
        progress(f"{name}: pages")
        shown = chosen(one, most)
        html = environment().get_template("describe_layer.html").render(
            title=f"Words for {name}", one=one, figures=_figures(one), about=found.about,
            plot=_plot(one), tests=_tests(one), units=list(_entries(one, shown, store, files)),
            how=f"all {one.units:,}" if len(shown) == one.units
            else f"the {len(shown):,} of {one.units:,} whose words correlate best",
        )  # fmt: skip
        nbytes += write(layers / f"{file_of(name)}.html", html)
        units += len(shown)
    html = environment().get_template("describe_index.html").render(
        title=f"Words for the units of {store.path.name}", about=found.about, notes=found.notes,
        rows=[_row(name, one) for name, one in found.sites.items()],
    )  # fmt: skip
    nbytes += write(out / "index.html", html)
    return DescribePages(out / "index.html", units, nbytes + files.nbytes)


def chosen(one: Description, most: int) -> list[int]:
    """Units that are shown, those whose words correlate best first, those without a word last."""
    order = np.argsort(-np.nan_to_num(one.correlation[:, 0], nan=-2), kind="stable")
    return order[:most].tolist()


def _entries(
    one: Description, shown: list[int], store: Store, files: PictureFiles
) -> Iterator[dict[str, Any]]:
    by_score, by_correlation = one.beaten()
    named = one.named()
    for unit in shown:
        words = [
            {"word": one.words[k], "score": float(score), "r": _known(r)}
            for k, score, r in zip(
                one.index[unit].tolist(), one.score[unit], one.correlation[unit], strict=True
            )
            if k >= 0
        ]
        pictures = []
        pairs = zip(one.top_samples[unit].tolist(), one.top_values[unit].tolist(), strict=True)
        for sample, value in list(pairs)[:_PICTURES]:
            held = store.samples[sample]
            if (address := files.address(held, "../")) is not None:
                pictures.append({"address": address, "sample": held, "value": float(value)})
        yield {
            "unit": unit, "words": words, "named": bool(named[unit]), "fired": int(one.fired[unit]),
            "null_score": _known(by_score[unit]), "null_r": _known(by_correlation[unit]),
            "pictures": pictures, "constant": bool(one.constant[unit]),
            "search": " ".join([str(unit), *(w["word"] for w in words)]).lower(),
        }  # fmt: skip


def _figures(one: Description) -> dict[str, str]:
    scored = "held out" if one.held_out else "that words were chosen on"
    shown = {"units": f"{one.units:,} {one.kind}s", "constant": f"{int(one.constant.sum()):,}"}
    if len(one.null):
        live = int((~one.constant).sum())
        shown["beyond chance"] = f"{int(one.named().sum()):,}; {0.05 * live:.0f} by chance"
    shown[f"correlation on {one.scored:,} pictures {scored}"] = _written(one.correlation[:, 0])
    if one.null_correlation.size and one.held_out:
        shown["of words chosen on permuted pictures"] = _written(one.null_correlation)
    return shown


def _row(name: str, one: Description) -> dict[str, Any]:
    return {
        "site": name, "page": f"layers/{file_of(name)}.html", "units": f"{one.units:,} {one.kind}s",
        "named": int(one.named().sum()) if len(one.null) else None, "constant": int(one.constant.sum()),
        "mean": _mean(one.correlation[:, 0]), "chance": _mean(one.null_correlation), "how": one.how,
    }  # fmt: skip


def _plot(one: Description) -> Markup:
    """Correlations of the units' words, and the mean of those chosen on permuted pictures."""
    values = one.correlation[:, 0]
    values = values[np.isfinite(values)]
    if not len(values):
        return Markup("")
    counts, edges = np.histogram(values, _BARS)
    marks: Mapping[str, float] = {}
    if (chance := _mean(one.null_correlation)) is not None:
        marks = {"permuted pictures": chance}
    return Markup(plots.histogram(edges.tolist(), counts.tolist(), x="simulation correlation", marks=marks))


def _tests(one: Description) -> list[dict[str, Any]]:
    return [
        {k: _known(v) if isinstance(v, float) else v for k, v in row.items()}
        for row in one.tests().to_dict("records")
    ]


def _written(values: np.ndarray) -> str:
    mean = _mean(values)
    return "–" if mean is None else number(mean)


def _mean(values: np.ndarray) -> float | None:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else None


def _known(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
