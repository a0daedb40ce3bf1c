"""One pass over the rows of a site: moments, extremes, top-k and counts per neuron."""

from __future__ import annotations

import numpy as np
import torch

from mmxai.errors import ArgumentError
from mmxai.kernels.capture import NeuronState, capture

STATE_NAMES = (
    "count", "nan", "posinf", "neginf", "mean", "m2", "min", "max", "positive", "topk_values", "topk_rows",
)  # fmt: skip
"""The arrays of every state; their shapes and dtypes are told by `state_arrays`."""

OPTIONAL_NAMES = ("topk_samples", "bottom_values", "bottom_rows", "bottom_samples")
"""Arrays of a state that was asked for them."""

PART_SHIFT = 32
"""A row id is `part << PART_SHIFT | row in the part`."""


def state_bytes(width: int, k: int = 16, *, bottom: bool = False, per_sample: bool = False) -> int:
    """Bytes of the state of a site of that width, as a part keeps it."""
    entry = 4 + 8 + (8 if per_sample else 0)
    return width * (4 * 8 + 2 * 8 + 2 * 4 + (2 if bottom else 1) * k * entry) + 8


def state_arrays(state: NeuronState, part: int = 0) -> dict[str, np.ndarray]:
    """What `merge` takes and a store keeps; `part` goes into the row ids.

    `count` int64 `[1]` (rows seen), `nan posinf neginf positive` int64 `[D]`, `mean m2` float64 `[D]`
    (m2: sum of squared deviations), `min max` float32 `[D]` (inf and -inf where nothing was finite),
    `topk_values` float32 `[D, k]` descending, `topk_rows` int64 `[D, k]` (`part << 32 | row`; -1 with
    value -inf where there are fewer than k finite values). Where the state has them, `bottom_values`
    ascending and `bottom_rows` likewise (inf and -1), and `topk_samples`, `bottom_samples` int64 `[D, k]`.
    """
    tensors = {
        "count": torch.tensor([state.count]),
        "nan": state.tallies[state.NAN],
        "posinf": state.tallies[state.POSINF],
        "neginf": state.tallies[state.NEGINF],
        "mean": state.moments[state.MEAN],
        "m2": state.moments[state.M2],
        "min": state.extremes[state.MIN],
        "max": state.extremes[state.MAX],
        "positive": state.tallies[state.POSITIVE],
        "topk_values": state.top_values.T,
        "topk_rows": _in_part(state.top_rows, part).T,
    }
    if state.top_samples is not None:
        tensors["topk_samples"] = state.top_samples.T
    if state.bottom_values is not None and state.bottom_rows is not None:
        tensors["bottom_values"] = state.bottom_values.T
        tensors["bottom_rows"] = _in_part(state.bottom_rows, part).T
    if state.bottom_samples is not None:
        tensors["bottom_samples"] = state.bottom_samples.T
    return {name: np.array(value.cpu().numpy(), order="C") for name, value in tensors.items()}


def _in_part(rows: torch.Tensor, part: int) -> torch.Tensor:
    return torch.where(rows < 0, rows, rows + (part << PART_SHIFT))


class StatsAccumulator:
    """Statistics of the rows given to `update`, per neuron (column).

    NaN and infinities are counted and else left out: every other figure is over the finite values. Counts,
    extremes and top-k are exact and do not depend on how the rows were split into calls; the bounds of the
    moments are told by `mmxai.kernels.capture.capture`. float64 input is rounded to float32 first.

    `k` (at most 128): length of the top-k. `bottom`: keep the k smallest, too. `per_sample`: a sample enters
    the lists at most once, with its largest (smallest) value; `update` then wants `samples`.
    """

    def __init__(self, width: int, k: int = 16, *, bottom: bool = False, per_sample: bool = False):
        self.width, self.k, self.bottom, self.per_sample = width, k, bottom, per_sample
        self._state = self._fresh("cpu")
        self._begun = False

    def _fresh(self, device: torch.device | str) -> NeuronState:
        return NeuronState(self.width, self.k, bottom=self.bottom, per_sample=self.per_sample, device=device)

    @property
    def count(self) -> int:
        """Rows seen."""
        return self._state.count

    def update(self, x: torch.Tensor, row0: int, samples: torch.Tensor | None = None) -> None:
        """Take in `x` (`[N, width]`, any float dtype, any strides); its first row has number `row0`.

        Calls come in row order, so that ties in the top-k go to the lower row. `samples`: int64 `[N]`, the
        sample of each row, rows of one sample next to each other.
        """
        if x.ndim != 2 or x.shape[1] != self.width or not x.is_floating_point():
            raise ArgumentError(
                f"statistics: got {x.dtype} {tuple(x.shape)}, expected floats of shape (N, {self.width})"
            )
        if not self._begun:
            self._begun, self._state = True, self._fresh(x.device)
        x = x.to(torch.float32) if x.dtype == torch.float64 else x
        capture(x.unsqueeze(0), None, None, self._state, row0, samples=samples)

    def state(self, part: int = 0) -> dict[str, np.ndarray]:
        """The statistics as arrays: `state_arrays`."""
        return state_arrays(self._state, part)
