"""What `mmxai sae eval` found: the SAE's figures beside those of its nulls, and latents of known concepts."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

from mmxai.errors import DataError


@dataclass(frozen=True)
class Known:
    """A known concept and the latent that tells it best, out of all; figures of samples not chosen on.

    level: "sample" or "cell" (a patch covered by it). base: share of items that have the concept; f1 and
    auprc of that latent; iou on the patch grid, None of samples.
    """

    name: str
    level: str
    latent: int
    f1: float
    auprc: float
    iou: float | None
    base: float


@dataclass(frozen=True)
class Figures:
    """`columns`: the SAE, then its nulls. `rows`: (figure, a value a column; None where there is none).

    `over`: rows measured. `known`: concepts, the best told first. `missing`: what could not be had, and why.
    """

    columns: list[str]
    rows: list[tuple[str, list[float | None]]]
    over: int
    known: list[Known] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)

    def notes(self) -> dict[int, str]:
        """Latent -> the concept that it tells best."""
        return {k.latent: f"{k.name}, F1 {k.f1:.2f}" for k in reversed(self.known)}


def read_evaluation(path: str | Path) -> Figures:
    """The figures in an `eval.json`; DataError where it is not one."""
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
        each = {str(found["name"]): dict(found["figures"])}
        each |= {str(name): dict(null["figures"]) for name, null in found["nulls"].items()}
        over, missing = int(found["metrics"]["rows"]), dict(found["missing"])
        known = [
            Known(
                str(c["name"]), str(c["level"]), int(c["latent"]), float(c["f1"]), float(c["auprc"]),
                float(c["iou"]) if c["level"] == "cell" else None, float(c["base"]),
            )
            for c in (found["concepts"] or {"scores": []})["scores"]
        ]  # fmt: skip
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: {error!r}, expected the file that `mmxai sae eval` writes") from error
    names = dict.fromkeys(name for figures in each.values() for name in figures)
    rows = [(name, [f.get(name) for f in each.values()]) for name in names]
    return Figures(list(each), rows, over, sorted(known, key=lambda k: -k.f1), missing)
