"""Two batches that are compared row by row."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from mmxai.errors import ArgumentError
from mmxai.types import ROW_COLUMNS, TOKEN_CODES

if TYPE_CHECKING:
    from mmxai.models import Model
    from mmxai.models.inputs import Inputs

_TYPE = ROW_COLUMNS.index("token_type")


def checked_pair(model: Model, one: Any, two: Any) -> tuple[Inputs, Inputs]:
    """Both as `Inputs`. ArgumentError where a row of one has no row of the other to stand for it."""
    first, second = model.prepare(one), model.prepare(two)
    if set(first.rows) != set(second.rows):
        raise ArgumentError(
            f"got inputs with rows of {sorted(first.rows)} and of {sorted(second.rows)}, expected the same "
            "kinds of input in both"
        )
    for space in first.rows:
        a, b = first.rows[space], second.rows[space]
        pad = TOKEN_CODES["pad"]
        if a.shape != b.shape or not torch.equal(a[..., _TYPE] == pad, b[..., _TYPE] == pad):
            lengths = [(rows[..., _TYPE] != pad).sum(1).tolist() for rows in (a, b)]
            raise ArgumentError(
                f"{space}: got samples of {lengths[0]} rows and of {lengths[1]}, expected as many in each "
                "pair, for a row is patched by the row at its place; choose words of equally many tokens"
            )
    return first, second
