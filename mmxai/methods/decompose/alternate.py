"""Iterate on a sample, then over all rows: what k-means, NMF and semi-NMF have in common."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch

from mmxai.methods.decompose.stream import Blocks

Step = Callable[[Iterator[torch.Tensor], torch.Tensor], tuple[torch.Tensor, float]]
"""Blocks of a pass and directions `[K, D]` -> better ones, and the mean squared error of those that came
in."""


def alternate(
    step: Step,
    directions: torch.Tensor,
    sample: torch.Tensor,
    rows: Blocks | None,
    ready: Callable[[torch.Tensor], torch.Tensor],
    *,
    sample_step: Step | None = None,
    warm: int,
    passes: int,
    tol: float,
) -> tuple[torch.Tensor, dict[str, Any]]:
    """At most `warm` steps over `sample`, then `passes` over `rows` (None: the sample is all), each until the
    error falls by no more than the share `tol`. `sample` is what the steps see, `ready` makes that of a block
    of `rows`. `sample_step`: the step over `sample`, one block, where it is another.

    Facts: converged; iterations and passes taken; change: the share by which the error fell in the last of
    them, None where there was but one; errors, one an iteration over all rows.
    """
    facts: dict[str, Any] = {"converged": False, "iterations": 0, "passes": 0, "change": None, "errors": []}
    stages: list[tuple[str, int, Step, Blocks]] = [
        ("iterations", warm, sample_step or step, lambda: iter([sample]))
    ]
    if rows is not None:
        stages.append(("passes", passes, step, lambda: (ready(x) for x in rows())))
    for name, most, take, blocks in stages:
        before, facts["change"], facts["converged"] = None, None, False
        for _ in range(most):
            directions, error = take(blocks(), directions)
            facts[name] += 1
            if (name == "passes") == (rows is not None):
                facts["errors"].append(error)
            if before is not None:
                facts["change"] = (before - error) / before if before else 0.0
                facts["converged"] = facts["change"] <= tol
            if facts["converged"]:
                break
            before = error
    return directions, facts
