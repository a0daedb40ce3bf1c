"""What is put in place of a site's values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch

from mmxai.errors import ArgumentError
from mmxai.methods.trace.inputs import some
from mmxai.methods.trace.types import Replace
from mmxai.models.inputs import Inputs
from mmxai.models.model import Model
from mmxai.types import ROW_COLUMNS, TOKEN_CODES

_TYPE = ROW_COLUMNS.index("token_type")


@dataclass
class Values:
    """How values are replaced that do not come from the other run of the study.

    means: site -> `[D]`; those not given are measured on the clean samples.
    """

    replace: Replace = "other"
    means: Mapping[str, torch.Tensor] | None = None
    sigma: float = 3.0
    seed: int = 0
    _found: dict[str, tuple[torch.Tensor, float]] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.replace not in ("other", "zero", "mean", "resample", "noise"):
            raise ArgumentError(
                f"replace: got {self.replace!r}, expected other, zero, mean, resample or noise"
            )

    def measure(
        self, model: Model, clean: Inputs, chunks: Sequence[Sequence[int]], sites: Sequence[str]
    ) -> None:
        """Means and standard deviations of sites over all rows of the clean samples."""
        given = self.means or {}
        wanted = [s for s in sites if s not in self._found and (self.replace == "noise" or s not in given)]
        if self.replace not in ("mean", "noise") or not wanted:
            return
        count, total, square = 0, dict[str, torch.Tensor](), dict[str, torch.Tensor]()
        for samples in chunks:
            run = model.run(some(clean, samples), capture=wanted)
            for site in wanted:
                real = run.rows[model.space_of(site)][..., _TYPE] != TOKEN_CODES["pad"]
                x = run.acts[site][real.to(run.acts[site].device)].double()
                total[site] = total.get(site, torch.zeros(())) + x.sum(0)
                square[site] = square.get(site, torch.zeros(())) + (x * x).sum(0)
                if site == wanted[0]:
                    count += len(x)
        for site in wanted:
            mean = total[site] / count
            spread = (square[site] / count - mean**2).clamp(min=0).mean().sqrt()
            self._found[site] = mean.float(), float(spread)

    def partners(self, samples: Sequence[int], count: int) -> list[int]:
        """Of each sample another one, the same whatever stands beside it: a cycle through a permutation."""
        if count < 2:
            raise ArgumentError("resample: got one sample, expected others to take values from")
        order = torch.randperm(count, generator=torch.Generator().manual_seed(self.seed)).tolist()
        after = dict(zip(order, [*order[1:], order[0]], strict=True))
        return [after[s] for s in samples]

    def of(self, site: str, clean: torch.Tensor | None, samples: Sequence[int], copies: int) -> torch.Tensor:
        """What to put in: `[copies * samples or 1, T or 1, D]`. clean: of "noise", the site's own values."""
        if self.replace == "zero":
            return torch.zeros(1, 1, 1)
        if self.replace == "mean":
            mean = (self.means or {}).get(site)
            return (self._found[site][0] if mean is None else mean)[None, None]
        if clean is None:
            raise ArgumentError(f"replace {self.replace!r}: got no clean values of {site}")
        scale = self.sigma * self._found[site][1]
        drawn = [
            torch.randn(clean.shape[1:], generator=torch.Generator().manual_seed(_seed(self.seed, site, s)))
            for s in samples
        ]
        noise = torch.stack(drawn).repeat(copies, 1, 1).to(clean.device)
        return (clean.float() + scale * noise).to(clean.dtype)


def _seed(seed: int, site: str, sample: int) -> int:
    text = sum(ord(c) * 31**i for i, c in enumerate(site))
    return (seed * 1_000_003 + text * 7919 + sample) % 2**31
