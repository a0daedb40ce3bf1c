"""A table whose rows are kept encoded: the store's profiles int8 and topk."""

from __future__ import annotations

import numpy as np
import torch

from mmxai.errors import ArgumentError
from mmxai.kernels.gather.table import PartTable

_INDEX_DTYPES = (torch.uint16, torch.int32)


class EncodedTable:
    """Rows of `width` values that a gather decodes, to bfloat16 (its `dtype`) or float32.

    A row is `quantised` int8 `[rows, width]` times `scales` float32 `[rows, 1]`, or zeros without them. Then
    the values of `kept` bfloat16 `[rows, k]` take their places: at `places` int32 `[k]`, columns that are the
    same in every row, or at the row's own, where `places` is a table uint16 or int32 `[rows, k]`. All tables
    have the same parts.
    """

    dtype = torch.bfloat16

    def __init__(
        self,
        width: int,
        *,
        quantised: PartTable | None = None,
        scales: PartTable | None = None,
        kept: PartTable | None = None,
        places: PartTable | np.ndarray | None = None,
    ):
        def check(piece: PartTable | None, name: str, dtypes: tuple[torch.dtype, ...], columns: int) -> None:
            if piece is not None and (piece.dtype not in dtypes or piece.width != columns):
                raise ArgumentError(
                    f"encoded table: {name} are {piece.dtype} of width {piece.width}, "
                    f"expected {' or '.join(map(str, dtypes))} of width {columns}"
                )

        pieces = [p for p in (quantised, scales, kept, places) if isinstance(p, PartTable)]
        if (quantised is None) != (scales is None) or (kept is None) != (places is None) or not pieces:
            raise ArgumentError(
                "encoded table: expected quantised with scales, kept with places, or all of them"
            )
        check(quantised, "quantised values", (torch.int8,), width)
        check(scales, "scales", (torch.float32,), 1)
        check(kept, "kept values", (torch.bfloat16,), kept.width if kept is not None else 0)
        if isinstance(places, PartTable):
            check(places, "places", _INDEX_DTYPES, kept.width if kept is not None else 0)
        elif places is not None and kept is not None:
            right = places.dtype == np.int32 and places.shape == (kept.width,)
            if not right or (places < 0).any() or (places >= width).any():
                raise ArgumentError(
                    f"encoded table: places are {places.dtype} {places.shape}, "
                    f"expected int32 ({kept.width},), each in [0, {width})"
                )
        if any(not np.array_equal(p.starts, pieces[0].starts) for p in pieces):
            raise ArgumentError("encoded table: got tables of different parts, expected the same rows in all")
        self.width = width
        self.quantised, self.scales, self.kept, self.places = quantised, scales, kept, places
        self.starts = pieces[0].starts

    @property
    def num_rows(self) -> int:
        return int(self.starts[-1])

    def __len__(self) -> int:
        return self.num_rows
