"""Batches of samples put together anew: repeated, some of them, with tokens behind."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from mmxai.errors import ArgumentError
from mmxai.models.inputs import Inputs
from mmxai.types import ROW_COLUMNS, TOKEN_CODES

_TYPE, _POSITION, _TOKEN, _SAMPLE = (
    ROW_COLUMNS.index(c) for c in ("token_type", "position", "token_id", "sample")
)
_TEXT = "text"


def repeated(inputs: Inputs, times: int) -> Inputs:
    """The whole batch `times` over. Tensors of pictures whose tiles lie one behind the other (Qwen2-VL) are
    repeated as rightly as those with a row a sample."""
    if times == 1:
        return inputs
    tensors = {k: torch.cat([x] * times) for k, x in inputs.tensors.items()}
    return Inputs(tensors, {k: torch.cat([x] * times) for k, x in inputs.rows.items()})


def some(inputs: Inputs, samples: Sequence[int]) -> Inputs:
    """The samples with these numbers. ArgumentError where a tensor has not one row a sample."""
    whole = inputs.batch_size
    if list(samples) == list(range(whole)):
        return inputs
    wrong = {k: tuple(x.shape) for k, x in inputs.tensors.items() if len(x) != whole}
    if wrong:
        raise ArgumentError(
            f"got a batch of {whole} samples whose {wrong} cannot be taken apart by sample, and a budget "
            "too small for all of them at once; trace fewer samples at a time, or raise the budget"
        )
    index = torch.as_tensor(list(samples))
    tensors = {k: x[index.to(x.device)] for k, x in inputs.tensors.items()}
    return Inputs(tensors, {k: x[index] for k, x in inputs.rows.items()})


def lengths_of(inputs: Inputs) -> torch.Tensor:
    """Tokens of each prompt, int64 `[B]`: padding stands behind. ArgumentError of what has no text."""
    if _TEXT not in inputs.rows:
        raise ArgumentError(
            f"got inputs with row spaces {sorted(inputs.rows)}, expected text: metrics of tokens are for "
            "language models; for CLIP give metric=mmxai.models.metrics.similarity or another"
        )
    real = inputs.rows[_TEXT][..., _TYPE] != TOKEN_CODES["pad"]
    lengths = real.sum(1)
    if bool((real != (torch.arange(real.shape[1]) < lengths[:, None])).any()) or not bool(lengths.all()):
        raise ArgumentError(
            "got prompts with padding in front or none at all of a prompt, expected padding behind (as "
            "model.prepare makes it)"
        )
    return lengths


def extended(inputs: Inputs, lengths: torch.Tensor, tails: Sequence[Sequence[int]]) -> Inputs:
    """Each sequence with more tokens directly behind its last."""
    if not any(tails):
        return inputs
    table = inputs.rows[_TEXT]
    before = table.shape[1]
    length = max(before, *(int(n) + len(t) for n, t in zip(lengths, tails, strict=True)))
    tensors = {}
    for name, x in inputs.tensors.items():
        # Whatever has a number a token grows with the tokens: ids, masks, token types.
        if x.ndim == 2 and x.shape == table.shape[:2] and not x.is_floating_point():
            x = torch.cat([x, x.new_zeros(len(x), length - before)], 1)
        tensors[name] = x
    if "attention_mask" not in tensors:
        there = torch.arange(length) < lengths[:, None]
        tensors["attention_mask"] = there.long().to(tensors["input_ids"].device)
    rows = torch.full((len(table), length, table.shape[2]), -1, dtype=table.dtype)
    rows[:, :before] = table
    rows[..., _SAMPLE] = table[:, :1, _SAMPLE]
    rows[..., _POSITION] = torch.arange(length, dtype=table.dtype)
    rows[:, before:, _TYPE] = TOKEN_CODES["pad"]
    for i, (start, tail) in enumerate(zip(lengths.tolist(), tails, strict=True)):
        where = slice(start, start + len(tail))
        tensors["input_ids"][i, where] = torch.tensor(list(tail), dtype=torch.int64)
        tensors["attention_mask"][i, where] = 1
        rows[i, where, _TYPE] = TOKEN_CODES["text"]
        rows[i, where, _TOKEN] = torch.tensor(list(tail), dtype=table.dtype)
    return Inputs(tensors, {**inputs.rows, _TEXT: rows})
