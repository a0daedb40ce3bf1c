"""`TunedLens`: an affine translator a depth of the stream (Belrose et al. 2023, arXiv:2303.08112)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from mmxai.errors import ArgumentError
from mmxai.methods.lens.tuned.depth import depth_of, site_of


@dataclass(frozen=True, eq=False)
class TunedLens:
    """Translators x -> x + A x + b from a state of the stream to the last one, in front of the final norm.

    weight, bias: depth (see `depth_of`) -> A float32 `[D, D]`, b float32 `[D]`. blocks: of the tower; what
    has that depth is the last state itself. identity: JSON, what it was trained on. unembed_hash: as
    tuned-lens has it, of the unembedding it was trained for.
    """

    model: str
    tower: str
    blocks: int
    width: int
    weight: Mapping[int, torch.Tensor]
    bias: Mapping[int, torch.Tensor]
    unembed_hash: str | None = None
    identity: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        shapes = {d: (tuple(self.weight[d].shape), tuple(self.bias[d].shape)) for d in self.weight}
        wrong = {d: s for d, s in shapes.items() if s != ((self.width, self.width), (self.width,))}
        if wrong or set(self.weight) != set(self.bias) or not set(self.weight) <= set(range(self.blocks)):
            raise ArgumentError(
                f"tuned lens: got shapes {wrong or shapes}, expected matrices and vectors {self.width} wide "
                f"of depths below {self.blocks}"
            )

    @property
    def sites(self) -> list[str]:
        """The sites it translates, each by one of its names."""
        return [site_of(d, self.tower) for d in sorted(self.weight)]

    def to_final(self, site: str, x: torch.Tensor) -> torch.Tensor:
        """Rows x `[N, D]` of `site` as the last block would leave them, in x's dtype, to be normed as those.

        What leaves the last block comes back as it is. ArgumentError for a site without a translator.
        """
        depth = depth_of(site, self.tower)
        if depth == self.blocks:
            return x
        if depth not in self.weight:
            raise ArgumentError(f"tuned lens: got site {site!r}, expected one of {self.sites}")
        if x.ndim != 2 or x.shape[1] != self.width:
            raise ArgumentError(
                f"tuned lens: got rows {tuple(x.shape)} of {site}, expected (N, {self.width})"
            )
        weight, bias = self.weight[depth].to(x.device), self.bias[depth].to(x.device)
        wide = x.float()
        return torch.addmm(wide + bias, wide, weight.T).to(x.dtype)

    def to(self, device: torch.device | str) -> TunedLens:
        """A copy whose translators are on `device`."""
        weight = {d: t.to(device) for d, t in self.weight.items()}
        bias = {d: t.to(device) for d, t in self.bias.items()}
        return TunedLens(
            self.model, self.tower, self.blocks, self.width, weight, bias, self.unembed_hash, self.identity
        )

    def __repr__(self) -> str:
        return (
            f"TunedLens({self.model!r}, {self.tower}, {len(self.weight)} translators of {self.blocks} "
            f"blocks, width {self.width})"
        )
