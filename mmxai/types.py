"""The types that flow through mmxai: `Rows` (who a row is) and `Batch` (its activations)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch

from mmxai.errors import ArgumentError, RowSpaceError

if TYPE_CHECKING:
    import pandas

TOKEN_TYPES = ("cls", "patch", "register", "special", "text", "image", "generated", "pad")
"""What a row is; a row table stores the index into this tuple (-1: a pooled row)."""

TOKEN_CODES = {name: code for code, name in enumerate(TOKEN_TYPES)}

ROW_COLUMNS = ("sample", "position", "y", "x", "token_type", "token_id", "image", "step")
"""Columns of a row table, all int32, -1 where a column does not apply.

`sample`: index in the data set. `position`: index in the model's sequence. `y`, `x`: cell of the
model's grid. `token_id`: vocabulary id. `image`: which image or tile of the sample. `step`:
generation or diffusion step.
"""


class Rows:
    """A row table: `table` is an int32 tensor `[N, 8]` with the columns of `ROW_COLUMNS`.

    Columns are attributes (`rows.sample`, `rows.y`, ...: int32 tensors `[N]`).
    """

    __slots__ = ("table",)

    def __init__(self, table: torch.Tensor):
        if table.dtype != torch.int32 or table.ndim != 2 or table.shape[1] != len(ROW_COLUMNS):
            raise ArgumentError(
                f"row table: got {table.dtype} of shape {tuple(table.shape)}, "
                f"expected torch.int32 of shape (N, {len(ROW_COLUMNS)}); use Rows.make(sample=..., ...)"
            )
        self.table = table

    @classmethod
    def make(cls, **columns: torch.Tensor | int) -> Rows:
        """Build from columns; scalars are broadcast, columns left out are -1. Needs one tensor."""
        unknown = sorted(set(columns) - set(ROW_COLUMNS))
        if unknown:
            raise ArgumentError(f"row table: got columns {unknown}, expected some of {list(ROW_COLUMNS)}")
        lengths = {len(c) for c in columns.values() if isinstance(c, torch.Tensor)}
        if len(lengths) != 1:
            raise ArgumentError(f"row table: got column lengths {sorted(lengths)}, expected one length")
        table = torch.full((lengths.pop(), len(ROW_COLUMNS)), -1, dtype=torch.int32)
        for name, value in columns.items():
            table[:, ROW_COLUMNS.index(name)] = value
        return cls(table)

    def __len__(self) -> int:
        return self.table.shape[0]

    def __getitem__(self, index: Any) -> Rows:
        return Rows(self.table[index])

    def __getattr__(self, name: str) -> torch.Tensor:
        if name in ROW_COLUMNS:
            return self.table[:, ROW_COLUMNS.index(name)]
        raise AttributeError(name)

    def to_pandas(self) -> pandas.DataFrame:
        """A data frame, token types spelled out."""
        import pandas

        frame = pandas.DataFrame(self.table.numpy(), columns=list(ROW_COLUMNS))
        names = dict(enumerate(TOKEN_TYPES))
        frame["token_type"] = frame["token_type"].map(names).astype("category")
        return frame

    def __repr__(self) -> str:
        return f"Rows({len(self)} rows: {', '.join(ROW_COLUMNS)})"


class Batch(Mapping[str, torch.Tensor]):
    """Site name -> activations `[N, D]`, plus the identity of the N rows. All of one row space.

    `rows` may be given as a function; it is then called at first use, so that a training loop that
    never looks at row identity does not pay for it.
    """

    def __init__(
        self, sites: Mapping[str, torch.Tensor], rows: Rows | Callable[[], Rows], *, space: str = ""
    ):
        lengths = {name: x.shape[0] for name, x in sites.items()}
        if len(set(lengths.values())) > 1:
            raise RowSpaceError(f"batch: got sites of different lengths {lengths}, expected one row space")
        self._sites = dict(sites)
        self._rows = rows
        self.space = space

    @property
    def rows(self) -> Rows:
        """The row table, aligned with every tensor of the batch."""
        if not isinstance(self._rows, Rows):
            self._rows = self._rows()
        return self._rows

    @property
    def x(self) -> torch.Tensor:
        """The activations of the batch's only site."""
        if len(self._sites) != 1:
            raise RowSpaceError(f"batch.x: got sites {self.sites}, expected exactly one; use batch[site]")
        return next(iter(self._sites.values()))

    @property
    def sites(self) -> list[str]:
        return list(self._sites)

    @property
    def num_rows(self) -> int:
        """Number of rows N (`len(batch)` is the number of sites, as for any mapping)."""
        return next(iter(self._sites.values())).shape[0] if self._sites else len(self.rows)

    def __getitem__(self, site: str) -> torch.Tensor:
        return self._sites[site]

    def __iter__(self) -> Iterator[str]:
        return iter(self._sites)

    def __len__(self) -> int:
        return len(self._sites)

    def to(
        self,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        non_blocking: bool = False,
    ) -> Batch:
        """Activations on another device or in another dtype; the row table stays on the CPU."""
        moved = {s: x.to(device=device, dtype=dtype, non_blocking=non_blocking) for s, x in self.items()}
        return Batch(moved, self._rows, space=self.space)

    def __repr__(self) -> str:
        shapes = ", ".join(
            f"{s}: {tuple(x.shape)} {str(x.dtype).removeprefix('torch.')}" for s, x in self.items()
        )
        return f"Batch({shapes})"
