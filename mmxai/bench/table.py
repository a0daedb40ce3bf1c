"""Figures as text and as the Markdown of the README; typed by nobody."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from mmxai.bench.document import Document, load
from mmxai.bench.figures import Figure
from mmxai.errors import ArgumentError

BEGIN = "<!-- figures: written by python -m benchmarks table --write FILE -->"
BEGIN_TARGETS = "<!-- figures with a target: written by python -m benchmarks table --write FILE -->"
END = "<!-- /figures -->"


def number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def terminal(figures: Sequence[Figure], *, quick: bool = False) -> str:
    """What a run prints. A quick run measured nothing, so it judges nothing."""
    rows = [("figure", "value", "target", "", "measured", "floor")]
    rows += [
        (f.name, number(f.value), f.target or "", "quick" if quick else f.verdict, f.detail, f.floor)
        for f in figures
    ]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def markdown(documents: Iterable[Document], *, targets: bool = False) -> str:
    """A table a case a machine. targets: only of the figures that have one, met or missed."""
    return "\n\n".join(_machine(document, targets) for document in documents)


def _machine(document: Document, targets: bool) -> str:
    m = document["machine"]
    where = f"{m['gpu']}, " if m["gpu"] else ""
    title = f"**{where}{m['cpu']}, {m['cores']} cores, {m['memory_gib']:g} GiB, torch {m['torch']}**"
    tables = (_case(document, case, targets) for case in sorted(document["cases"]))
    return "\n\n".join([title, *(table for table in tables if table)])


def _case(document: Document, case: str, targets: bool) -> str:
    """Empty where it has no figure to show."""
    shown = {
        name: figure
        for name, figure in document["details"].items()
        if figure["case"] == case and (figure["target"] or not targets)
    }
    if not shown:
        return ""
    run = document["cases"][case]
    commit, plus, _ = (run["commit"] or "an installed package").partition("+")
    version = commit[:7] + plus.replace("+", " with changes") if run["commit"] else commit
    lines = [
        f"`{case}`, {run['date']}, {version}, tests {run['tests']}",
        "",
        "| figure | value | target | measured | floor |",
        "|---|---|---|---|---|",
    ]
    for name, figure in shown.items():
        missed = " **missed**" if figure["verdict"] == "MISSED" else ""
        target = (figure["target"] or "reported") + missed
        cells = (f"`{name}`", number(figure["value"]), target, figure["detail"], figure["floor"])
        lines.append(f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |")
    return "\n".join(lines)


def of_folder(folder: Path, *, targets: bool = False) -> str:
    """The tables of every machine whose figures are kept in `folder`."""
    return markdown((load(path) for path in sorted(folder.glob("*.json"))), targets=targets)


def write_between(path: Path, folder: Path) -> None:
    """Put the tables of `folder` between the two marker lines of a Markdown file, whose first says which."""
    text = path.read_text()
    begins = [begin for begin in (BEGIN, BEGIN_TARGETS) if begin in text]
    if len(begins) != 1 or text.count(begins[0]) != 1 or text.count(END) != 1:
        raise ArgumentError(
            f"{path}: expected the lines\n{BEGIN}\n{END}\nonce each, to write tables between (or, for "
            f"the figures with a target alone,\n{BEGIN_TARGETS})"
        )
    (begin,) = begins
    before, rest = text.split(begin)
    if END in before:
        raise ArgumentError(f"{path}: got {END} before {begin}, expected it after")
    table = of_folder(folder, targets=begin == BEGIN_TARGETS)
    path.write_text(f"{before}{begin}\n{table}\n{END}{rest.split(END)[1]}")
