"""Which rows to change together: tokens, runs of tokens, kinds of tokens, groups of patches, at random.

All are found in the row table (`Inputs.rows`), which says of every row what it is: no index is fixed here.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from mmxai.errors import ArgumentError
from mmxai.methods.trace.types import Span
from mmxai.models.inputs import Inputs
from mmxai.types import ROW_COLUMNS, TOKEN_CODES

_TYPE, _TOKEN = ROW_COLUMNS.index("token_type"), ROW_COLUMNS.index("token_id")


def real(inputs: Inputs, space: str = "text") -> torch.Tensor:
    """bool `[B, T]`: the rows that are not padding."""
    return table(inputs, space)[..., _TYPE] != TOKEN_CODES["pad"]


def table(inputs: Inputs, space: str) -> torch.Tensor:
    """The row table int32 `[B, T, 8]`; ArgumentError naming the row spaces that there are."""
    if space not in inputs.rows:
        raise ArgumentError(f"span: got row space {space!r}, expected one of {sorted(inputs.rows)}")
    return inputs.rows[space]


def positions(inputs: Inputs, space: str = "text") -> list[Span]:
    """One span a position that any sample has."""
    there = real(inputs, space)
    spans = []
    for t in range(there.shape[1]):
        mask = torch.zeros_like(there)
        mask[:, t] = there[:, t]
        if bool(mask.any()):
            spans.append(Span(str(t), mask, space))
    return spans


def last(inputs: Inputs, space: str = "text") -> Span:
    """The last row of each sample."""
    there = real(inputs, space)
    mask = torch.zeros_like(there)
    mask[torch.arange(len(there)), there.shape[1] - 1 - there.int().flip(1).argmax(1)] = True
    return Span("last", mask & there, space)


def of_type(inputs: Inputs, *types: str, space: str = "text", name: str = "") -> Span:
    """All rows of some token types: a whole modality."""
    if unknown := sorted(set(types) - set(TOKEN_CODES)):
        raise ArgumentError(f"span: got token types {unknown}, expected some of {list(TOKEN_CODES)}")
    codes = torch.tensor([TOKEN_CODES[t] for t in types], dtype=torch.int32)
    return Span(name or "+".join(types), torch.isin(table(inputs, space)[..., _TYPE], codes), space)


def find(inputs: Inputs, tokens: Sequence[Sequence[int]], name: str = "subject", space: str = "text") -> Span:
    """In each sample the rows where its own run of token ids stands (the first time).

    tokens: one run a sample, or one for all. Raises ArgumentError where a sample lacks it.
    """
    ids = table(inputs, space)[..., _TOKEN]
    runs = list(tokens) * len(ids) if len(tokens) == 1 else list(tokens)
    if len(runs) != len(ids):
        raise ArgumentError(f"span {name!r}: got {len(runs)} runs of tokens for {len(ids)} samples")
    mask = torch.zeros(ids.shape, dtype=torch.bool)
    for i, (row, run) in enumerate(zip(ids.tolist(), runs, strict=True)):
        n = len(run)
        at = next((t for t in range(len(row) - n + 1) if n and row[t : t + n] == list(run)), None)
        if at is None:
            raise ArgumentError(f"span {name!r}: sample {i} has no tokens {list(run)} in {row}")
        mask[i, at : at + n] = True
    return Span(name, mask, space)


def chosen(mask: torch.Tensor, name: str, space: str = "text") -> Span:
    """The rows of a mask, bool `[B, T]`."""
    return Span(name, mask, space)


def together(spans: Sequence[Span], name: str) -> Span:
    """The rows of any of the spans."""
    spaces = {s.space for s in spans}
    if len(spaces) != 1:
        raise ArgumentError(f"span {name!r}: got spans of row spaces {sorted(spaces)}, expected one")
    return Span(name, torch.stack([s.mask for s in spans]).any(0), spaces.pop())


def random(like: Span, among: torch.Tensor, draws: int, seed: int = 0) -> list[Span]:
    """As many rows as `like` has in each sample, drawn from `among` (bool `[B, T]`) without those of `like`:
    the control. Raises ArgumentError where there are too few."""
    others = among & ~like.mask
    sizes = like.mask.sum(1)
    if bool((others.sum(1) < sizes).any()):
        raise ArgumentError(
            f"random spans like {like.name!r}: got {others.sum(1).tolist()} rows to draw "
            f"{sizes.tolist()} from, expected as many at least in each sample"
        )
    generator = torch.Generator().manual_seed(seed)
    spans = []
    for draw in range(draws):
        order = torch.rand(others.shape, generator=generator).masked_fill(~others, 2.0).argsort(1).argsort(1)
        spans.append(Span(f"random {draw} as {like.name}", order < sizes[:, None], like.space))
    return spans


def attention(queries: Span, keys: Span, name: str = "") -> Span:
    """Rows `queries` that may not read rows `keys`: the span of a knockout."""
    if queries.space != keys.space:
        raise ArgumentError(
            f"attention: got queries of {queries.space!r} and keys of {keys.space!r}, expected one row space"
        )
    return Span(name or f"{queries.name} to {keys.name}", queries.mask, queries.space, keys.mask)
