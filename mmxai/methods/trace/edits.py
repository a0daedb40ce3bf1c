"""What cells do to a batch of copies of the samples: edits of sites, and attention that is blocked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from mmxai.capture.hooks import Edit
from mmxai.methods.trace.types import ATTENTION, Cell
from mmxai.models.attention import Call, Handler
from mmxai.models.attention_masks import block
from mmxai.models.edits import head_columns

if TYPE_CHECKING:
    from mmxai.methods.trace.runs import Runs


def edits_of(runs: Runs, cells: Sequence[Cell], start: int = 0) -> dict[str, Edit]:
    """Site -> edit of `[c * n, T - start, D]`: cell i changes copy i, of those that are there.

    c may be fewer than there are cells, as long as those that change the site are among the first c.
    """
    by_site: dict[str, list[int]] = {}
    for i, cell in enumerate(cells):
        for site in cell.sites(runs.study.tower):
            by_site.setdefault(site, []).append(i)
    return {
        site: _edit(runs, site, [(i, cells[i]) for i in chosen], start) for site, chosen in by_site.items()
    }


def _edit(runs: Runs, site: str, chosen: Sequence[tuple[int, Cell]], start: int) -> Edit:
    copies = [i for i, _ in chosen]
    masks = torch.stack([runs.mask(runs.study.spans[c.span].mask)[:, start:] for _, c in chosen])
    columns = _columns(runs, site, [c for _, c in chosen])
    source = runs.source(site)
    source = source[:, start:] if source.shape[1] > 1 else source
    n, run_of = runs.width, copies == list(range(copies[0], copies[0] + len(copies)))

    def edit(x: torch.Tensor) -> torch.Tensor:
        where = masks.to(x.device)[..., None]
        if columns is not None:
            where = where & columns.to(x.device)[:, None, None]
        new = source.to(x.device, x.dtype)
        if x.shape[1] < source.shape[1] or x.shape[1] != masks.shape[2]:
            where = where[:, :, : x.shape[1]]
        out = x.clone().unflatten(0, (-1, n))
        if run_of:
            part = out[copies[0] : copies[-1] + 1]
            part.copy_(torch.where(where, new, part))
        else:
            index = torch.tensor(copies, device=x.device)
            out[index] = torch.where(where, new, out[index])
        return out.flatten(0, 1)

    return edit


def _columns(runs: Runs, site: str, cells: Sequence[Cell]) -> torch.Tensor | None:
    """bool `[cells, D]`: the columns each changes; None where all change all."""
    if all(c.heads is None for c in cells):
        return None
    width = runs.study.model.width_of(site)
    found = torch.ones(len(cells), width, dtype=torch.bool)
    number = runs.study.model.heads_of(site)
    for i, cell in enumerate(cells):
        if cell.heads is not None:
            found[i] = False
            found[i, head_columns(cell.heads, number or 1, width)] = True
    return found


def handlers_of(runs: Runs, cells: Sequence[Cell], start: int = 0) -> dict[int, Handler]:
    """Block -> handler of its attention calls, queries being the rows from `start` on."""
    by_block: dict[int, list[int]] = {}
    for i, cell in enumerate(cells):
        for b in cell.blocks() if cell.kind == ATTENTION else ():
            by_block.setdefault(b, []).append(i)
    return {b: _handler(runs, [(i, cells[i]) for i in chosen], start) for b, chosen in by_block.items()}


def _handler(runs: Runs, chosen: Sequence[tuple[int, Cell]], start: int) -> Handler:
    pairs = []
    for i, cell in chosen:
        span = runs.study.spans[cell.span]
        keys = span.mask if span.keys is None else span.keys
        pairs.append((i, cell.heads, runs.mask(span.mask)[:, start:], runs.mask(keys)))
    by_head = any(heads is not None for _, heads, _, _ in pairs)

    def handle(call: Call) -> Call:
        batch, heads, queries = call.query.shape[:3]
        keys_here = call.key.shape[2]
        size = (batch // runs.width, runs.width, heads if by_head else 1, queries, keys_here)
        blocked = torch.zeros(size, dtype=torch.bool, device=call.query.device)
        for i, some, query, key in pairs:
            both = (query[:, :queries, None] & key[:, None, :keys_here]).to(blocked.device)
            if some is None:
                blocked[i] |= both[:, None]
            else:
                blocked[i, :, list(some)] |= both[:, None]
        return block(call, blocked.flatten(0, 1))

    return handle
