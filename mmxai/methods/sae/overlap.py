"""How alike the dictionaries of two SAEs of one site are, or of an SAE and directions that are known."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from mmxai.linalg.overlap import Overlap
from mmxai.linalg.overlap import overlap as between

if TYPE_CHECKING:
    from mmxai.methods.sae.model import SAE


def directions(sae: SAE) -> torch.Tensor:
    """What one unit of each latent adds to the sites out, in their own units: float64 `[M, E]`."""
    spec = sae.spec
    scale = torch.tensor(spec.scale_out, dtype=torch.float64)
    return sae.W_dec.double().cpu() / scale.repeat_interleave(torch.tensor(spec.widths_out))


def overlap(one: SAE | torch.Tensor, two: SAE | torch.Tensor, *, seed: int = 0) -> Overlap:
    """`mmxai.linalg.overlap.overlap` of decoder directions; either may be a tensor `[n, E]`."""
    a, b = (given if isinstance(given, torch.Tensor) else directions(given) for given in (one, two))
    return between(a, b, seed=seed)
