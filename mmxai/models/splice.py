"""How pictures enter a language model: what an adapter of a multimodal LLM declares beside its towers.

The text of a sample has one placeholder token for every soft token of its pictures. A `Splice` says which id
that is, what decides how many there are, and which cell of which tile each of them shows; row tables,
example inputs and prompts follow from that. No position is ever a constant.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol

import torch
from torch.nn import functional as F

from mmxai.models.adapter import Tap, Tower
from mmxai.models.images import EncodedImage
from mmxai.types import ROW_COLUMNS, TOKEN_CODES

Name = Callable[[int], str]
"""Id of a token -> its string."""

Extent = tuple[int, ...]
"""Whatever decides a picture's layout: its size, or its grid; as the family's `extents` makes it."""


@dataclass(frozen=True)
class Layout:
    """The rows of one picture: int32 `[n, 4]`, token type, tile, y, x (-1 where there is none), in order.

    vision: of the vision tower; pooled: of what it gives once a tile (`vision.pooled`); projector: of what
    the projector puts out; text: of the picture's placeholders in the text. tiles: entries of the sample
    record's `tiles` that the picture has; a sample's next picture counts on from there.
    """

    vision: torch.Tensor
    pooled: torch.Tensor
    projector: torch.Tensor
    text: torch.Tensor
    tiles: int


class Pictures(Protocol):
    """Raw pictures -> tensors; `ImagePipeline` is one. `EncodedImage.extra` holds what goes beside pixels."""

    @property
    def identity(self) -> dict[str, Any]: ...
    def __call__(self, image: Any, *, key: str = "picture") -> EncodedImage: ...


@dataclass(frozen=True)
class Splice:
    """See the file's head. Functions get the model's whole config first.

    token: id of the placeholder. extents: (config, tensors) -> of each picture what decides its layout, from
        ready tensors. layout: (config, extent) -> its rows. example: config -> tensors of one picture, as
        `pictures` makes them, blank. longest: config -> the layout with the most rows. limit: (image
        processor, config) -> that of the pictures which a processor makes, where the config does not tell.
    pictures: (image processor, config) -> pipeline of raw pictures. One picture gives each tensor of `join`;
        how those of several come together: "stack" (one size of all), "pad" (zeros behind the first
        dimension, then stacked), "cat" (along the first dimension).
    prompt: what is asked where the model has no chat template; `{image}` and `{text}` in it, `{bos}` for the
        tokenizer's begin token. mark: config -> id of what chat templates write for a picture, where that is
        not the placeholder. expand: (config, id -> its string) -> what stands in a prompt for that mark, the
        placeholder in it once. bare: prompts have all special tokens in them, and the tokenizer adds none.
    special: config -> ids that mark where pictures begin and end. beside_ids: what the forward takes beside
        ids, `[B, T]`, by argument name: (config, text's row table int32 `[B, T, 8]`) -> tensor.
    live: config -> how many blocks of the vision tower reach the text; those behind run for nothing.
    """

    token: Callable[[Any], int]
    extents: Callable[[Any, Mapping[str, torch.Tensor]], list[Extent]]
    layout: Callable[[Any, Extent], Layout]
    example: Callable[[Any], dict[str, torch.Tensor]]
    longest: Callable[[Any], Layout]
    limit: Callable[[Any, Any], Layout] | None = field(default=None, kw_only=True)
    pictures: Callable[[Any, Any], Pictures]
    prompt: str
    join: Mapping[str, Literal["stack", "pad", "cat"]] = field(
        default_factory=lambda: {"pixel_values": "stack"}
    )
    mark: Callable[[Any], int] | None = None
    expand: Callable[[Any, Name], str] | None = None
    special: Callable[[Any], Sequence[int]] = lambda config: ()
    beside_ids: Mapping[str, Callable[[Any, torch.Tensor], torch.Tensor]] = field(default_factory=dict)
    live: Callable[[Any], int] | None = None
    bare: bool = False


def cells(kind: str, tile: int, height: int, width: int) -> torch.Tensor:
    """The cells of a grid in row order: `[height * width, 4]`, see `Layout`."""
    index = torch.arange(height * width, dtype=torch.int32)
    columns = [torch.full_like(index, TOKEN_CODES[kind]), torch.full_like(index, tile), index // width]
    return torch.stack([*columns, index % width], 1)


def single(kind: str, tile: int) -> torch.Tensor:
    """A row without a cell `[1, 4]`: a class token, a pooled row (kind "": no token)."""
    return torch.tensor([[TOKEN_CODES[kind] if kind else -1, tile, -1, -1]], dtype=torch.int32)


def soft(rows: torch.Tensor) -> torch.Tensor:
    """The same cells as soft tokens of the text."""
    out = rows.clone()
    out[:, 0] = TOKEN_CODES["image"]
    return out


def shown(rows: torch.Tensor) -> torch.Tensor:
    """int64 `[B, T]` of the text's row table: 1 where a picture is, else 0."""
    return (rows[..., ROW_COLUMNS.index("token_type")] == TOKEN_CODES["image"]).long()


def inside(tower: Tower, paths: Sequence[str], config: str, **changes: Any) -> Tower:
    """A family's tower as part of a larger model: `paths` are where its object may be, `config` its own."""
    roots = tuple(".".join(p for p in (path, root) if p) for path in paths for root in tower.roots)
    return replace(tower, roots=roots, config=config, **changes)


def beside(path: str) -> Mapping[str, Tap]:
    """The projector's site, by its path from the loaded object ("a|b": the first that is there)."""
    return {"projector": Tap(path, width="joint")}


def join(tensors: Sequence[torch.Tensor], how: Literal["stack", "pad", "cat"]) -> torch.Tensor:
    """One tensor of several pictures'."""
    if how == "cat":
        return torch.cat(list(tensors))
    if how == "pad":
        most = max(len(x) for x in tensors)
        tensors = [F.pad(x, (0, 0) * (x.ndim - 1) + (0, most - len(x))) for x in tensors]
    return torch.stack(list(tensors))
