"""`capture` without waiting for the GPU, and as an operator that compiled models and CUDA graphs carry.

`capture_later` is for hooks of a plain model. `Recorder` is for hooks that torch.compile or a CUDA graph
takes in: a call must then be the same work on the same tensors every time, so the row counter lives on the
device.
"""

from typing import Optional

import torch

from mmxai.errors import ArgumentError
from mmxai.kernels._threads import thread_count
from mmxai.kernels.capture import OP, NeuronState, check


def capture_later(
    x: torch.Tensor,
    index: torch.Tensor | None,
    out: torch.Tensor | None,
    state: NeuronState | None,
    row0: int,
    overflow: torch.Tensor,
    *,
    samples: torch.Tensor | None = None,
    scales: torch.Tensor | None = None,
    backend: str = "auto",
) -> None:
    """`capture` of the rows `index` (int64 `[N]` of the flattened `[B, T]`; None: all), without waiting.

    Raises `overflow` (int64 `[1]` on the device) by what `capture` would return; the host waits for nothing,
    if `index` was made without waiting. The other arguments are `capture`'s.
    """
    count = check(x, index, out, state, row0, samples, scales)
    if count:
        _run(x, index, out, state, row0, samples, scales, overflow, None, backend)
    if state is not None:
        state.count += count
        state.next_row = row0 + count


def _run(
    x: torch.Tensor,
    index: torch.Tensor | None,
    out: torch.Tensor | None,
    state: NeuronState | None,
    row0: int,
    samples: torch.Tensor | None,
    scales: torch.Tensor | None,
    overflow: torch.Tensor,
    cursor: torch.Tensor | None,
    backend: str,
) -> None:
    module = OP.pick(backend, x.device.type, x, index, out, state)
    x = x.detach()
    if hasattr(module, "enqueue"):
        module.enqueue(x, index, out, state, row0, samples, scales, overflow, cursor)
        return
    if cursor is not None and state is not None:
        row0, state.count = cursor.tolist()
    overflow += module.capture(x, index, out, state, row0, samples, scales, thread_count(None))


@torch.library.custom_op(
    "mmxai::capture",
    mutates_args=(
        "out", "overflow", "cursor", "tallies", "moments", "extremes", "top_values", "top_rows",
        "top_samples", "bottom_values", "bottom_rows", "bottom_samples",
    ),
)  # fmt: skip
def capture_operator(
    x: torch.Tensor,
    index: Optional[torch.Tensor],  # noqa: UP045  torch reads this signature
    samples: Optional[torch.Tensor],  # noqa: UP045
    out: Optional[torch.Tensor],  # noqa: UP045
    overflow: torch.Tensor,
    cursor: torch.Tensor,
    tallies: torch.Tensor,
    moments: torch.Tensor,
    extremes: torch.Tensor,
    top_values: torch.Tensor,
    top_rows: torch.Tensor,
    top_samples: Optional[torch.Tensor],  # noqa: UP045
    bottom_values: Optional[torch.Tensor],  # noqa: UP045
    bottom_rows: Optional[torch.Tensor],  # noqa: UP045
    bottom_samples: Optional[torch.Tensor],  # noqa: UP045
) -> None:
    """One call of `Recorder`; `cursor` int64 `[row0, rows seen]` goes forward by the rows taken."""
    state = object.__new__(NeuronState)
    state.k, state.width = top_values.shape
    state.device, state.count, state.next_row = x.device, 0, 0
    state.bottom, state.per_sample = bottom_values is not None, top_samples is not None
    state.tallies, state.moments, state.extremes = tallies, moments, extremes
    state.top_values, state.top_rows, state.top_samples = top_values, top_rows, top_samples
    state.bottom_values, state.bottom_rows, state.bottom_samples = bottom_values, bottom_rows, bottom_samples
    count = check(x, index, out, state, 0, samples, None)
    if count:
        _run(x, index, out, state, 0, samples, None, overflow, cursor, "auto")
    cursor += count


@capture_operator.register_fake
def _(x, index, samples, out, overflow, cursor, tallies, *lists) -> None:  # type: ignore[no-untyped-def]
    return None


class Recorder:
    """Takes a site's rows wherever torch code runs: eager, under torch.compile, in a captured CUDA graph.

    Calls write `out` `[N, D]` (or None: statistics only) anew and go on with `state`, which must not be used
    elsewhere until `finish`. `index`: int64 `[N]` rows of the flattened `[B, T]`, or None for all, and
    `samples` int64 `[N]` where the state is per sample: both fixed, as everything in a graph is; change their
    content in between.
    """

    def __init__(
        self,
        out: torch.Tensor | None,
        state: NeuronState,
        row0: int,
        *,
        index: torch.Tensor | None = None,
        samples: torch.Tensor | None = None,
    ):
        if row0 < state.next_row:
            raise ArgumentError(
                f"Recorder: got row {row0} after row {state.next_row - 1}, expected rows in order"
            )
        if out is not None and out.dtype == torch.int8:
            raise ArgumentError("Recorder: got out int8, expected float32, bfloat16, float16 or None")
        self.out, self.state, self.index, self.samples = out, state, index, samples
        device = state.top_values.device
        self.cursor = torch.tensor([row0, state.count], device=device)
        self.overflow = torch.zeros(1, dtype=torch.int64, device=device)

    def __call__(self, x: torch.Tensor) -> None:
        """`x` `[B, T, D]` as `capture` takes it."""
        s = self.state
        capture_operator(
            x.detach(), self.index, self.samples, self.out, self.overflow, self.cursor, s.tallies, s.moments,
            s.extremes, s.top_values, s.top_rows, s.top_samples, s.bottom_values, s.bottom_rows,
            s.bottom_samples,
        )  # fmt: skip

    def finish(self) -> int:
        """Wait for all calls; the state may be used again. Returns their overflow count."""
        self.state.next_row, self.state.count = self.cursor.tolist()
        return int(self.overflow.item())
