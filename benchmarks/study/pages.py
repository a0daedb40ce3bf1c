"""What the studies found, as a plot and tables between marker lines of pages in docs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from benchmarks.study import dissected_page, nulls_page, traced_page
from benchmarks.study.markdown import table
from mmxai.errors import ArgumentError
from mmxai.report.plots import front, standalone
from mmxai.results import number

Row = dict[str, Any]

NAMES = {"topk": "TopK", "batchtopk": "BatchTopK", "matryoshka": "Matryoshka", "jumprelu": "JumpReLU",
         "relu": "ReLU", "pca": "PCA"}  # fmt: skip


def fronts(rows: Sequence[Row], docs: Path) -> str:
    series: dict[str, tuple[list[float], list[float]]] = {}
    for row in rows:
        xs, ys = series.setdefault(NAMES[row["arch"]], ([], []))
        xs.append(row["l0"])
        ys.append(row["fvu"])
    (docs / "sae_fronts.svg").write_text(standalone(front(series, x="L0", y="FVU")))
    header = ("architecture", "L0", "FVU", "dead", "cosine")
    cells = [
        (NAMES[r["arch"]], f"{r['l0']:.1f}", f"{r['fvu']:.4f}", f"{r['dead']:.1%}", f"{r['cosine']:.4f}")
        for r in rows
    ]
    return "![FVU against L0, a line an architecture](sae_fronts.svg)\n\n" + table(header, cells)


def stores(rows: Sequence[Row], docs: Path) -> str:
    exact = {r["site"]: mean(r["fvu"]) for r in rows if r["store"] == "float32"}
    cells = []
    for r in rows:
        fvu = mean(r["fvu"])
        both = ", ".join(f"{v:.4f}" for v in r["fvu"])
        change = f"{fvu / exact[r['site']] - 1:+.2%}"
        cells.append((f"`{r['site']}`", r["store"], f"{r['bytes']:,.0f}", f"{fvu:.4f}", both, change))
    return table(("site", "store", "bytes a row", "FVU", "two seeds", "against float32"), cells)


def transcoders(rows: Sequence[Row], docs: Path) -> str:
    cells = [
        (str(r["block"]), f"{r['fvu']:.4f}", f"{r['linear']:.4f}", f"{r['l0']:.1f}", f"{r['dead']:.1%}")
        for r in rows
    ]
    return table(("block", "FVU", "of the best linear map", "L0", "dead"), cells)


def dead(rows: Sequence[Row], docs: Path) -> str:
    cells = [(r["aux"], f"{r['fvu']:.4f}", f"{r['dead']:.1%}", f"{r['l0']:.1f}") for r in rows]
    return table(("AuxK, dead after", "FVU", "never active", "L0"), cells)


def real(rows: Sequence[Row], docs: Path) -> str:
    (docs / "cards").mkdir(exist_ok=True)
    for row in rows:
        (docs / "cards" / f"{row['model']}.md").write_text(row["card"])
    cells = [
        (r["model"], of, *(number(values.get(name)) for name in ("FVU", "L0", "dead", "loss recovered")))
        for r in rows
        for of, values in r["figures"].items()
    ]
    return table(("model", "of", "FVU", "L0", "dead", "loss recovered"), cells)


PAGES = {
    "fronts": fronts,
    "stores": stores,
    "transcoders": transcoders,
    "dead": dead,
    "nulls": nulls_page.nulls,
    "real": real,
    "dissected": dissected_page.dissected,
    "traced": traced_page.traced,
}


def write_between(path: Path, part: str, text: str) -> None:
    """Puts `text` between the part's two marker lines of a Markdown file."""
    begin, end = f"<!-- study {part}: written by python -m benchmarks.study -->", f"<!-- /study {part} -->"
    whole = path.read_text()
    if whole.count(begin) != 1 or whole.count(end) != 1:
        raise ArgumentError(f"{path}: expected the lines\n{begin}\n{end}\nonce each, to write between")
    before, rest = whole.split(begin)
    path.write_text(f"{before}{begin}\n{text}\n{end}{rest.split(end)[1]}")
