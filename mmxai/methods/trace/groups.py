"""Which rows of a sample a question is about: patches under an object, words of a text.

Everything is read off the row table (token type, cell, tile, token id); no index of a token is known here.
Groups are masks over the rows of one sample, bool `[T]`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

import numpy as np
import torch

from mmxai.errors import ArgumentError
from mmxai.models.geometry import Tile, mask_cells
from mmxai.types import ROW_COLUMNS, TOKEN_CODES, TOKEN_TYPES

OBJECT, RING, BACKGROUND = "object", "ring", "background"

_TYPE, _ID, _TILE, _Y, _X = (ROW_COLUMNS.index(c) for c in ("token_type", "token_id", "image", "y", "x"))
_GRIDDED = ("patch", "image")


def of_types(rows: torch.Tensor, *types: str) -> torch.Tensor:
    """The rows `[T, 8]` of some token types: bool `[T]`."""
    if unknown := sorted(set(types) - set(TOKEN_TYPES)):
        raise ArgumentError(f"token types: got {unknown}, expected some of {list(TOKEN_TYPES)}")
    return torch.isin(rows[:, _TYPE], torch.tensor([TOKEN_CODES[t] for t in types], dtype=rows.dtype))


def gridded(rows: torch.Tensor) -> torch.Tensor:
    """The rows that stand for a cell of a picture: bool `[T]`."""
    return of_types(rows, *_GRIDDED) & (rows[:, _Y] >= 0) & (rows[:, _X] >= 0)


def token_ids(rows: torch.Tensor) -> list[int]:
    """The vocabulary id of each row."""
    return [int(i) for i in rows[:, _ID]]


def patch_groups(
    rows: torch.Tensor, tiles: Sequence[Tile], where: np.ndarray, share: float = 0.5
) -> dict[str, torch.Tensor]:
    """The patches of an object, those around it, and the others: name -> bool `[T]`.

    rows: `[T, 8]` of one sample. tiles: its picture's. where: bool `[H, W]`, the object's pixels in the
    original picture. Object: cells of which `where` covers `share` or more; of a smaller object those that it
    covers most. Ring: cells that touch one of these or hold any of the object. An empty group is left out.
    Every tile is treated alike, so that an object is found in each that shows it.
    """
    cells = gridded(rows)
    if not cells.any():
        raise ArgumentError("patch_groups: got rows without a cell of a picture, expected patches")
    covered = [mask_cells(tile, where) for tile in tiles]
    most = max(float(c.max()) for c in covered)
    if most <= 0:
        raise ArgumentError(
            "patch_groups: no patch sees any pixel of the region (the picture is cropped there), expected one"
        )
    inside = [c >= min(share, most) for c in covered]
    near = [_grown(i) | (c > 0) for i, c in zip(inside, covered, strict=True)]
    is_object, is_near = _looked_up(rows, cells, inside), _looked_up(rows, cells, near)
    groups = {OBJECT: is_object, RING: is_near & ~is_object, BACKGROUND: cells & ~is_near}
    return {name: group for name, group in groups.items() if group.any()}


def random_groups(allowed: torch.Tensor, size: int, draws: int, seed: int = 0) -> list[torch.Tensor]:
    """`draws` groups of `size` different rows among the allowed: bool `[T]` each, the control of a group."""
    there = allowed.nonzero().flatten()
    if not 0 < size <= len(there):
        raise ArgumentError(
            f"random groups: got groups of {size} among {len(there)} rows, expected at least 1 and at most "
            "as many; take fewer rows at a time"
        )
    drawn, made = torch.Generator().manual_seed(seed), []
    for _ in range(draws):
        group = torch.zeros_like(allowed)
        group[there[torch.randperm(len(there), generator=drawn)[:size]]] = True
        made.append(group)
    return made


def squares(rows: torch.Tensor, side: int = 1) -> dict[tuple[int, int, int], torch.Tensor]:
    """Patches in squares of `side` x `side` cells: (tile, y, x) of the first cell -> bool `[T]`."""
    if side < 1:
        raise ArgumentError(f"squares: got side {side}, expected cells, at least 1")
    at = torch.stack([rows[:, _TILE], rows[:, _Y] // side * side, rows[:, _X] // side * side], 1)
    cells = gridded(rows)
    return {tuple(place.tolist()): (at == place).all(1) & cells for place in at[cells].unique(dim=0)}


def words(rows: torch.Tensor, decode: Callable[[list[int]], str], text: str) -> torch.Tensor:
    """The rows of the tokens that a string is made of, at its first place: bool `[T]`.

    A token counts that holds any of its characters. decode: token ids -> text. Tokens are decoded together,
    for those of some vocabularies are parts of characters and lose a space alone. Raises ArgumentError where
    the text does not hold the string.
    """
    kept = of_types(rows, "text", "generated").nonzero().flatten()
    ids = rows[kept, _ID].tolist()
    whole, ends = decode(ids), [len(decode(ids[:n])) for n in range(len(ids) + 1)]
    start = whole.find(text) if text else -1
    if start < 0:
        raise ArgumentError(f"got {text!r}, expected a part of the text {whole!r}, spelt as there")
    stop, group = start + len(text), torch.zeros(len(rows), dtype=torch.bool)
    held: list[bool] = []
    for a, b in pairwise(np.minimum.accumulate(ends[::-1])[::-1].tolist()):
        # A token that adds no character completes the one before it.
        held.append(held[-1] if a == b and held else a < stop and b > start)
    group[kept[torch.tensor(held)]] = True
    return group


def _looked_up(rows: torch.Tensor, cells: torch.Tensor, grids: Sequence[np.ndarray]) -> torch.Tensor:
    """The value of each row's own cell: bool `[T]`, False of rows without one."""
    out = torch.zeros(len(rows), dtype=torch.bool)
    for at in cells.nonzero().flatten().tolist():
        tile, y, x = (int(rows[at, c]) for c in (_TILE, _Y, _X))
        if tile >= len(grids) or y >= grids[tile].shape[0] or x >= grids[tile].shape[1]:
            sizes: Mapping[int, tuple[int, ...]] = {i: g.shape for i, g in enumerate(grids)}
            raise ArgumentError(
                f"patch_groups: got a row of tile {tile}, cell ({y}, {x}), expected one of the picture's "
                f"tiles and grids {sizes}; give the tiles of the sample that the rows are of"
            )
        out[at] = bool(grids[tile][y, x])
    return out


def _grown(inside: np.ndarray) -> np.ndarray:
    """Cells that are set or touch one that is, diagonally too."""
    padded = np.pad(inside, 1)
    h, w = inside.shape
    return np.any([padded[i : i + h, j : j + w] for i in range(3) for j in range(3)], axis=0)
