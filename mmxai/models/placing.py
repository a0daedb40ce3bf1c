"""Row tables of pictures: from the layouts of a sample's pictures to who each row is, in every row space."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from mmxai.errors import ArgumentError
from mmxai.models.splice import Layout
from mmxai.types import ROW_COLUMNS, TOKEN_CODES

_SAMPLE, _POSITION, _TYPE = (ROW_COLUMNS.index(c) for c in ("sample", "position", "token_type"))
_PLACED = [ROW_COLUMNS.index(c) for c in ("token_type", "image", "y", "x")]


def counted(ids: torch.Tensor, token: int, soft: Sequence[int]) -> list[int]:
    """How many pictures each text `[B, T]` has, by its placeholders. soft: how many each picture takes."""
    counts, left = [], list(soft)
    for places in (ids == token).sum(1).tolist():
        taken, found = 0, 0
        while found < places and left:
            found, taken = found + left.pop(0), taken + 1
        if found != places:
            raise ArgumentError(
                f"input_ids: got a text with {places} placeholders (token {token}), expected those of its "
                f"pictures: the pictures given take {list(soft)}"
            )
        counts.append(taken)
    if left:
        raise ArgumentError(
            f"pixel_values: got pictures that take {list(soft)} soft tokens, expected as many placeholders "
            f"(token {token}) in input_ids, which lack those of the last {len(left)}"
        )
    return counts


def mark(
    rows: torch.Tensor, ids: torch.Tensor, texts: Sequence[torch.Tensor], token: int, special: Sequence[int]
) -> None:
    """Write the soft tokens of each sample, `[n, 4]` of `Layout.text`, to the places of their placeholders in
    the row table of texts `[B, T, 8]`; `special`: ids that mark where pictures begin and end.
    """
    for b, placed in enumerate(texts):
        at = (ids[b] == token).nonzero().flatten()
        if len(at) != len(placed):
            raise ArgumentError(
                f"sample {int(rows[b, 0, _SAMPLE])}: got {len(at)} placeholders (token {token}), expected "
                f"{len(placed)} for its pictures"
            )
        rows[b, at[:, None], torch.tensor(_PLACED)] = placed
    marked = torch.isin(ids, torch.tensor(list(special), dtype=ids.dtype))
    marked &= rows[..., _TYPE] == TOKEN_CODES["text"]
    rows[..., _TYPE][marked] = TOKEN_CODES["special"]


def joined(layouts: Sequence[Layout]) -> dict[str, torch.Tensor]:
    """The rows of a sample's pictures, tiles counted through: row space -> int32 `[n, 4]`."""
    spaces = {"vision": "vision", "vision.pooled": "pooled", "projector": "projector", "text": "text"}
    parts: dict[str, list[torch.Tensor]] = {s: [torch.empty(0, 4, dtype=torch.int32)] for s in spaces}
    first = 0
    for layout in layouts:
        for space, name in spaces.items():
            rows = getattr(layout, name).clone()
            rows[:, 1] += first * (rows[:, 1] >= 0)
            parts[space].append(rows)
        first += layout.tiles
    return {space: torch.cat(rows) for space, rows in parts.items()}


def table(rows: Sequence[torch.Tensor], samples: torch.Tensor, positions: bool) -> torch.Tensor:
    """Row table int32 `[B, R, 8]` of samples' rows `[n, 4]`; what a sample has fewer is padding."""
    most = max(1, *(len(r) for r in rows))
    out = torch.full((len(rows), most, len(ROW_COLUMNS)), -1, dtype=torch.int32)
    out[..., _SAMPLE] = samples[:, None]
    out[..., _TYPE] = TOKEN_CODES["pad"]
    if positions:
        out[..., _POSITION] = torch.arange(most, dtype=torch.int32)
    for b, own in enumerate(rows):
        out[b, : len(own), torch.tensor(_PLACED)] = own
    return out
