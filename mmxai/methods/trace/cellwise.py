"""One forward a cell: what every quicker way must give. The specification."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING

import numpy as np

from mmxai.capture.hooks import Edit, held
from mmxai.errors import ModelError
from mmxai.methods.trace.edits import edits_of, handlers_of
from mmxai.methods.trace.types import ATTENTION, Cell
from mmxai.models import attention

if TYPE_CHECKING:
    from mmxai.methods.trace.runs import Runs


def one(runs: Runs, cell: Cell) -> np.ndarray:
    """The metric of each sample with one cell's intervention in the base run, float64 `[S]`."""
    study = runs.study
    edits: dict[str, Edit | Sequence[Edit]] = dict(runs.edits)
    for site, edit in edits_of(runs, [cell]).items():
        before = edits.get(site)
        # What corrupts the site comes first, what the cell puts in after it.
        edits[site] = [edit] if before is None else [before, edit]  # type: ignore[list-item]
    around = nullcontext()
    if cell.kind == ATTENTION:
        bound = study.model.towers[study.tower]
        blocked = handlers_of(runs, [cell])
        points = {b: bound.sites.get(f"{study.tower}.{b}.pattern") for b in blocked}
        if any(site is None or not attention.shown(site.point) for site in points.values()):
            raise ModelError(
                f"{study.model.name}: attention of {study.tower} does not show its queries and keys, "
                "expected a model of transformers under eager or sdpa attention"
            )
        modules = {site.point.module: blocked[b] for b, site in points.items() if site is not None}
        around = attention.handling(bound.root, modules)  # type: ignore[assignment]
    # Other threads' runs of the model wait: they would meet the blocked attention.
    with held(study.model.module), around:
        values, _ = runs.judge.plain(study.model, runs.inputs, edits, [])
    return values.double().cpu().numpy()
