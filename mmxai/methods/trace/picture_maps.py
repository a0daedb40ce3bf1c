"""Maps over the rows of a picture, in any tower that has them: patches, groups, random groups beside."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from mmxai.errors import ArgumentError
from mmxai.methods.trace import groups
from mmxai.methods.trace.question import NAMES, Wanted, spans_of
from mmxai.methods.trace.types import ATTENTION, Span

if TYPE_CHECKING:
    from mmxai.models.model import Model

WHOLE = "picture"
RANDOM = 5
"""Draws of random rows beside a group."""
GRID = 8
"""Most squares a side of a map over the picture, unless asked otherwise."""

STREAM = "resid_post"


def side_of(rows: torch.Tensor, most: int) -> int:
    """Cells a side of the squares, so that no tile has more than `most` squares a side."""
    if most < 1:
        raise ArgumentError(f"--grid: got {most}, expected at least 1 square a side")
    cells = rows[groups.gridded(rows)][:, 2:4]
    return -(-(int(cells.max()) + 1) // most)


def blocks_of(model: Model, tower: str) -> int:
    """The tower's blocks that what comes after it reads."""
    bound = model.towers[tower]
    return getattr(bound, "live", None) or bound.dims.blocks


def named_groups(
    rows: torch.Tensor, tiles: Sequence[Any], where: np.ndarray | None
) -> dict[str, torch.Tensor]:
    """The groups of a picture's rows: object, ring and background of a region, or all."""
    if where is None:
        return {WHOLE: groups.gridded(rows)}
    return groups.patch_groups(rows, tiles, where)


def patch_map(model: Model, tower: str, rows: torch.Tensor, most: int) -> Wanted:
    """The stream restored at each square of patches, block by block."""
    side = side_of(rows, most)
    found = groups.squares(rows, side)
    labels = [f"{y}, {x}" if not tile else f"{y}, {x} of tile {tile}" for tile, y, x in found]
    what = "patch" if side == 1 else f"{side} x {side} patches"
    return Wanted(
        f"{NAMES[STREAM]} at each patch, {tower} tower",
        f"The corrupted run with the stream behind one block put back to the clean run's at one {what}.",
        "patches", STREAM, spans_of(list(found.values()), labels, tower), labels, blocks_of(model, tower),
        places=list(found), side=side,
    )  # fmt: skip


def group_map(
    model: Model,
    tower: str,
    rows: torch.Tensor,
    named: dict[str, torch.Tensor],
    others: dict[str, torch.Tensor],
    *,
    kind: str = STREAM,
    window: int = 1,
    seed: int = 0,
) -> Wanted:
    """A kind of site restored at whole groups of rows, beside random groups as large as the object.

    others: groups of rows that are no patches (words, the last token).
    """
    drawn, control_of = controls(named, seed)
    every = {**named, **others, **{f"random {i + 1}": g for i, g in enumerate(drawn)}}
    labels, many = list(every), len(every)
    counts = ", ".join(f"{name} {int(g.sum())}" for name, g in [*named.items(), *others.items()])
    control = f" Random: as many patches as the object has, drawn from all others, {len(drawn)} draws."
    return Wanted(
        f"{NAMES[kind]} at groups of rows, {tower} tower",
        f"The corrupted run with {NAMES[kind]} of {window} block{'s' * (window > 1)} put back to the clean "
        f"run's at all rows of a group. Rows: {counts}.{control if drawn else ''}",
        "groups", kind, spans_of(list(every.values()), labels, tower), labels, blocks_of(model, tower),
        window, random=range(many - len(drawn), many), control_of=control_of,
    )  # fmt: skip


def controls(named: dict[str, torch.Tensor], seed: int) -> tuple[list[torch.Tensor], str]:
    """Random groups as large as the object, of the patches that are not the object; none without one, or
    where it has more than half of the patches."""
    if groups.OBJECT not in named:
        return [], ""
    rest = torch.stack([g for name, g in named.items() if name != groups.OBJECT] or [~named[groups.OBJECT]])
    size, others = int(named[groups.OBJECT].sum()), rest.any(0)
    if len(named) == 1 or int(others.sum()) < size:
        return [], ""
    return groups.random_groups(others, size, RANDOM, seed), groups.OBJECT


def knockouts(
    rows: torch.Tensor,
    named: dict[str, torch.Tensor],
    question: torch.Tensor,
    last: torch.Tensor,
    *,
    blocks: int,
    window: int,
    seed: int = 0,
) -> list[Wanted]:
    """Attention of the language tower blocked between spans, in windows of blocks, beside random spans of
    equal size.

    The whole picture's control would need as many other rows as it has; where there are fewer it has none.
    """
    picture, text = groups.gridded(rows), question & ~last
    later = torch.arange(len(rows))
    pairs: dict[str, tuple[torch.Tensor, torch.Tensor]] = {
        "picture to question": (text, picture),
        "picture to last": (last, picture),
        "question to last": (last, text),
    }
    if groups.OBJECT in named:
        pairs["object to question"] = (text, named[groups.OBJECT])
        pairs["object to last"] = (last, named[groups.OBJECT])
    made = []
    for name, (queries, keys) in pairs.items():
        if not (bool(queries.any()) and bool(keys.any())):
            continue
        # Rows that the queries can see at all, and that are not what is blocked.
        seen = (later < int(queries.nonzero().max())) & ~keys & ~queries & groups.of_types(
            rows, "text", "special", "image"
        )  # fmt: skip
        if name.startswith("object"):
            seen &= picture
        size = int(keys.sum())
        drawn = groups.random_groups(seen, size, RANDOM, seed) if int(seen.sum()) >= size else []
        columns = {name: keys, **{f"random {i + 1}": g for i, g in enumerate(drawn)}}
        spans = [Span(label, queries[None], "text", group[None]) for label, group in columns.items()]
        said = (
            f"Random: as many rows ({size}) instead, {len(drawn)} draws." if drawn
            else f"No control: there are fewer than {size} other rows to draw."
        )  # fmt: skip
        reader, read = name.split(" to ")[1], name.split(" to ")[0]
        made.append(
            Wanted(
                f"attention from {read} to {reader}, blocked",
                f"The clean run in which the {reader} token{'s' * (reader != 'last')} may not read the "
                f"{read}'s rows in {window} block{'s' * (window > 1)} from the one shown on. {said}",
                "knockouts", ATTENTION, spans, list(columns), blocks, window, random=range(1, len(columns)),
                control_of=name,
            )
        )  # fmt: skip
    return made
