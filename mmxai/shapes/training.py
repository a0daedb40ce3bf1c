"""What the trainings of the world's models share: optimizer, learning rate, a step, log, command line."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import torch

from mmxai.errors import MmxaiError, PlanMismatchError
from mmxai.runs import StepLog


class Settings(Protocol):
    """What a training's settings have."""

    @property
    def out(self) -> Path: ...
    @property
    def steps(self) -> int: ...
    @property
    def rate(self) -> float: ...
    @property
    def warmup(self) -> int: ...
    @property
    def decay(self) -> float: ...
    @property
    def beta2(self) -> float: ...


def optimizer_of(
    named: Iterable[tuple[str, torch.nn.Parameter]], config: Settings, plain: Sequence[str] = ()
) -> torch.optim.Optimizer:
    """AdamW; biases, norms and parameters with one of `plain` in their names do not decay."""
    deep: list[torch.nn.Parameter] = []
    flat: list[torch.nn.Parameter] = []
    for name, parameter in named:
        (flat if parameter.ndim < 2 or any(p in name for p in plain) else deep).append(parameter)
    groups = [{"params": deep, "weight_decay": config.decay}, {"params": flat, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=config.rate, betas=(0.9, config.beta2), fused=True)


def learning_rate(config: Settings, step: int, steady: float) -> float:
    """Up, steady for a share of the steps, down: until it falls it does not depend on their number."""
    up = (step + 1) / max(1, config.warmup)
    down = (config.steps - step) / (config.steps * (1 - steady))
    return config.rate * min(1.0, up, down)


def same_schedule(config: Settings, state: Mapping[str, Any], steady: float) -> None:
    """PlanMismatchError where a run goes on with another number of steps after its rate has begun to fall."""
    if state["steps"] != config.steps and state["step"] > steady * min(state["steps"], config.steps):
        raise PlanMismatchError(
            f"{config.out}: got {config.steps:,} steps for a run of {state['steps']:,} whose rate falls "
            f"already at its step {state['step']:,}; expected the same number, or another --out"
        )


def descend(optimizer: torch.optim.Optimizer, loss: torch.Tensor, rate: float) -> None:
    """One step down the gradient of `loss`, whose norm is cut at 1."""
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_([p for g in optimizer.param_groups for p in g["params"]], 1.0)
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.step()


class ShownLog(StepLog):
    """A log whose lines are printed, too."""

    def write(self, entry: Mapping[str, Any]) -> None:
        super().write(entry)
        print(json.dumps(entry), flush=True)


def command(run: Callable[[], object]) -> int:
    """Exit status of a command: 1 after an error that is told in a line, 130 after Ctrl-C."""
    try:
        run()
    except (MmxaiError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def announced(config: Any) -> None:
    """Print a run's settings."""
    print(json.dumps(asdict(config) | {"out": str(config.out)}), flush=True)
