"""`dictionary_pages`: an index with the comparison of all dictionaries, and a page a dictionary."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup
from PIL import Image

from mmxai.errors import ArgumentError
from mmxai.report import plots
from mmxai.report.cards import Decode
from mmxai.report.examples import between
from mmxai.report.html import environment
from mmxai.report.units.folder import write
from mmxai.report.units.gather import Examples
from mmxai.report.units.pictures import PictureFiles
from mmxai.store.units import Units

if TYPE_CHECKING:
    from mmxai.methods.decompose.run import DecomposeReport
    from mmxai.models.near_texts import NearTexts
    from mmxai.store.reader import Store
    from mmxai.store.site_stats import SiteStats

_SEARCHED = 2000  # characters of captions that a search looks at


@dataclass(frozen=True)
class DictionaryPages:
    """Where the index is, and bytes written."""

    index: Path
    pages: int
    nbytes: int

    def __str__(self) -> str:
        return f"{self.pages} dictionaries, {self.nbytes / 1e6:.1f} MB: {self.index}"


def dictionary_pages(
    report: DecomposeReport,
    codes: Store,
    out: str | Path,
    *,
    images: Callable[[int], Image.Image] | None = None,
    decode: Decode | None = None,
    texts: Mapping[str, NearTexts] | None = None,
    units: int = 64,
    top: int = 6,
    title: str | None = None,
) -> DictionaryPages:
    """Write `out`/index.html and `out`/<kind>.html.

    `codes`: the store that `methods.decompose.encode_store` made of the report's dictionaries. `images`:
    sample index -> the original picture; None shows none. `decode`: token id -> its text. `texts`: by kind,
    nearest texts of its directions. `units`: the first so many of each dictionary are shown, with `top`
    samples each.
    """
    if units < 1 or top < 1:
        raise ArgumentError(f"dictionary_pages: got units={units}, top={top}, expected at least 1")
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    title = title or f"Dictionaries of {report.comparison.site}"
    files = PictureFiles(out, images)
    nbytes = 0
    for kind in report.dictionaries:
        site = f"{report.comparison.site}.{kind}"
        gather = Examples(Units(codes, site), files, decode, up="")
        entries = [
            _entry(report, gather, codes.stats[site], kind, unit, top, (texts or {}).get(kind))
            for unit in range(min(units, codes[site].width))
        ]
        html = environment().get_template("decompose_kind.html")
        nbytes += write(
            out / f"{kind}.html",
            html.render(
                title=title, kind=kind, line=report.comparison.lines[kind], entries=entries,
                names=report.names.get(kind, []), texts=(texts or {}).get(kind),
                rows=len(codes[site]), units=codes[site].width,
            ),
        )  # fmt: skip
    index = out / "index.html"
    nbytes += write(
        index,
        environment()
        .get_template("decompose_index.html")
        .render(
            title=title,
            comparison=report.comparison,
            kinds=list(report.dictionaries),
            front=Markup(_front(report)),
        ),
    )
    return DictionaryPages(index, len(report.dictionaries), nbytes + files.nbytes)


def _front(report: DecomposeReport) -> str:
    """FVU against the units kept of each row; where a dictionary uses fewer of its own, the line ends there.

    Points above 1 are left out: few units of a code that was made for all of them together, as semi-NMF's,
    may be a hundred times worse than the mean row, and would press all else into a corner.
    """
    series = {}
    for name, line in report.comparison.lines.items():
        points = {n: v for n, v in line.kept.items() if n < line.l0} | {line.l0: line.fvu}
        shown = {n: v for n, v in points.items() if n > 0 and 0 < v <= 1}  # the axes are logarithmic
        if shown:
            series[name] = (list(shown), list(shown.values()))
    return plots.front(series, x="units kept of each row", y="FVU", log_y=True) if series else ""


def _entry(
    report: DecomposeReport,
    gather: Examples,
    stats: SiteStats,
    kind: str,
    unit: int,
    top: int,
    texts: NearTexts | None,
) -> dict[str, Any]:
    """What a template shows of one unit; of kinds with both signs the low end as well."""
    high, low = float(stats.max[unit]), float(stats.min[unit])
    values, rows = stats.topk_values[unit], stats.topk_rows[unit]
    there = (rows >= 0) & (values > 0)
    cards = gather.cards(unit, rows[there].tolist(), values[there].tolist(), top, between(0, high))
    lowest: list[dict[str, Any]] = []
    if low < 0 and stats.bottom_values is not None and stats.bottom_rows is not None:
        values, rows = stats.bottom_values[unit], stats.bottom_rows[unit]
        there = (rows >= 0) & (values < 0)
        fall = between(0, -low)
        lowest = gather.cards(unit, rows[there].tolist(), values[there].tolist(), top, lambda x: fall(-x))
    near = None
    if texts is not None and unit in texts.units:
        near = texts.of(unit)[:3]
    note = report.notes(kind).get(unit, "")
    shown = [*cards, *lowest]
    words = [note, *(t.text for t in near or ()), *(c["sample"].text for c in shown)]
    return {
        "unit": unit,
        "note": note,
        "near": near,
        "high": high,
        "low": low,
        "positive": float(stats.positive[unit]),
        "std": float(stats.std[unit]),
        "ends": [(name, made) for name, made in (("high", cards), ("low", lowest)) if made],
        "search": " ".join(w for w in words if w).lower()[:_SEARCHED],
    }
