"""The tables of what units of networks detect."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.study.markdown import table
from mmxai.report.dissect.histograms import by_layer
from mmxai.report.plots import standalone

Row = dict[str, Any]

CONTROLS = ("rotated", "shuffled", "untrained")

_SHOWN = 10  # detectors of a layer, below which a picture shows nothing


def dissected(rows: Sequence[Row], docs: Path) -> str:
    return "\n\n".join(_one(row, docs) for row in rows)


def _one(row: Row, docs: Path) -> str:
    top = max(row["sites"], key=lambda s: (s["unique"] - s["controls"]["rotated"][1], s["detectors"]))
    kinds = "; ".join(
        f"{category}: " + ", ".join(f"{name} {n}" for name, n in labels.items())
        for category, labels in top["by_category"].items()
        if labels
    )
    parts = [
        f"### {row['network']}",
        f"{row['pictures']:,} pictures with labels, {row['concepts']} concepts in {len(row['categories'])} "
        f"categories; labels chosen on {row['pictures'] - row['scored']:,} and scored on the other "
        f"{row['scored']:,}.",
        *_picture(row, docs),
        _sites(row["sites"]),
    ]
    if len(row["categories"]) < 6:
        parts += ["Detectors by category, in brackets those of the rotated and of the untrained control:",
                  _categories(row)]  # fmt: skip
    parts += [f"Detectors of `{top['site']}`: {kinds or 'none'}. Those of highest IoU:", _best(top["best"])]
    return "\n\n".join(parts)


def _picture(row: Row, docs: Path) -> list[str]:
    """Detectors by layer and category, with the controls as lines; of a CLIP its neurons."""
    sites = [s for s in row["sites"] if s["site"].endswith(".mlp_post")] or row["sites"]
    if max(s["detectors"] for s in sites) < _SHOWN:
        return []
    counts = [{c: sum(labels.values()) for c, labels in s["by_category"].items()} for s in sites]
    totals = {c: sum(one[c] for one in counts) for c in row["categories"]}
    order = sorted((c for c in totals if totals[c]), key=lambda c: -totals[c])
    names = [s["site"].removeprefix("module:").removesuffix(".mlp_post") for s in sites]
    names = [name.removeprefix("vision.") for name in names]
    lines = {c: [s["controls"][c][0] for s in sites] for c in CONTROLS}
    svg = by_layer(names, counts, lines, {c: k for k, c in enumerate(order)}, "detectors", keys=True)
    name = f"dissect_{row['network'].lower().replace(' ', '_')}.svg"
    (docs / name).write_text(standalone(svg, styles=["_dissect_plot.css"]))
    return [f"![Detectors of {row['network']} by layer and category, with the controls as lines]({name})"]


def _sites(sites: Sequence[Row]) -> str:
    header = ("site", "units", "detectors", "labels", "sure", *CONTROLS, "beyond rotated", "beyond untrained",
              "on the same", "shuffled on the same")  # fmt: skip
    cells = [
        (
            f"`{s['site']}`", f"{s['units']:,}", f"{s['detectors']:,} ({s['detectors'] / s['units']:.0%})",
            f"{s['unique']}", f"{s['sure']:,}", *("{:,} ({})".format(*s["controls"][c]) for c in CONTROLS),
            f"{s['beyond']['rotated']:,}", f"{s['beyond']['untrained']:,}",
            "{:,} ({})".format(*s["same"]), f"{s['same'][2]:,}",
        )
        for s in sites
    ]  # fmt: skip
    return table(header, cells)


def _categories(row: Row) -> str:
    cells = [
        (
            f"`{s['site']}`",
            *(
                f"{sum(s['by_category'][c].values()):,} ({s['controls_by_category']['rotated'][c]:,}, "
                f"{s['controls_by_category']['untrained'][c]:,})"
                for c in row["categories"]
            ),
        )
        for s in row["sites"]
    ]
    return table(("site", *row["categories"]), cells)


def _best(units: Sequence[Row]) -> str:
    cells = [
        (
            f"{b['unit']}", b["label"], b["category"], f"{b['iou']:.3f}",
            f"{b['low']:.3f} to {b['high']:.3f}", f"{b['ceiling']:.2f}",
        )
        for b in units
    ]  # fmt: skip
    return table(("unit", "label", "category", "IoU", "95% interval", "ceiling"), cells)
