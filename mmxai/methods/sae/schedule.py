"""How the learning rate and the penalty move over a run."""

from __future__ import annotations

from dataclasses import dataclass

from mmxai.methods.sae.config import TrainConfig


@dataclass(frozen=True)
class Schedule:
    """Linear up over `warmup` steps, level, linear to 0 over the last `decay` of the `steps`."""

    steps: int
    lr: float
    warmup: int
    decay: float
    penalty_warmup: float

    @classmethod
    def of(cls, config: TrainConfig, steps: int) -> Schedule:
        warmup = min(1000, steps // 20) if config.warmup is None else config.warmup
        return cls(steps, config.lr_of(steps), warmup, config.decay, config.penalty_warmup)

    def rate(self, step: int) -> float:
        """For step 0, 1, ...: never 0."""
        up = (step + 1) / max(1, self.warmup)
        down = (self.steps - step) / max(1.0, self.steps * self.decay)
        return self.lr * min(1.0, up, down)

    def ramp(self, step: int) -> float:
        """Share of the sparsity penalty in force."""
        return min(1.0, (step + 1) / max(1.0, self.steps * self.penalty_warmup))
