"""One site's translator as it is trained: weights, the best of them so far, and the optimiser's state."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from mmxai.methods.lens.tuned.config import TunedLensConfig
from mmxai.methods.lens.tuned.start import Affine

_CURRENT, _BEST = ("weight", "bias"), ("best.weight", "best.bias")


class Descent:
    """kl_plain, kl_start: held-out KL of the plain lens and of the start. kl, at: of the best, and its step.

    kept: where the best comes from: "plain", "least squares" or "descent".
    """

    def __init__(self, site: str, start: Affine, config: TunedLensConfig, device: torch.device):
        self.site, self._config = site, config
        self.weight = start[0].to(device).clone()
        self.bias = start[1].to(device).clone()
        self.best = self.weight.clone(), self.bias.clone()
        self.kl_plain = self.kl_start = self.kl = float("inf")
        self.at = self.bad = 0
        self.kept, self.penalty, self.done = "plain", 0.0, False
        self._optimiser = self._make()

    def _make(self) -> torch.optim.Optimizer:
        groups = [
            {"params": [self.weight], "weight_decay": self._config.decay},
            {"params": [self.bias], "weight_decay": 0.0},
        ]
        if self._config.optimiser == "adamw":
            return torch.optim.AdamW(groups, lr=self._config.lr, foreach=False)
        momentum = self._config.momentum
        return torch.optim.SGD(
            groups, lr=self._config.lr, momentum=momentum, nesterov=momentum > 0, foreach=False
        )

    def translate(self, x: torch.Tensor) -> torch.Tensor:
        return torch.addmm(x + self.bias, x, self.weight.T)

    def step(self, x: torch.Tensor, gradient: torch.Tensor, lr: float) -> None:
        """One step down the mean over rows; gradient `[N, D]`, of each row's KL at its translated state."""
        gradient = gradient / len(x)
        for group in self._optimiser.param_groups:
            group["lr"] = lr
        self.weight.grad, self.bias.grad = gradient.T @ x, gradient.sum(0)
        self._optimiser.step()
        self.weight.grad = self.bias.grad = None

    def look(self, kl: float, step: int) -> None:
        """Take held-out KL into account."""
        if kl < self.kl:
            self.kl, self.at, self.bad, self.kept = kl, step, 0, "descent"
            self.best = self.weight.clone(), self.bias.clone()
        else:
            self.bad += 1
            self.done = self.bad >= self._config.patience

    def state(self) -> dict[str, Any]:
        names = ("site", "kl_plain", "kl_start", "kl", "at", "bad", "kept", "penalty", "done")
        return {name: getattr(self, name) for name in names}

    def tensors(self) -> dict[str, torch.Tensor]:
        out = dict(zip((*_CURRENT, *_BEST), (self.weight, self.bias, *self.best), strict=True))
        for name, parameter in (("weight", self.weight), ("bias", self.bias)):
            out |= {f"optimiser.{name}.{k}": v for k, v in self._optimiser.state[parameter].items()}
        return out

    @classmethod
    def restored(
        cls,
        state: Mapping[str, Any],
        tensors: Mapping[str, torch.Tensor],
        config: TunedLensConfig,
        device: torch.device,
    ) -> Descent:
        out = cls(state["site"], (tensors["weight"], tensors["bias"]), config, device)
        out.best = tensors["best.weight"].to(device), tensors["best.bias"].to(device)
        for name, value in state.items():
            setattr(out, name, value)
        for name, parameter in (("weight", out.weight), ("bias", out.bias)):
            prefix = f"optimiser.{name}."
            # Adam keeps its count of steps on the CPU.
            kept = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
            moved = {k: v if v.ndim == 0 else v.to(device) for k, v in kept.items()}
            if moved:
                out._optimiser.state[parameter] = moved
        return out
