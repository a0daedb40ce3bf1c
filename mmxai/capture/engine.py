"""From collated inputs to packed rows: one forward pass; inside the hooks every site is packed, and its
neurons' statistics kept, in one read of it."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from mmxai.capture.select import Selection, pooled_mean, pooled_rows
from mmxai.capture.staging import Staging, Transfer
from mmxai.errors import StorageOverflowError
from mmxai.kernels.capture import NeuronState
from mmxai.kernels.capture.custom import capture_later
from mmxai.kernels.pack import pack
from mmxai.types import ROW_COLUMNS

if TYPE_CHECKING:
    from mmxai.models import Model
    from mmxai.models.inputs import Inputs


_WIDER = {torch.float16: "bfloat16 or float32", torch.bfloat16: "float32"}
"""Where what overflowed may fit."""

_SAMPLE = ROW_COLUMNS.index("sample")


@dataclass(frozen=True)
class Statistics:
    """What to keep of every neuron: the arguments of `NeuronState`."""

    k: int = 16
    bottom: bool = False
    per_sample: bool = False


@dataclass
class Packed:
    """The kept rows of one batch in one row space: what a sink writes.

    rows: int32 `[N, 8]`; acts: site -> `[N, D]` in the storage dtype, contiguous, on the CPU, where they are
    once `wait` has returned. lost: site -> int64 `[1]`, the values that became infinite in the storage dtype.
    """

    space: str
    rows: torch.Tensor
    acts: dict[str, torch.Tensor] = field(default_factory=dict)
    lost: dict[str, torch.Tensor] = field(default_factory=dict)
    transfer: Transfer | None = None

    @property
    def nbytes(self) -> int:
        return sum(x.nbytes for x in self.acts.values()) + self.rows.nbytes

    def wait(self) -> None:
        """Return when the bytes have come from the GPU. Raises StorageOverflowError if a value was lost."""
        if self.transfer is not None:
            self.transfer.wait()
        for site, count in self.lost.items():
            if int(count):
                raise StorageOverflowError(
                    f"site {site}: {int(count)} finite values exceed the range of {self.acts[site].dtype} "
                    f"and would be stored as inf; harvest with store_dtype {_WIDER[self.acts[site].dtype]}"
                )


class Buffers:
    """Memory that is used again: fresh pages for staging cost a page fault for every 4 KiB written, and
    states made anew for every part lie between the temporaries of the forward, which then grow the heap.

    `allocate(size, dtype)` makes more; an extractor on a GPU lets it be pinned.
    """

    def __init__(self) -> None:
        self.allocate: Callable[[int, torch.dtype], torch.Tensor] = lambda n, dtype: torch.empty(
            n, dtype=dtype
        )
        self._free: dict[str, list[torch.Tensor]] = defaultdict(list)
        self._states: dict[str, list[NeuronState]] = defaultdict(list)

    def take(self, name: str, rows: int, width: int, dtype: torch.dtype) -> torch.Tensor:
        """A contiguous `[rows, width]` tensor with undefined content."""
        size = rows * width
        stock = self._free[name]
        flat = stock.pop() if stock else None
        if flat is None or flat.numel() < size or flat.dtype != dtype:
            flat = self.allocate(size, dtype)
        return flat[:size].view(rows, width)

    def give_back(self, packed: Packed) -> None:
        """Call when the bytes have been written; list operations are atomic, any thread may call."""
        held = [*packed.acts.items(), *((_lost(site), count) for site, count in packed.lost.items())]
        for name, x in held:
            base = x if x._base is None else x._base
            self._free[name].append(base.view(-1))

    def take_state(self, site: str) -> NeuronState | None:
        """An empty one that was given back, if there is one."""
        stock = self._states[site]
        return stock.pop() if stock else None

    def give_back_states(self, states: Mapping[str, NeuronState]) -> None:
        """Call when nobody reads them any more."""
        for site, state in states.items():
            state.reset()
            self._states[site].append(state)


def _lost(site: str) -> str:
    """The name of the buffers of a site's overflow counts."""
    return f"{site} lost"


@dataclass
class _Kept:
    """Which rows of a batch are kept in a space: `index` int64 of the flattened `[B, T]`, None for all;
    `samples` int64 `[N]`, where statistics want them; both on the device of the model."""

    keep: torch.Tensor
    packed: Packed
    index: torch.Tensor | None = None
    samples: torch.Tensor | None = None


class Extractor:
    """Runs a model and packs the selected rows of the requested sites in the storage dtype.

    With `statistics` it keeps, of the values as stored, a `NeuronState` a site, on the model's device, until
    `take_states`. On a GPU rows are copied to pinned memory beside the forward pass, and the hooks wait for
    nothing (without statistics, for packing's overflow count); `Packed.wait` does. `seconds`: time spent
    packing and on statistics in the hooks; on a GPU, of asking for them.
    """

    def __init__(
        self,
        model: Model,
        sites: Sequence[str],
        selection: Selection,
        dtype: torch.dtype,
        statistics: Statistics | None = None,
    ):
        self.model, self.selection, self.dtype, self.statistics = model, selection, dtype, statistics
        self.by_space: dict[str, list[str]] = defaultdict(list)
        for site in sites:
            self.by_space[model.space_of(site)].append(site)
        self.buffers = Buffers()
        self.seconds = 0.0
        self._staging: Staging | None = None
        self._states: dict[str, NeuronState] = {}
        self._rows: dict[str, int] = defaultdict(int)

    def __call__(self, inputs: Inputs) -> list[Packed]:
        """One batch. Spaces in which nothing is kept yield an empty `Packed`."""
        kept = {space: self._kept(space, inputs.rows[space]) for space in self.by_space}

        def reader(site: str, space: str) -> Callable[[torch.Tensor], None]:
            def read(x: torch.Tensor) -> None:
                start = time.perf_counter()
                self._take(site, x.detach(), kept[space])
                self.seconds += time.perf_counter() - start

            return read

        readers = {site: reader(site, space) for space, sites in self.by_space.items() for site in sites}
        self.model.run(inputs, read=readers, stop=True)
        transfer = None if self._staging is None else self._staging.flush()
        for space, one in kept.items():
            one.packed.transfer = transfer
            self._rows[space] += len(one.packed.rows)
        return [one.packed for one in kept.values()]

    def take_states(self) -> dict[str, NeuronState]:
        """The statistics since the last call, their rows numbered from 0; for the end of a part."""
        states, self._states = self._states, {}
        self._rows.clear()
        return states

    def _kept(self, space: str, rows: torch.Tensor) -> _Kept:
        keep = self.selection.keep(rows)
        if self.selection.averages:
            kept = _Kept(keep, Packed(space, pooled_rows(rows, keep)))
        else:
            index = None if keep.all() else keep.reshape(-1).nonzero().reshape(-1)
            kept = _Kept(keep, Packed(space, rows[keep]), index)
        if self.statistics is not None and self.statistics.per_sample:
            kept.samples = kept.packed.rows[:, _SAMPLE].to(torch.int64)
        return kept

    def _take(self, site: str, x: torch.Tensor, kept: _Kept) -> None:
        if self.selection.averages:
            x = pooled_mean(x, kept.keep).unsqueeze(1)
        if x.device.type != "cpu" and self._staging is None:
            self._staging = Staging(x.device)
            self.buffers.allocate = self._staging.pinned
        packed, state = kept.packed, self._state(site, x)
        shape = (len(packed.rows), x.shape[-1])
        out = packed.acts[site] = self.buffers.take(site, *shape, self.dtype)
        lost = self.buffers.take(_lost(site), 1, 1, torch.int64)
        packed.lost[site] = lost
        staging = self._staging
        if staging is None:
            rows, counts = out, lost
        else:
            rows = staging.slot(site, *shape, self.dtype)
            counts = staging.slot(_lost(site), 1, 1, torch.int64)
            kept.index, kept.samples = _moved(kept.index, x.device), _moved(kept.samples, x.device)
        if state is None:
            mask = None if kept.index is None else kept.keep.to(x.device)
            counts.fill_(pack(x, mask, rows))
        else:
            row0 = self._rows[packed.space]
            counts.zero_()
            capture_later(x, kept.index, rows, state, row0, counts.view(1), samples=kept.samples)
        if staging is not None:
            staging.copy(site, rows, out)
            staging.copy(_lost(site), counts, lost)

    def _state(self, site: str, x: torch.Tensor) -> NeuronState | None:
        options = self.statistics
        if options is not None and site not in self._states:
            self._states[site] = self.buffers.take_state(site) or NeuronState(
                x.shape[-1], options.k, bottom=options.bottom, per_sample=options.per_sample, device=x.device
            )
        return self._states.get(site)


def _moved(x: torch.Tensor | None, device: torch.device) -> torch.Tensor | None:
    """On the device, once a batch; from pinned memory, for else the host would wait for the forward pass."""
    if x is None or x.device == device:
        return x
    return (x.pin_memory() if device.type == "cuda" else x).to(device, non_blocking=True)
