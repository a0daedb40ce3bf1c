"""Levels of each unit's values, from low to high, at which curves over thresholds are taken.

They are order statistics of cells drawn at random: the k-th largest, k in geometric steps, so that between
two of them the number of cells above grows by a few percent, in the tail as in the bulk. What is counted at
them is counted of all cells; only where they lie is drawn. A value that comes more than once (a ReLU's 0) has
a level at it and one just below, so that its ties are kept apart from what is near them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch

from mmxai.errors import NonFiniteError
from mmxai.methods.dissect.config import DissectConfig
from mmxai.methods.dissect.passes import Cells
from mmxai.methods.dissect.sources import Source
from mmxai.methods.dissect.thresholds import Keep, chosen_rows

LEVELS = 256

_SORTED = 1 << 23
"""Values that are ordered at once, of all units; 32 MiB."""

_ENTRIES = 64
"""Values a row of a site stored as topk is taken to have."""


def levels(source: Source, cells: Cells, config: DissectConfig, keep: Keep | None = None) -> torch.Tensor:
    """float32 `[U, LEVELS]`, ascending. Of sites stored as topk: at 0, and of the values that are not 0."""
    most = max(1, _SORTED // (_ENTRIES if source.sparse else source.count))
    drawn = replace(config, exact=False, sketch_rows=min(config.sketch_rows, most))
    blocks = chosen_rows(source, cells, drawn, keep).blocks()
    found = _sparse(source, blocks) if source.sparse else _dense(source, blocks)
    if not torch.isfinite(found).all():
        unit = source.start + int((~torch.isfinite(found)).any(1).nonzero()[0, 0])
        raise NonFiniteError(f"{source.name}: got NaN or inf of unit {unit}, expected finite activations")
    # The first of equal levels goes just below them.
    again = torch.zeros_like(found, dtype=torch.bool)
    again[:, :-1] = found[:, :-1] == found[:, 1:]
    again[:, 1:] &= found[:, 1:] > found[:, :-1]
    return torch.where(again, just_below(found), found)


def just_below(x: torch.Tensor) -> torch.Tensor:
    """The next number of float32 below."""
    return torch.nextafter(x, torch.tensor(-torch.inf))


def _dense(source: Source, blocks: Iterator[np.ndarray]) -> torch.Tensor:
    x = torch.cat([source.values(rows).float() for rows in blocks]).T.contiguous()
    ordered = x.sort(dim=1).values  # NaN is the largest
    rank = _ranks(np.array([x.shape[1]]))[0]
    return ordered[:, torch.from_numpy(x.shape[1] - rank)].contiguous()


def _sparse(source: Source, blocks: Iterator[np.ndarray]) -> torch.Tensor:
    held = [source.entries(rows) for rows in blocks]
    unit = np.concatenate([codes.indices.numpy() for codes in held])
    value = np.concatenate([codes.values.numpy() for codes in held])
    ordered = np.append(value[np.lexsort((value, unit))], np.float32(0))
    count = np.bincount(unit, minlength=source.count)
    rank = _ranks(count)[:, 2:]  # the lowest make room for 0, twice
    at = np.where(count[:, None] > 0, count.cumsum()[:, None] - rank, len(value))
    found = np.concatenate([np.zeros((source.count, 2), np.float32), ordered[at]], 1)
    return torch.from_numpy(np.sort(found, axis=1))


def _ranks(count: np.ndarray) -> np.ndarray:
    """Ranks from the largest of `count` `[U]` values, int64 `[U, LEVELS]`: from `count` down to 1."""
    most = np.maximum(count, 1)[:, None]
    rank = np.rint(np.exp(np.log(most) * np.linspace(1, 0, LEVELS))).astype(np.int64)
    # Where there are no more values than levels every value is one.
    fewer = np.maximum(most - np.arange(LEVELS), 1)
    return np.where(most <= LEVELS, fewer, rank)
