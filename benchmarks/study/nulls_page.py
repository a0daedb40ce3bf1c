"""The tables of what an SAE scores beside its nulls."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.study.markdown import table

Row = dict[str, Any]

COLUMNS = {"sae": "SAE", "pca": "PCA", "frozen": "frozen decoder", "seed": "another seed",
           "untrained": "untrained model"}  # fmt: skip


def nulls(rows: Sequence[Row], docs: Path) -> str:
    return "\n\n".join(map(_one, rows))


def _one(row: Row) -> str:
    figures, shared = row["figures"], row["overlap"]
    columns = [c for c in COLUMNS if c in figures]
    cells = [(name, *(_said(figures[c].get(name)) for c in columns)) for name in figures["sae"]]
    kept = "; ".join(
        f"{name} {_said(r['clean'])} as the model is, {_said(r['spliced'])} with reconstructions, "
        f"{_said(r['mean_ablated'])} with the mean row, {_said(r['zero_ablated'])} with zeros"
        for name, r in row["recovered"].items()
    )
    return "\n\n".join([
        f"`{row['site']}`, {row['latents']:,} latents, k = {row['k']}, over {row['rows']:,} held-out rows "
        f"and {row['samples']:,} held-out pictures:",
        table(("", *(COLUMNS[c] for c in columns)), cells),
        f"Another seed finds {shared['shared']:.0%} of the latents again (mean max cosine "
        f"{_said(shared['mean_max'])}, random directions {_said(shared['chance'])}). A latent without "
        f"meaning would have a monosemanticity of {_said(row['likeness'])}. Of the model: {kept}.",
    ])  # fmt: skip


def _said(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"
