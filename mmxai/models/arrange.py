"""Rows of a vision tower that belong to samples, where the tower itself knows none.

In a multimodal LLM the vision tower sees pictures, or tiles of pictures, one after the other: `[tiles, T, D]`
or `[patches, D]`. A site's native tensor is `[B, R, D]`, R the most rows a sample of the batch has; samples
with fewer end in zeros, which the row table marks as padding. How many rows each sample has is known for the
time of a forward, in this thread.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar

import torch

from mmxai.errors import ModelError
from mmxai.types import ROW_COLUMNS, TOKEN_CODES

_TYPE = ROW_COLUMNS.index("token_type")
Lengths = Mapping[str, tuple[int, ...]]
_LENGTHS: ContextVar[Lengths | None] = ContextVar("mmxai_rows_of_samples", default=None)


@contextmanager
def arranged(lengths: Lengths) -> Iterator[None]:
    """lengths: row space -> rows of each sample, for the forwards inside."""
    token = _LENGTHS.set(lengths)
    try:
        yield
    finally:
        _LENGTHS.reset(token)


def known() -> bool:
    """Whether a forward here knows whose rows are whose."""
    return _LENGTHS.get() is not None


def lengths_of(rows: Mapping[str, torch.Tensor]) -> dict[str, tuple[int, ...]]:
    """Rows of each sample, from row tables int32 `[B, R, 8]`: those that are no padding."""
    return {space: tuple((t[..., _TYPE] != TOKEN_CODES["pad"]).sum(1).tolist()) for space, t in rows.items()}


def gather(space: str, read: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """The tensor a module shows -> `[B, R, D]`. read: its part, `[tiles, T, D]` or `[patches, D]`."""
    flat = read(x).flatten(0, -2)
    lengths = _known(space, len(flat))
    if len(set(lengths)) == 1:
        return flat.unflatten(0, (len(lengths), -1))
    return torch.nn.utils.rnn.pad_sequence(list(flat.split(lengths)), batch_first=True)


def scatter(
    space: str,
    read: Callable[[torch.Tensor], torch.Tensor],
    write: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    x: torch.Tensor,
    new: torch.Tensor,
) -> torch.Tensor:
    """The tensor to use instead of x, given `new` `[B, R, D]`."""
    part = read(x)
    lengths = _known(space, part.shape[:-1].numel())
    if len(set(lengths)) == 1:
        return write(x, new.reshape(part.shape))
    flat = torch.cat([one[:n] for one, n in zip(new, lengths, strict=True)])
    return write(x, flat.view(part.shape))


def _known(space: str, rows: int) -> list[int]:
    lengths = _LENGTHS.get()
    if lengths is None:
        raise ModelError(
            f"{space}: got a forward of the module itself, expected model.run, model.forward or "
            "model.generate, which know which pictures belong to which sample"
        )
    mine = list(lengths.get(space, ()))
    if sum(mine) != rows:
        raise ModelError(
            f"{space}: got {rows} rows, expected {mine} of the samples; one forward must take the pictures "
            "of all samples at once, as they are given"
        )
    return mine
