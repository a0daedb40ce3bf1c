"""Adam for the weights of an SAE, on the fused kernel."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch

from mmxai.errors import ArgumentError
from mmxai.kernels.adam_rows import adam_rows

if TYPE_CHECKING:
    from mmxai.methods.sae.step import Weights

NAMES = ("W_enc", "b_enc", "W_dec", "b_dec", "threshold", "W_skip")


class Adam:
    """Adam (arXiv:1412.6980) with the defaults of torch; `decay`, of the matrices alone, is AdamW's."""

    def __init__(
        self,
        weights: Weights,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        decay: float = 0.0,
    ):
        self.betas, self.eps, self.decay = betas, eps, decay
        self.steps = 0
        held = {name: getattr(weights, name, None) for name in NAMES}
        self.first = {name: torch.zeros_like(w) for name, w in held.items() if w is not None}
        self.second = {name: torch.zeros_like(w) for name, w in self.first.items()}

    def step(
        self,
        weights: Weights,
        gradients: Mapping[str, torch.Tensor],
        lr: float,
        *,
        norm: torch.Tensor,
        clip: float | None = None,
        unit: bool = True,
    ) -> None:
        """Updates `weights` in place by `gradients`, of norm `norm` (float64 `[]`), clipped to `clip`.

        `unit`: the decoder's rows become unit vectors. Where `norm` is not finite neither weights nor moments
        are changed; `steps` counts it, for whoever looked first would wait for a GPU.
        """
        self.steps += 1
        # As torch.nn.utils.clip_grad_norm_ has it; never read here, for on a GPU that would wait.
        scale = torch.ones_like(norm) if clip is None else (clip / (norm + 1e-6)).clamp(max=1)
        scale = torch.where(norm.isfinite(), scale, math.nan).float().view(1)
        for name, g in gradients.items():
            rows = [x if x.ndim == 2 else x[None] for x in self._of(weights, name, g)]
            adam_rows(
                *rows, lr=lr, betas=self.betas, eps=self.eps, step=self.steps, scale=scale,
                decay=self.decay if g.ndim == 2 else 0.0, unit=unit and name == "W_dec",
            )  # fmt: skip

    def _of(self, weights: Weights, name: str, g: torch.Tensor) -> tuple[torch.Tensor, ...]:
        if name not in self.first:
            raise ArgumentError(f"Adam: got a gradient of {name}, expected those of {', '.join(self.first)}")
        return getattr(weights, name), g, self.first[name], self.second[name]

    def state_dict(self) -> dict[str, int | torch.Tensor]:
        """`step`, and the moments as `first.<weight>` and `second.<weight>`; not copies."""
        moments = {f"first.{n}": x for n, x in self.first.items()}
        return {"step": self.steps, **moments, **{f"second.{n}": x for n, x in self.second.items()}}

    def load_state_dict(self, state: Mapping[str, int | torch.Tensor]) -> None:
        """Copies the tensors of `state` into the moments."""
        own = self.state_dict()
        if set(own) != set(state):
            raise ArgumentError(f"Adam: got the state of {sorted(state)}, expected {sorted(own)}")
        self.steps = int(state["step"])
        for name, held in own.items():
            if isinstance(held, torch.Tensor):
                held.copy_(torch.as_tensor(state[name]))
