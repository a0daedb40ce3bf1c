"""From collated inputs to packed rows: one forward pass, every site, packed inside the hooks."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from mmxai.capture.select import Selection, pooled_mean, pooled_rows
from mmxai.errors import StorageOverflowError
from mmxai.kernels.pack import pack

if TYPE_CHECKING:
    from mmxai.models import Model
    from mmxai.models.inputs import Inputs


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
    """Runs a model and packs the selected rows of the requested sites in the storage dtype."""

    def __init__(self, model: Model, sites: Sequence[str], selection: Selection, dtype: torch.dtype):
        self.model, self.selection, self.dtype = model, selection, dtype
        self.by_space: dict[str, list[str]] = defaultdict(list)
        for site in sites:
            self.by_space[model.space_of(site)].append(site)
        self.buffers = Buffers()

    def __call__(self, inputs: Inputs) -> list[Packed]:
        """One batch. Spaces in which nothing is kept yield an empty `Packed`."""
        keep = {space: self.selection.keep(inputs.rows[space]) for space in self.by_space}
        packed = {space: Packed(space, self._rows(inputs.rows[space], keep[space]), {}) for space in keep}

        def reader(site: str, space: str) -> Callable[[torch.Tensor], None]:
            def read(x: torch.Tensor) -> None:
                packed[space].acts[site] = self._pack(site, x, keep[space], len(packed[space].rows))

            return read

        readers = {site: reader(site, space) for space, sites in self.by_space.items() for site in sites}
        self.model.run(inputs, read=readers, stop=True)
        return list(packed.values())

    def _rows(self, rows: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
        return pooled_rows(rows, keep) if self.selection.averages else rows[keep]

    def _pack(self, site: str, x: torch.Tensor, keep: torch.Tensor, count: int) -> torch.Tensor:
        x = x.detach()
        mask: torch.Tensor | None = keep
        if self.selection.averages:
            x, mask = pooled_mean(x, keep).unsqueeze(1), None
        out = self.buffers.take(site, count, x.shape[-1], self.dtype)
        if x.device.type == "cpu":
            overflow = pack(x, mask, out)
        else:
            staged = torch.empty(out.shape, dtype=self.dtype, device=x.device)
            overflow = pack(x, None if mask is None else mask.to(x.device), staged)
            out.copy_(staged)
        if overflow:
            raise StorageOverflowError(
                f"site {site}: {overflow} finite values exceed the range of {self.dtype} and would be stored "
                f"as inf; harvest with dtype bfloat16 or float32"
            )
        return out
