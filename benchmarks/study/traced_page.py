"""The tables of where the shapes LLaVA keeps a colour."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.study.markdown import table

Row = dict[str, Any]

ANSWERED = {"clean": "the picture", "other": "the same with the object's colour changed", "both": "both"}
KIND = {
    "resid_post": "Restored in the vision tower, after each of the blocks that the language tower reads",
    "resid_pre": "Restored in the language tower, the residual stream before each block",
    "attn_out": "Restored in the language tower, what the block's attention adds",
    "mlp_out": "Restored in the language tower, what the block's MLP adds",
}


def traced(rows: Sequence[Row], docs: Path) -> str:
    answered = [r for r in rows if r["what"] == "answered"]
    logits = {r["of"]: r for r in rows if r["what"] == "logits"}
    parts = [
        "Asked for the colour of the object, the model answers rightly on",
        table(("", "share", "pairs"), [(ANSWERED[r["of"]], percent(r), f"{r['n']}") for r in answered]),
        f"The first {logits['clean']['pairs']} pairs that are answered rightly on both are traced. Logit of "
        "the first picture's colour less that of the other's: "
        + ", ".join(f"{_logit(logits[of])} on {ANSWERED[of]}" for of in ("clean", "other"))
        + ".",
    ]
    for kind, said in KIND.items():
        of = [r for r in rows if r["what"] == "restored" and r["kind"] == kind]
        cells = [(f"{r['span']} ({r['rows']:.3g})", *map(share, r["blocks"])) for r in of]
        parts += [f"{said}:", table(("rows (how many)", *_blocks(of)), cells)]
    cut: dict[tuple[str, str], list[Row]] = {}
    for r in rows:
        if r["what"] == "cut":
            cut.setdefault((r["reader"], r["read"]), []).append(r)
    ends = [_ends(b, r["window"]) for r in next(iter(cut.values())) for b in range(len(r["blocks"]))]
    cells = [
        (f"{reader} from {read}", *(share(found) for r in several for found in r["blocks"]))
        for (reader, read), several in cut.items()
    ]
    parts += [
        "Lost where rows can no longer read others, on the first picture:",
        table(("who, from what", *ends), cells),
    ]
    return "\n\n".join(parts)


def percent(row: Row) -> str:
    return f"{row['value']:.1%} [{row['low']:.1%}, {row['high']:.1%}]"


def share(found: Sequence[float]) -> str:
    """Of the difference between both pictures: mean and 95% interval."""
    mean, low, high = (f"{round(100 * value) + 0}%" for value in found)
    return f"{mean} [{low}, {high}]"


def _logit(row: Row) -> str:
    return f"{row['mean']:.1f} [{row['low']:.1f}, {row['high']:.1f}]"


def _blocks(rows: Sequence[Row]) -> list[str]:
    return [f"block {b}" for b in range(len(rows[0]["blocks"]))]


def _ends(block: int, window: int) -> str:
    return f"blocks {block} to {block + window - 1}"
