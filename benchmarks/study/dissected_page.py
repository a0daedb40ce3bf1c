"""The tables of what units of networks detect."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.study.markdown import table

Row = dict[str, Any]

CONTROLS = ("rotated", "shuffled", "untrained")


def dissected(rows: Sequence[Row], docs: Path) -> str:
    return "\n\n".join(map(_one, rows))


def _one(row: Row) -> str:
    header = (
        "site", "units", "detectors", "labels", "sure", *(f"{c}: detectors (labels)" for c in CONTROLS),
        "chosen and scored on the same", "shuffled, on the same",
    )  # fmt: skip
    cells = [
        (
            f"`{s['site']}`", f"{s['units']:,}", f"{s['detectors']:,} ({s['detectors'] / s['units']:.0%})",
            f"{s['unique']}", f"{s['sure']:,}",
            *("{} ({})".format(*s["controls"][c]) for c in CONTROLS),
            f"{s['same'][0]:,} ({s['same'][1]})", f"{s['same'][2]:,}",
        )
        for s in row["sites"]
    ]  # fmt: skip
    top = max(row["sites"], key=lambda s: s["detectors"] - s["controls"]["rotated"][0])
    listed = [
        (
            f"{b['unit']}", b["label"], b["category"], f"{b['iou']:.3f}",
            f"{b['low']:.3f} to {b['high']:.3f}", f"{b['ceiling']:.2f}",
        )
        for b in top["best"]
    ]  # fmt: skip
    kinds = "; ".join(
        f"{category}: " + ", ".join(f"{name} {n}" for name, n in labels.items())
        for category, labels in top["by_category"].items()
        if labels
    )
    return "\n\n".join([
        f"### {row['network']}",
        f"{row['pictures']:,} pictures with labels, {row['concepts']} concepts in {len(row['categories'])} "
        f"categories; labels chosen on {row['pictures'] - row['scored']:,} and scored on the other "
        f"{row['scored']:,}.",
        table(header, cells),
        f"Detectors of `{top['site']}` by category: {kinds or 'none'}. Those of highest IoU:",
        table(("unit", "label", "category", "IoU", "95% interval", "ceiling"), listed),
    ])  # fmt: skip
