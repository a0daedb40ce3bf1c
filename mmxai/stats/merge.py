"""Statistics of the whole from statistics of its parts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from mmxai.errors import ArgumentError
from mmxai.stats.accumulate import OPTIONAL_NAMES, STATE_NAMES

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
    """One state from several, usually in part order; see `mmxai.stats.state_arrays` for the arrays.

    Counts, extremes and the lists (ties to the lower row id; of a sample that several states have, the best
    entry) are exact and do not depend on the order; moments are merged in float64 in the order given, so the
    same states in the same order give the same bytes.
    """
    merger = Merger()
    for state in states:
        merger.add(state)
    return merger.result()


def _merge_group(states: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    shapes = {state["topk_values"].shape for state in states}
    if len(shapes) != 1:
        raise ArgumentError(f"merge: got (width, k) {sorted(shapes)}, expected one width and one k")
    k = shapes.pop()[1]
    optional = {tuple(name for name in OPTIONAL_NAMES if name in state) for state in states}
    if len(optional) != 1:
        raise ArgumentError(f"merge: got states with {sorted(optional)}, expected the same of all")
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
    names = optional.pop()
    for end, sign in (("topk", 1), ("bottom", -1)):
        if f"{end}_values" in stacked:
            columns = [
                f"{end}_{what}" for what in ("values", "rows", "samples") if f"{end}_{what}" in stacked
            ]
            lists = [np.concatenate(stacked[name], 1) for name in columns]
            out |= zip(columns, _best(lists, k, sign), strict=True)
    return {name: out[name] for name in (*STATE_NAMES, *names)}


def _best(lists: list[np.ndarray], k: int, sign: int) -> list[np.ndarray]:
    """The first k of lists `[D, M]` (values, rows and maybe samples), best first: `[D, k]` each."""
    order = np.lexsort((lists[1], -sign * lists[0]), axis=-1)
    if len(lists) == 3:
        order = _once(order, np.take_along_axis(lists[2], order, 1))
    return [np.ascontiguousarray(np.take_along_axis(x, order[:, :k], 1)) for x in lists]


def _once(order: np.ndarray, samples: np.ndarray) -> np.ndarray:
    """`order` with the second and later entries of a sample (its number in that order: `samples`) moved back.

    What is moved back cannot be among the first k: every state has k entries of k samples, or empty ones.
    """
    by_sample = np.argsort(samples, axis=1, kind="stable")
    ordered = np.take_along_axis(samples, by_sample, 1)
    again = np.zeros(samples.shape, bool)
    same = (ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)
    np.put_along_axis(again, by_sample[:, 1:], same, 1)
    return np.take_along_axis(order, np.argsort(again, axis=1, kind="stable"), 1)
