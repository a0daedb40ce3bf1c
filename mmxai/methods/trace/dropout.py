"""Modality dropout: a whole modality, or any rows, taken from a run by putting zeros in their place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from mmxai.errors import ArgumentError
from mmxai.methods.trace.types import Corrupted, Span
from mmxai.models import edits
from mmxai.models.inputs import Inputs
from mmxai.models.model import Model


@dataclass
class Dropped:
    """Rows of a span set to zero where they enter the first block; positions and other rows stay.

    Of a multimodal language model the soft tokens of a picture stand in the sequence as before and say
    nothing; that is how "no picture" keeps every row of the clean run. site: another place than
    `<space>.0.resid_pre`.
    """

    span: Span
    site: str = ""
    draws: int = 1

    @property
    def what(self) -> str:
        return f"{self.span.name} dropped: zeros in place of its embeddings"

    def __call__(self, model: Model, clean: Inputs, samples: Sequence[int]) -> Corrupted:
        mask = self.span.mask[torch.as_tensor(list(samples))]
        if not bool(mask.any(1).all()):
            raise ArgumentError(
                f"drop: span {self.span.name!r} has no row in some samples, expected some in each"
            )
        site = self.site or f"{self.span.space}.0.resid_pre"
        return Corrupted(clean, {site: edits.only(mask, torch.zeros_like)})
