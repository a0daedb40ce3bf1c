"""A corrupted picture for a study: by name as at the command line, with what was done in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from mmxai.errors import ArgumentError
from mmxai.methods.trace import groups, pictures
from mmxai.methods.trace.corruptions import Counterfactual, Noise
from mmxai.methods.trace.dropout import Dropped
from mmxai.methods.trace.types import Corrupted, Span
from mmxai.types import TOKEN_CODES

if TYPE_CHECKING:
    from PIL import Image

    from mmxai.models.inputs import Inputs
    from mmxai.models.model import Model

HOW = ("blur", "mean", "noise", "pixels", "drop")
"""blur, mean: of pixels. noise: on embeddings of patches. pixels: noise on pixels. drop: no picture."""


@dataclass
class Redrawn:
    """Inputs corrupted beforehand, `draws` of the one sample of a study (noise on pixels)."""

    inputs: Inputs
    what: str
    draws: int

    def __call__(self, model: Model, clean: Inputs, samples: Sequence[int]) -> Corrupted:
        if list(samples) != [0]:
            raise ArgumentError(f"corruption: got samples {list(samples)}, expected the one it was made of")
        return Corrupted(self.inputs, draws=self.draws)


@dataclass(frozen=True)
class Asked:
    """What to do to a picture. how: of `HOW`, or "other": `other`'s pixels. where: bool `[H, W]`, the object.

    whole: not the object alone is corrupted but all of the picture (another picture then need not be of the
    same size, but must give the same grid); always so where there is no object.
    """

    how: str
    where: np.ndarray | None = None
    other: Image.Image | None = None
    name: str = "another picture"
    sigma: float = pictures.SIGMA
    draws: int = 8
    seed: int = 0
    whole: bool = False

    def __post_init__(self) -> None:
        if self.how not in (*HOW, "other") or (self.how == "other") != (self.other is not None):
            raise ArgumentError(
                f'corrupt: got {self.how!r}, expected one of {", ".join(HOW)}, or "other" with a picture'
            )
        if self.draws < 1 or not self.sigma > 0:
            raise ArgumentError(
                f"corrupt: got {self.draws} draws of {self.sigma} sigma, expected at least one, above 0"
            )

    @property
    def corrupted(self) -> np.ndarray | None:
        """What is corrupted; None: all of it."""
        return None if self.whole else self.where

    @property
    def place(self) -> str:
        return "the picture" if self.corrupted is None else "the region"


def corrupt(
    model: Model, image: Image.Image, clean: Inputs, text: str | None, asked: Asked, tiles: Sequence[Any]
) -> tuple[Any, Image.Image | None]:
    """The corruption of a picture (with its text), and a picture that shows it, where pixels do."""

    def inputs(changed: Sequence[Image.Image]) -> Inputs:
        return model.prepare([one if text is None else {"image": one, "text": text} for one in changed])

    place, where = asked.place, asked.corrupted
    if asked.how == "drop":
        space = "text" if text is not None else "vision"
        mask = groups.gridded(clean.rows[space][0])
        return Dropped(Span("the picture", mask[None], space)), None
    if asked.how == "noise":
        rows = clean.rows["vision"][0]
        mask = groups.gridded(rows)
        if where is not None:
            mask = groups.patch_groups(rows, tiles, where)[groups.OBJECT]
        span = Span(f"the embeddings of {int(mask.sum())} patches", mask[None], "vision")
        made = Noise(span, asked.sigma, asked.draws, seed=asked.seed, site="vision.0.resid_pre")
        return made, None
    if asked.how == "pixels":
        drawn = [
            pictures.pixel_noise(image, where, asked.sigma, asked.seed + draw) for draw in range(asked.draws)
        ]
        what = f"Gaussian noise at {asked.sigma:g} sigma on the pixels of {place}, {asked.draws} draws"
        return Redrawn(inputs(drawn), what, asked.draws), drawn[0]
    changed, what = _changed(image, asked)
    if np.array_equal(np.asarray(changed), np.asarray(image)):
        raise ArgumentError(
            f"corrupt: got {what}, which changes no pixel, expected another picture or region"
        )
    other = inputs([changed])
    _same_grid(clean, other)
    return Counterfactual(other, what), changed


def _changed(image: Image.Image, asked: Asked) -> tuple[Image.Image, str]:
    where = asked.corrupted
    if asked.how == "blur":
        return pictures.blur(image, where), f"{asked.place} blurred"
    if asked.how == "mean":
        whose = "its own" if where is None else "the rest's"
        return pictures.mean_fill(image, where), f"{asked.place} filled with {whose} mean colour"
    assert asked.other is not None
    if where is None:
        return asked.other, f"{asked.name} instead"
    return pictures.replaced(image, asked.other, where), f"{asked.name} in place of the region"


def _same_grid(clean: Inputs, other: Inputs) -> None:
    """ArgumentError where the rows of the two do not stand for the same cells."""
    for space in ("vision", "text"):
        if space not in clean.rows:
            continue
        ours, theirs = clean.rows[space], other.rows[space]
        if ours.shape != theirs.shape or not torch.equal(ours[..., 1:5], theirs[..., 1:5]):
            sizes = [int((t[0, :, 4] != TOKEN_CODES["pad"]).sum()) for t in (ours, theirs)]
            raise ArgumentError(
                f"other picture: got one that this model cuts into another grid ({sizes[1]} rows of {space}, "
                f"the picture's {sizes[0]}), expected an equal one, for states are exchanged patch by patch; "
                "scale it to the picture's size"
            )
