"""What to keep in mind of a study: what its own numbers say against it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmxai.methods.trace.answers import texts_of
from mmxai.methods.trace.metrics import TokenMetric

if TYPE_CHECKING:
    from mmxai.methods.trace.findings import Side
    from mmxai.methods.trace.results import TraceResult
    from mmxai.models.metrics import Metric
    from mmxai.models.model import Model


def weak(result: TraceResult) -> list[str]:
    """What to say of a corruption that takes little: shares of next to nothing mean nothing."""
    base, other = float(result.base.mean()), float(result.other.mean())
    if abs(other - base) < 0.05 * max(abs(other), abs(base), 1e-12):
        return [
            f"The corruption hardly changes what is measured ({other:.3g} clean, {base:.3g} corrupted): the "
            "recovered shares below are of next to nothing. Corrupt more, or ask about what was corrupted."
        ]
    if other < base:
        return [
            f"What is measured is larger corrupted ({base:.3g}) than clean ({other:.3g}): the answer was not "
            "the model's to begin with, or the foil was. Look at the likeliest tokens."
        ]
    return []


def other_answer(model: Model, metric: TokenMetric | Metric, clean: Side) -> list[str]:
    """What to say where the model itself would have gone on otherwise. The answer is given as ids."""
    if not clean.tokens or not isinstance(metric, TokenMetric) or not metric.answers:
        return []
    given = metric.answers[0]
    if isinstance(given, str):
        return []
    ids = [given] if isinstance(given, int) else [int(i) for i in given]
    pipeline, said = texts_of(model), clean.tokens[0][0]
    if pipeline.decode(ids[:1]) == said:
        return []
    return [
        f"The clean run would go on with {said!r}, not with the answer asked for ({pipeline.decode(ids)!r}): "
        "capitals and spelling count."
    ]
