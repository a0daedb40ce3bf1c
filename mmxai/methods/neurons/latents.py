"""Latents of a dictionary (an SAE) as units of a running model: what they hold, what they write, edits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from mmxai.capture.hooks import Edit
from mmxai.capture.select import Selection

_BLOCK_VALUES = 1 << 23  # of dense codes at a time, 32 MiB


@dataclass(frozen=True)
class Latents:
    """A dictionary of one site, as `ablate` and contributions take it in place of a site's name.

    `directions`: float32 `[M, D]`, what a latent of 1 adds to `site`. `encode`: rows float32 `[N, D]` of the
    site -> codes float32 `[N, M]`. `tokens`: the types of the rows that are encoded, comma-separated, or
    "last"; None: all but padding. On other rows latents are 0. What of a row the dictionary does not tell,
    its error, is nobody's and stays as it is.
    """

    name: str
    site: str
    directions: torch.Tensor
    encode: Callable[[torch.Tensor], torch.Tensor]
    tokens: str | None = None

    def encoded(self, table: torch.Tensor) -> torch.Tensor:
        """bool `[B, T]`: which rows of a row table `[B, T, 8]` are encoded."""
        return Selection.parse(self.tokens).keep(table)

    def blocks(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Rows `[N, D]` in blocks whose dense codes take little."""
        return x.split(max(1, _BLOCK_VALUES // len(self.directions)))

    def edit(self, units: Sequence[int], change: Edit) -> Edit:
        """An edit of the site that changes the codes of `units` `[N, len(units)]` and leaves the rest alone:
        x + (change(codes) - codes) @ directions."""
        held, chosen = self.directions[list(units)].float(), list(units)

        def edited(x: torch.Tensor) -> torch.Tensor:
            rows = x.flatten(0, -2).float()
            codes = torch.cat([self.encode(b)[:, chosen] for b in self.blocks(rows)]).to(x.device)
            moved = (change(codes) - codes) @ held.to(x.device)
            return (rows + moved).view_as(x).to(x.dtype)

        return edited
