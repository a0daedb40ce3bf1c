"""What a unit writes, and what an output reads of it: the direct path from a site to a logit or a similarity.

A neuron with activation a writes a w to the residual stream, w its column of the MLP's output matrix; a head
its mixed values through its part of the attention's output matrix; of sites in or added to the residual
stream a dimension is its own direction. The output reads the stream through the final norm and the
unembedding (a language model's logit) or the projection (CLIP, its cosine with a text). With the norm's scale
held at what it is for the row at hand, that is linear, so that a unit's contribution is

    a (w . r),   r = (gamma * t - mean(gamma * t)) / sigma

with t the unembedding of the token, or the projection's pull-back of the text over the embedding's length
(direct logit attribution: Elhage et al. 2021; of CLIP: Gandelsman et al. 2024, arXiv:2310.05916). It leaves
out what later blocks make of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import nn

from mmxai.errors import ArgumentError, ModelError

if TYPE_CHECKING:
    from mmxai.models import Model

STREAM = ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out")
_ADDS = {"mlp_post": "mlp_out", "z": "attn_out"}
_TOLERANCE = 1e-3


def writes(model: Model, site: str) -> torch.Tensor:
    """float32 `[width, model width]`: what each column of a site writes to its tower's residual stream.

    ArgumentError where a site does not write by one matrix.
    """
    kind = site.rpartition(".")[2]
    width = model.width_of(site)
    if kind in STREAM:
        return torch.eye(width)
    tower = model.towers.get(site.partition(".")[0])
    point = None if tower is None else tower.sites[site].point
    if kind not in _ADDS or point is None or point.side != "in":
        raise ArgumentError(
            f"{site}: got a site that does not write to the residual stream by one matrix, expected "
            f"{', '.join((*_ADDS, *STREAM))} of a transformer's block"
        )
    return matrix_of(point.module)


def matrix_of(module: nn.Module) -> torch.Tensor:
    """float32 `[in, out]` of a Linear or of transformers' Conv1D."""
    weight = module.get_parameter("weight").detach().float().cpu()
    return weight.T if isinstance(module, nn.Linear) else weight


def check_writes(site: str, acts: torch.Tensor, block_out: torch.Tensor, matrix: torch.Tensor) -> None:
    """ModelError where the block's output is not the site times its matrix (and a bias): a norm or a scale
    stands behind it. acts `[N, width]`, block_out `[N, model width]` of at least two rows."""
    bias = (block_out - acts @ matrix).double()
    rest = (bias - bias.mean(0)).norm()
    whole = (block_out.double() - block_out.double().mean(0)).norm()
    if rest > _TOLERANCE * whole:
        raise ModelError(
            f"{site}: its block adds something else than its output matrix makes of it (off by "
            f"{float(rest / whole):.2g}), expected no norm or scale behind that matrix; take activation x "
            "gradient, or whole attentions and MLPs"
        )


def adds(site: str) -> str | None:
    """The site that a site's matrix makes: `mlp_out` of `mlp_post`; None of the residual stream's own."""
    head, _, kind = site.rpartition(".")
    return f"{head}.{_ADDS[kind]}" if kind in _ADDS else None


class ReadOut:
    """How an output reads a tower's last residual stream, with the final norm's scale held fixed.

    `targets`: float `[T, model width]`, before the norm's gain: rows of the unembedding, or texts pulled back
    through the projection.
    """

    def __init__(self, model: Model, tower: str):
        if tower not in model.towers or f"{tower}.ln_final" not in model.sites():
            raise ArgumentError(f"{model.name}: got no final norm of a {tower} tower, expected one")
        self.norm = model.towers[tower].sites[f"{tower}.ln_final"].point.module
        self.last = f"{tower}.{model.towers[tower].dims.blocks - 1}.resid_post"
        self._centred = isinstance(self.norm, nn.LayerNorm)
        eps = getattr(self.norm, "eps", None)
        self._eps = float(getattr(self.norm, "variance_epsilon", 1e-6) if eps is None else eps)
        self._gain, self.offset = self._gain_of()

    def _gain_of(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The norm's factor and bias a dimension, found by asking it: some norms multiply by 1 + weight."""
        weight = getattr(self.norm, "weight", None)
        if weight is None:
            raise ModelError(f"{type(self.norm).__name__}: got a final norm without a weight, expected one")
        width = len(weight)
        probe = torch.zeros(1, width, device=weight.device, dtype=weight.dtype)
        probe[0, ::2], probe[0, 1::2] = 1, -1  # of mean 0 and scale 1, where the width is even
        with torch.no_grad():
            bias = self.norm(torch.zeros_like(probe))[0]
            out = self.norm(probe)[0] - bias
        return (out * probe[0]).float().cpu() * (1 + self._eps) ** 0.5, bias.float().cpu()

    def check(
        self, stream: torch.Tensor, read: torch.Tensor, targets: torch.Tensor, output: torch.Tensor
    ) -> None:
        """ModelError where `output` `[N]` is not what the read-out makes of rows of the stream `[N, D]`, up
        to the same number everywhere (a bias): something stands between, such as a cap on logits."""
        made = (stream.float() * read).sum(1) + targets.float() @ self.offset
        rest = (output.float() - made).double()
        spread = float((rest - rest.mean()).abs().max())
        if spread > _TOLERANCE * max(1.0, float(output.abs().max())):
            raise ModelError(
                f"got outputs up to {spread:.2g} away from what the final norm and the output matrix make of "
                "the residual stream, expected nothing behind them; use activation x gradient"
            )

    def scale(self, stream: torch.Tensor) -> torch.Tensor:
        """float `[N]`: what the norm divides rows of the stream by."""
        x = stream.float()
        x = x - x.mean(-1, keepdim=True) if self._centred else x
        return (x.square().mean(-1) + self._eps).sqrt()

    def covectors(self, targets: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        """`[N, model width]`: the gradient of each row's target with the scale held fixed."""
        r = targets.float() * self._gain
        r = r - r.mean(-1, keepdim=True) if self._centred else r
        return r / scale[:, None]


def columns_of_heads(values: torch.Tensor, heads: int) -> torch.Tensor:
    """Sums `[N, heads]` of contributions `[N, width]` of the columns of each head."""
    return values.unflatten(-1, (heads, -1)).sum(-1)


def unembedding(model: Model, tokens: Sequence[int] | torch.Tensor) -> torch.Tensor:
    """float32 `[T, model width]`: rows of a language model's unembedding. ArgumentError where it has none."""
    found = getattr(model.module, "get_output_embeddings", lambda: None)()
    if found is None:
        raise ArgumentError(f"{model.name}: got a model without an unembedding, expected a language model")
    weight = found.weight.detach().float().cpu()
    return weight[torch.as_tensor(tokens, dtype=torch.int64)]
