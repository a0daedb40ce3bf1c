"""First weights: directions at random, the centre and scale of the data from its first rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from mmxai.errors import ArgumentError
from mmxai.kernels.codes import Codes
from mmxai.kernels.decode_codes import decode_codes
from mmxai.kernels.topk_product import topk_product
from mmxai.methods.sae.config import TrainConfig
from mmxai.methods.sae.model import SAE
from mmxai.methods.sae.spec import WITH_K, SAESpec

MEDIAN_STEPS = 50
GAIN_ROWS = 512
RIDGE = 1e-6  # of the mean variance


@dataclass(frozen=True)
class Beginning:
    """An untrained SAE. `spread`: mean squared distance of its scaled targets from their mean."""

    sae: SAE
    spread: float


def scales_of(
    sample: Mapping[str, torch.Tensor], sites: tuple[str, ...], config: TrainConfig
) -> tuple[float, ...]:
    """What makes each site's mean squared distance from its mean 1; 1 where nothing is normalised."""
    found = []
    for site in sites:
        spread = _spread(sample[site])
        if not 0 < spread < float("inf"):
            raise ArgumentError(
                f"{site}: got rows at a mean squared distance of {spread} from their mean, expected some "
                "that differ; an SAE of a constant has nothing to learn"
            )
        found.append(1.0 if config.normalise == "none" else spread**-0.5)
    return tuple(found)


def begin(spec: SAESpec, config: TrainConfig, sample: Mapping[str, torch.Tensor]) -> Beginning:
    """Weights before the first step, from `sample`: site -> rows `[n, width]`, unscaled.

    Decoder rows: random unit vectors. Encoder rows: the same (tied), or others; of a transcoder always
    others. Tied ones of k latents a row get the length that brings the first reconstruction nearest: with
    length 1 it overshoots, random directions overlap, and tens of steps go by until that is unlearned.
    W_skip: the least-squares map, so that the latents learn what it leaves. b_dec: the centre of what is
    left, the targets where there is no W_skip. b_enc: 0, or, where the input is not centred, what makes the
    mean input's pre-activations 0.
    """
    draw = torch.Generator().manual_seed(config.seed)
    sae = SAE.zeros(spec, sample[spec.sites_in[0]].device)
    sae.W_dec.copy_(_directions(spec.latents, spec.width_out, draw))
    tied = config.init == "tied" and spec.sites_in == spec.sites_out
    sae.W_enc.copy_(sae.W_dec if tied else _directions(spec.latents, spec.width_in, draw))
    x, target = scaled(sample, spec.sites_in, spec.scale), scaled(sample, spec.sites_out, spec.scale_out)
    left = target
    if sae.W_skip is not None:
        sae.W_skip.copy_(_least_squares(x, target))
        left = target - x @ sae.W_skip.T
    if config.center == "geometric_median":
        sae.b_dec.copy_(geometric_median(left))
    elif config.center == "mean":
        sae.b_dec.copy_(left.mean(0))
    if tied and spec.arch in WITH_K:
        sae.W_enc.mul_(_gain(left - sae.b_dec, sae.W_dec, spec.k or 0))
    if not spec.centred:
        torch.mv(sae.W_enc, -x.mean(0), out=sae.b_enc)
    return Beginning(sae, _spread(target))


def scaled(
    batch: Mapping[str, torch.Tensor], sites: tuple[str, ...], scales: tuple[float, ...]
) -> torch.Tensor:
    """Sites side by side in the units of the SAE: float32 `[N, D]`, contiguous, the caller's own."""
    found = [batch[site].float() * scale for site, scale in zip(sites, scales, strict=True)]
    return found[0] if len(found) == 1 else torch.cat(found, 1)


def geometric_median(x: torch.Tensor, steps: int = MEDIAN_STEPS) -> torch.Tensor:
    """The point of least summed distance to the rows of `x` `[n, D]`, which outliers hardly move: `[D]`.

    Weiszfeld's iteration from the mean.
    """
    middle = x.mean(0)
    for _ in range(steps):
        away = torch.linalg.vector_norm(x - middle, dim=1).clamp_min_(1e-12)
        weights = 1 / away
        found = (weights @ x) / weights.sum()
        moved = float(torch.linalg.vector_norm(found - middle))
        middle = found
        if moved <= 1e-5 * float(away.mean()):
            break
    return middle


def _least_squares(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """W `[E, D]` that brings x W^T nearest to `y`, both centred; a little ridge, as rows may be few."""
    x, y = (x - x.mean(0)).double(), (y - y.mean(0)).double()
    inner = x.T @ x
    inner.diagonal().add_(RIDGE * inner.trace() / len(inner))
    return torch.linalg.solve(inner, x.T @ y).T


def _gain(away: torch.Tensor, directions: torch.Tensor, k: int) -> float:
    """What brings the sum of each row's k nearest `directions` `[M, D]` nearest to it, for rows `[n, D]`."""
    away = away[:GAIN_ROWS].contiguous()
    values, indices = topk_product(away, directions, k, bias=away.new_zeros(len(directions)))
    made = decode_codes(Codes.fixed(values.clamp_(min=0), indices, len(directions)), directions).double()
    length = float(made.square().sum())
    return float((away.double() * made).sum()) / length if length > 0 else 1.0


def _spread(x: torch.Tensor) -> float:
    return float(x.float().var(0, correction=0).double().sum())


def _directions(rows: int, width: int, draw: torch.Generator) -> torch.Tensor:
    # Drawn on the CPU, so that a seed means the same on every device.
    return torch.nn.functional.normalize(torch.randn(rows, width, generator=draw), dim=1)
