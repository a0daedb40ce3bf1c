"""What a trace is made of: spans of rows, cells to intervene in, and what a corruption gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import torch

from mmxai.capture.hooks import Edit
from mmxai.errors import ArgumentError
from mmxai.models.inputs import Inputs
from mmxai.models.model import Model

Mode = Literal["restore", "patch"]
"""restore: the corrupted run with clean values put back (denoising). patch: the clean run with other values
put in (noising, ablation)."""

Replace = Literal["other", "mean", "zero", "resample", "noise"]
"""What is put in. other: the values of the other run (clean ones in "restore", corrupted ones in "patch")."""

ATTENTION = "attention"
"""The kind of a cell that blocks attention between two spans."""


@dataclass(frozen=True, eq=False)
class Span:
    """Rows of a row space that are changed together.

    mask: bool `[B, T]` over the row table `Inputs.rows[space]`; each sample has its own rows, or none.
    keys: of attention that is blocked, the rows `[B, T]` that `mask` may no longer read.
    """

    name: str
    mask: torch.Tensor
    space: str = "text"
    keys: torch.Tensor | None = None

    def __post_init__(self) -> None:
        for mask in (self.mask, self.keys):
            if mask is not None and (mask.dtype != torch.bool or mask.ndim != 2):
                raise ArgumentError(
                    f"span {self.name!r}: got a mask {mask.dtype} {tuple(mask.shape)}, expected bool [B, T]"
                )


@dataclass(frozen=True)
class Cell:
    """One intervention: a kind of site, in the blocks `block` to `block + window - 1` (None: a site without
    block, as `embed`), at the rows of a span (its number in the study's spans).

    heads: of `q k v z`: these heads' columns alone; of "attention": these heads alone. None: all.
    """

    kind: str
    block: int | None
    span: int
    window: int = 1
    heads: tuple[int, ...] | None = None

    def blocks(self) -> range:
        """The blocks; empty where the site has none."""
        return range(0) if self.block is None else range(self.block, self.block + self.window)

    def sites(self, tower: str) -> list[str]:
        """Names of the sites whose values are replaced; none where attention is blocked."""
        if self.kind == ATTENTION:
            return []
        if self.block is None:
            return [self.kind if self.kind.startswith("module:") else f"{tower}.{self.kind}"]
        return [f"{tower}.{b}.{self.kind}" for b in self.blocks()]


@dataclass
class Corrupted:
    """What a corruption makes of B clean samples: `draws` x B of them, draw by draw.

    inputs: what the model is fed. edits: site -> edit that holds while it runs (noise on embeddings); the
    same values each time it is called.
    """

    inputs: Inputs
    edits: Mapping[str, Edit] = field(default_factory=dict)
    draws: int = 1


class Corruption(Protocol):
    """Makes the corrupted run of some samples.

    what: for people ("Gaussian noise at 3 sigma"). draws: how many corrupted samples of each clean one.
    """

    @property
    def what(self) -> str: ...
    @property
    def draws(self) -> int: ...

    def __call__(self, model: Model, clean: Inputs, samples: Sequence[int]) -> Corrupted:
        """clean: the samples with these numbers, of those that the study was given. What is drawn for a
        sample depends on its number, not on which samples stand beside it."""
        ...
