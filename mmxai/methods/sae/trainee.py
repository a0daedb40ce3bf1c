"""One SAE while it is trained: weights, optimiser, which latents are dead, what is logged."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

from mmxai.errors import NonFiniteError
from mmxai.methods.sae.adam import Adam
from mmxai.methods.sae.arch import make_arch
from mmxai.methods.sae.auxk import AuxK
from mmxai.methods.sae.config import TrainConfig
from mmxai.methods.sae.init import Beginning
from mmxai.methods.sae.schedule import Schedule
from mmxai.methods.sae.step import step as learn
from mmxai.methods.sae.workspace import Workspace

DEAD_AFTER = 10_000_000  # rows, as OpenAI's, sparsify and dictionary_learning have it
USUAL = 100  # times that a latent of the usual rate would have been active, before one that was not is dead


class Trainee:
    """`name`: its folder under the run's. `silent` int64 `[M]`: rows since each latent was last active.

    `logs`: where the loop writes its figures.
    """

    def __init__(self, name: str, config: TrainConfig, beginning: Beginning, steps: int):
        self.name, self.config, self.sae = name, config, beginning.sae
        self.logs: list[Any] = []
        spec = self.sae.spec
        self.arch = make_arch(spec, config, norm=math.sqrt(beginning.spread))
        self.arch.first(self.sae)
        self.spread = beginning.spread
        self.adam = Adam(self.sae, betas=(config.beta1, config.beta2), eps=config.eps)
        self.schedule = Schedule.of(config, steps)
        self.silent = torch.zeros(spec.latents, dtype=torch.int64, device=self.sae.device)
        self.dead_after = config.dead_after or _dead_after(spec.latents, spec.k, steps * config.batch)
        self._sums = {"steps": 0.0, "loss": 0.0, "aux": 0.0, "penalty": 0.0, "l0": 0.0}

    def step(self, x: torch.Tensor, target: torch.Tensor, step: int, workspace: Workspace) -> torch.Tensor:
        """Learns from one batch in the SAE's units; returns the squared distances of its rows, float64 `[B]`.

        NonFiniteError, with the weights as they were, where the loss is none.
        """
        spec, config = self.sae.spec, self.config
        self.arch.ramp = self.schedule.ramp(step)
        result = learn(
            self.sae, self.arch, x, target, self.adam, lr=self.schedule.rate(step),
            scale=1 / (len(x) * self.spread), centred=bool(spec.centred), clip=config.clip, aux=self._aux(),
            frozen=("W_dec",) if config.frozen == "decoder" else (), workspace=workspace,
            product=config.product,
        )  # fmt: skip
        # The weights are updated before the figures are read, which on a GPU waits.
        if not (math.isfinite(result.loss) and math.isfinite(result.grad_norm)):
            raise NonFiniteError(
                f"{self.name}: got a loss of {result.loss} and a gradient of length {result.grad_norm} at "
                f"step {step:,}, expected finite ones; try a lower --lr than {self.schedule.lr:.2g}"
            )
        self.arch.after(self.sae, result.codes)
        self.silent += len(x)
        self.silent.masked_fill_(result.fired > 0, 0)
        self._note(result.loss, result.aux, result.penalty, result.l0)
        self._norm = result.grad_norm
        return result.row_losses[:, -1]

    def entry(self, step: int, target: torch.Tensor, row_losses: torch.Tensor) -> dict[str, float]:
        """The line of the log after step number `step` - 1; means since the last one, FVU of the last batch.

        fvu: squared distances over those of the batch's rows from their mean.
        """
        count = self._sums["steps"]
        means = {k: v / count for k, v in self._sums.items() if k != "steps"}
        self._sums = dict.fromkeys(self._sums, 0.0)
        away = float((target - target.mean(0)).double().square().sum())
        return {
            "step": step,
            "rows": step * len(target),
            **means,
            "fvu": float(row_losses.sum()) / away if away > 0 else math.nan,
            "dead": int((self.silent >= self.dead_after).sum()) / len(self.silent),
            "lr": self.schedule.rate(step - 1),
            "grad_norm": self._norm,
        }

    def tensors(self) -> dict[str, torch.Tensor]:
        """All that a checkpoint holds of it, but `state`."""
        moments = {f"adam.{k}": v for k, v in self.adam.state_dict().items() if isinstance(v, torch.Tensor)}
        return {**self.sae.tensors(), **moments, "silent": self.silent}

    def state(self) -> dict[str, Any]:
        """JSON."""
        return {
            "spec": self.sae.spec.to_json(), "spread": self.spread, "sums": self._sums,
            "adam": self.adam.steps, "arch": self.arch.state_dict(),
        }  # fmt: skip

    def restore(self, tensors: Mapping[str, torch.Tensor], state: Mapping[str, Any]) -> None:
        """Takes over what `tensors` and `state` gave; the spec and spread are those of its making."""
        for name, tensor in self.sae.tensors().items():
            tensor.copy_(tensors[name])
        self.silent.copy_(tensors["silent"])
        moments = {k.removeprefix("adam."): v for k, v in tensors.items() if k.startswith("adam.")}
        self.adam.load_state_dict({"step": state["adam"], **moments})
        self.arch.load_state_dict(state["arch"])
        self._sums = dict(state["sums"])

    def _aux(self) -> AuxK | None:
        coef = self.config.aux_of()
        if coef == 0:
            return None
        dead = (self.silent >= self.dead_after).nonzero().flatten()
        k = self.config.aux_k or max(1, self.sae.spec.width_out // 2)
        return AuxK(dead, min(k, len(dead)), coef, relative=True) if len(dead) else None

    def _note(self, loss: float, aux: float, penalty: float, l0: float) -> None:
        for name, value in (("steps", 1.0), ("loss", loss), ("aux", aux), ("penalty", penalty), ("l0", l0)):
            self._sums[name] += value


def _dead_after(latents: int, k: int | None, rows: int) -> int:
    """Rows without an activation, for a run of that many `rows`.

    A twentieth of a short run; but AuxK, turned on latents that are merely rare, makes them explain what is
    left in place of what they stand for, so never before a usual latent would have been active `USUAL` times.
    """
    return min(DEAD_AFTER, max(rows // 20, USUAL * latents // (k or 32)))
