"""What a template shows of an example: a picture with veil and outline, or a text and its tokens."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from mmxai.report.pictures import heat_uri, inverse, outline

if TYPE_CHECKING:
    from mmxai.report.examples import Example

Decode = Callable[[int], str]


def card(
    example: Example,
    picture: str | None,
    decode: Decode | None,
    around: tuple[int, int] | None = None,
) -> dict[str, Any]:
    """`picture`: its address, None to show none. `around`: so many tokens before and after the top one."""
    sample = example.sample
    made: dict[str, Any] = {
        "example": example,
        "sample": sample,
        "picture": None,
        "where": example.kind if example.cell is None else f"cell {example.cell[0]}, {example.cell[1]}",
        "tokens": [],
        "cut": (False, False),
    }
    if example.tokens:
        made["where"] = f"token {example.position}"
        if decode is not None:
            first, last = _window(example, around)
            shown = example.tokens[first:last]
            made["tokens"] = [(decode(t.token_id), round(100 * t.level), t.top) for t in shown]
            made["cut"] = first > 0, last < len(example.tokens)
        return made
    if picture is None:
        return made
    made |= {"picture": picture, "heat": None, "outline": None, "matrix": None, "seen": None}
    matrix = None if example.tile is None else inverse(example.tile["affine"])
    if example.tile is not None and matrix is not None:
        made["matrix"] = " ".join(f"{v:.6g}" for v in matrix)
        made["seen"] = _points(outline(matrix, 0, 0, *example.tile["grid"]))
        if example.cell is not None:
            made["outline"] = _points(outline(matrix, *example.cell))
        if example.heat is not None:
            made |= {"heat": heat_uri(example.heat), "grid": example.heat.shape}
    return made


def _window(example: Example, around: tuple[int, int] | None) -> tuple[int, int]:
    total = len(example.tokens)
    at = next((i for i, t in enumerate(example.tokens) if t.top), 0)
    return (0, total) if around is None else (max(0, at - around[0]), min(total, at + around[1] + 1))


def _points(corners: list[tuple[float, float]]) -> str:
    return " ".join(f"{x:.6g},{y:.6g}" for x, y in corners)
