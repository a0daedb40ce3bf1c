"""From collated inputs to packed rows: one forward pass; inside the hooks every site is packed, and its
neurons' statistics kept, in one read of it."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from mmxai.capture.select import Selection, pooled_mean, pooled_rows
from mmxai.errors import StorageOverflowError
from mmxai.kernels.capture import NeuronState, capture
from mmxai.types import ROW_COLUMNS

if TYPE_CHECKING:
    from mmxai.models import Model
    from mmxai.models.inputs import Inputs


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

    rows: int32 `[N, 8]`; acts: site -> `[N, D]` in the storage dtype, contiguous, on the CPU.
    """

    space: str
    rows: torch.Tensor
    acts: dict[str, torch.Tensor]

    @property
    def nbytes(self) -> int:
        return sum(x.nbytes for x in self.acts.values()) + self.rows.nbytes


class Buffers:
    """Staging memory that is used again: fresh pages cost a page fault for every 4 KiB written."""

    def __init__(self) -> None:
        self._free: dict[str, list[torch.Tensor]] = defaultdict(list)

    def take(self, site: str, rows: int, width: int, dtype: torch.dtype) -> torch.Tensor:
        """A contiguous `[rows, width]` tensor with undefined content."""
        size = rows * width
        stock = self._free[site]
        flat = stock.pop() if stock else None
        if flat is None or flat.numel() < size or flat.dtype != dtype:
            flat = torch.empty(size, dtype=dtype)
        return flat[:size].view(rows, width)

    def give_back(self, packed: Packed) -> None:
        """Call when the bytes have been written; list operations are atomic, any thread may call."""
        for site, x in packed.acts.items():
            base = x if x._base is None else x._base
            self._free[site].append(base.view(-1))


class Extractor:
    """Runs a model and packs the selected rows of the requested sites in the storage dtype.

    With `statistics` it keeps, of the values as stored, a `NeuronState` a site, on the model's device, until
    `take_states`. `seconds`: time spent in the hooks, "capture" (packing and statistics) and "copy" (to the
    CPU, from a GPU).
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
        self.seconds = {"capture": 0.0, "copy": 0.0}
        self._states: dict[str, NeuronState] = {}
        self._rows: dict[str, int] = defaultdict(int)

    def __call__(self, inputs: Inputs) -> list[Packed]:
        """One batch. Spaces in which nothing is kept yield an empty `Packed`."""
        keep = {space: self.selection.keep(inputs.rows[space]) for space in self.by_space}
        packed = {space: Packed(space, self._table(inputs.rows[space], keep[space]), {}) for space in keep}

        def reader(site: str, space: str) -> Callable[[torch.Tensor], None]:
            def read(x: torch.Tensor) -> None:
                packed[space].acts[site] = self._pack(site, x, keep[space], packed[space])

            return read

        readers = {site: reader(site, space) for space, sites in self.by_space.items() for site in sites}
        self.model.run(inputs, read=readers, stop=True)
        for space, one in packed.items():
            self._rows[space] += len(one.rows)
        return list(packed.values())

    def take_states(self) -> dict[str, NeuronState]:
        """The statistics since the last call, their rows numbered from 0; for the end of a part."""
        states, self._states = self._states, {}
        self._rows.clear()
        return states

    def _table(self, rows: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
        return pooled_rows(rows, keep) if self.selection.averages else rows[keep]

    def _pack(self, site: str, x: torch.Tensor, keep: torch.Tensor, packed: Packed) -> torch.Tensor:
        x = x.detach()
        mask: torch.Tensor | None = keep
        if self.selection.averages:
            x, mask = pooled_mean(x, keep).unsqueeze(1), None
        start = time.perf_counter()
        out = self.buffers.take(site, len(packed.rows), x.shape[-1], self.dtype)
        staged = out if x.device.type == "cpu" else torch.empty(out.shape, dtype=self.dtype, device=x.device)
        state, samples = self._state(site, x), None
        if state is not None and state.per_sample:
            samples = packed.rows[:, _SAMPLE].to(device=x.device, dtype=torch.int64)
        mask = None if mask is None else mask.to(x.device)
        overflow = capture(x, mask, staged, state, self._rows[packed.space], samples=samples)
        middle = time.perf_counter()
        if staged is not out:
            out.copy_(staged)
        self.seconds["capture"] += middle - start
        self.seconds["copy"] += time.perf_counter() - middle
        if overflow:
            raise StorageOverflowError(
                f"site {site}: {overflow} finite values exceed the range of {self.dtype} and would be stored "
                f"as inf; harvest with dtype bfloat16 or float32"
            )
        return out

    def _state(self, site: str, x: torch.Tensor) -> NeuronState | None:
        options = self.statistics
        if options is not None and site not in self._states:
            self._states[site] = NeuronState(
                x.shape[-1], options.k, bottom=options.bottom, per_sample=options.per_sample, device=x.device
            )
        return self._states.get(site)
