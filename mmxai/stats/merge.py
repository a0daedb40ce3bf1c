"""Statistics of the whole from statistics of its parts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch

from mmxai.errors import ArgumentError
from mmxai.stats.accumulate import STATE_NAMES
from mmxai.stats.topk import select

_GROUP = 16  # states held at once; ten thousand parts must not all be in memory


class Merger:
    """Merges states one at a time, in groups; see `merge`."""

    def __init__(self) -> None:
        self._waiting: list[Mapping[str, np.ndarray]] = []

    def add(self, state: Mapping[str, np.ndarray]) -> None:
        self._waiting.append(state)
        if len(self._waiting) == _GROUP:
            self._waiting = [_merge_group(self._waiting)]

    def result(self) -> dict[str, np.ndarray]:
        """The merged state of all that was added."""
        if not self._waiting:
            raise ArgumentError("merge: got no states, expected at least one")
        return dict(self._waiting[0]) if len(self._waiting) == 1 else _merge_group(self._waiting)


def merge(states: Iterable[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """One state from several, usually in part order; see `StatsAccumulator.state` for the arrays.

    Counts, extremes and top-k (ties to the lower row id) are exact and do not depend on the order; moments
    are merged in float64 in the order given, so the same states in the same order give the same bytes.
    """
    merger = Merger()
    for state in states:
        merger.add(state)
    return merger.result()


def _merge_group(states: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    shapes = {state["topk_values"].shape for state in states}
    if len(shapes) != 1:
        raise ArgumentError(f"merge: got (width, k) {sorted(shapes)}, expected one width and one k")
    width, k = shapes.pop()
    stacked = {name: np.stack([state[name] for state in states]) for name in states[0]}
    counts = ("count", "nan", "posinf", "neginf", "positive")
    out = {name: stacked[name].sum(0) for name in counts}
    finite = (stacked["count"] - stacked["nan"] - stacked["posinf"] - stacked["neginf"]).astype(np.float64)
    total = np.maximum(finite.sum(0), 1)
    out["mean"] = (finite * stacked["mean"]).sum(0) / total
    spread = stacked["mean"] - out["mean"]
    out["m2"] = (stacked["m2"] + finite * spread * spread).sum(0)
    out["min"] = stacked["min"].min(0)
    out["max"] = stacked["max"].max(0)
    out["topk_values"], out["topk_rows"] = _merge_topk(stacked["topk_values"], stacked["topk_rows"], width, k)
    return {name: out[name] for name in STATE_NAMES}


def _merge_topk(values: np.ndarray, rows: np.ndarray, width: int, k: int) -> tuple[np.ndarray, np.ndarray]:
    columns = np.broadcast_to(np.arange(width)[:, None], values.shape)
    flat = [torch.from_numpy(np.ascontiguousarray(a)).flatten() for a in (columns, values, rows)]
    by_row = torch.argsort(flat[2])  # ties go to the lower row whatever the order of the states
    best_values, best_rows = select(flat[0][by_row], flat[1][by_row], flat[2][by_row], width, k)
    return best_values.numpy(), best_rows.numpy()
