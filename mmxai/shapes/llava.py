"""Trains the world's LLaVA: `python -m mmxai.shapes.llava train --out RUN`, then `card --run RUN --out DIR`.

A run stops at any step (Ctrl-C, SIGTERM, --minutes) and goes on where it was when called again: to the same
weights, bit for bit, with the same torch and threads. It runs on the CPU.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from mmxai.errors import ArgumentError
from mmxai.runs import stop_signals
from mmxai.shapes import checkpoint
from mmxai.shapes.card import LOG
from mmxai.shapes.llava_feed import KINDS, SENTENCE, Packed, Pool, batches
from mmxai.shapes.llava_model import export, learning, new_llava
from mmxai.shapes.llava_score import answered, predict, right
from mmxai.shapes.training import (
    ShownLog,
    announced,
    command,
    descend,
    learning_rate,
    optimizer_of,
    same_schedule,
)
from mmxai.shapes.world import VERSION

if TYPE_CHECKING:
    from transformers import LlavaForConditionalGeneration

_STEADY = 0.4  # share of the steps before the rate falls
_SETTINGS = (
    "pictures", "pool", "named", "related", "rate", "warmup", "decay", "beta2", "blocks", "width", "seed",
    "autocast",
)  # fmt: skip


@dataclass(frozen=True)
class Train:
    """Settings of a training run; those that shape the weights must be the same when it goes on."""

    out: Path
    """Folder of the run: checkpoint, log, exported model."""
    steps: int = 4_000
    """May change when a run goes on, as long as its rate has not begun to fall."""
    pictures: int = 24
    """Pictures a step, each with some seven questions and a description, asked anew every time."""
    pool: int = 24_000
    """Different pictures in all, of the split `train`; the vision tower sees each once."""
    named: int = 1_300
    """First steps, which only ask for an attribute or the place of an object that must be found by its name.
    Without them a model learns what is where, and never which object a noun means."""
    related: int = 2_150
    """Step from which each picture brings more questions on how two objects stand: the last to be learnt."""
    rate: float = 1e-3
    """Learning rate: a linear warm-up, steady for 40% of the steps, then linearly to nothing."""
    warmup: int = 200
    decay: float = 0.05
    beta2: float = 0.98
    blocks: int = 6
    width: int = 192
    seed: int = 0
    autocast: bool = True
    """Matrix products in bfloat16."""
    threads: int = 1
    minutes: float | None = None
    """Stop and save after so long; the schedule stays that of --steps."""
    save_every: int = 200
    score_every: int = 500
    """Steps between held-out scores (validation split)."""
    score_pictures: int = 256

    @property
    def settings(self) -> dict[str, Any]:
        """What decides the weights, beside the number of steps."""
        return {name: getattr(self, name) for name in _SETTINGS} | {"world": VERSION}


@dataclass(frozen=True)
class Card:
    """Scores the model of a run and writes the folder to ship: weights in float16, README.md, curve."""

    run: Path
    """Folder of a training run."""
    out: Path
    pictures: int = 1024
    """Pictures behind each score."""
    threads: int = 1


def train(config: Train) -> Path | None:
    """Runs or goes on; returns the folder of the trained model, None if stopped before the last step."""
    _check(config)
    torch.set_num_threads(config.threads)
    config.out.mkdir(parents=True, exist_ok=True)
    model = new_llava(config.seed, config.blocks, config.width)
    model.set_attn_implementation("eager")  # on the CPU twice as fast backwards as torch's fused kernel
    trained = learning(model)
    optimizer = optimizer_of(trained.named_parameters(), config)
    step, before = 0, 0.0
    if (config.out / checkpoint.NAME).exists():
        state = checkpoint.restore(config.out, trained, optimizer, config.settings)
        same_schedule(config, state, _STEADY)
        step, before = state["step"], state["seconds"]
    start = time.monotonic()
    pool = Pool(model, config.pool, config.seed, "train", autocast=config.autocast)
    held = Pool(model, config.score_pictures, config.seed, "val", autocast=config.autocast)
    log = ShownLog(config.out / LOG, step)

    def seconds() -> float:
        return before + time.monotonic() - start

    def save() -> None:
        state = {"step": step, "steps": config.steps, "seconds": seconds(), "settings": config.settings}
        checkpoint.save(config.out, trained, optimizer, state | {"torch": torch.__version__})

    done: list[tuple[float, Packed, torch.Tensor]] = []
    with stop_signals() as stopped:
        for features, packed in batches(
            pool, step, config.steps, config.pictures, config.named, config.related
        ):
            loss, hits = _step(
                model, optimizer, features, packed, learning_rate(config, step, _STEADY), config.autocast
            )
            done.append((loss.item(), packed, hits))
            step += 1
            last = step == config.steps
            if step % 25 == 0 or last:
                log.write({"step": step, **_summary(done), "seconds": round(seconds(), 1)})
                done.clear()
            if step % config.score_every == 0 or last:
                log.write({"step": step, "scores": held_out(model, held, config.autocast)})
            late = config.minutes is not None and time.monotonic() - start > 60 * config.minutes
            halt = bool(stopped) or late
            if step % config.save_every == 0 or halt or last:
                save()
            if halt and not last:
                print(f"stopped and saved at step {step:,} of {config.steps:,}; call again to go on")
                return None
    return export(model, config.out / "model")


def held_out(model: LlavaForConditionalGeneration, pool: Pool, autocast: bool) -> dict[str, float]:
    """Shares answered by kind, to three digits."""
    asked, hits = answered(model, pool, autocast=autocast)
    of = np.array([q.kind for q in asked])
    return {kind: round(float(hits[of == kind].mean()), 3) for kind in KINDS if (of == kind).any()}


def _check(config: Train) -> None:
    names = ("steps", "pictures", "threads", "save_every", "score_every", "score_pictures", "blocks")
    if wrong := {n: getattr(config, n) for n in names if getattr(config, n) < 1}:
        raise ArgumentError(f"train: got {wrong}, expected at least 1")
    if config.width < 32 or config.width % 32:
        raise ArgumentError(f"train: got width {config.width}, expected a multiple of 32, the size of a head")
    if config.pool < 2 * config.pictures:
        raise ArgumentError(
            f"train: got a pool of {config.pool:,} for {config.pictures} pictures a step, expected twice as "
            "many or more: the first steps take only pictures of several objects"
        )


def _step(
    model: LlavaForConditionalGeneration,
    optimizer: torch.optim.Optimizer,
    features: torch.Tensor,
    packed: Packed,
    rate: float,
    autocast: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The loss of a step and which questions were answered; a question counts its words' mean loss."""
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        logits = predict(model, features, packed).float()
    sentence = packed.kinds == KINDS.index("caption")
    share = torch.where(sentence, SENTENCE, 1.0) / packed.question.bincount()
    weights = share[packed.question] / len(packed.kinds)
    loss = (cross_entropy(logits, packed.targets, reduction="none") * weights).sum()
    descend(optimizer, loss, rate)
    return loss.detach(), right(logits.detach(), packed)


def _summary(done: Sequence[tuple[float, Packed, torch.Tensor]]) -> dict[str, Any]:
    """Mean loss and shares answered of some training steps."""
    kinds, hits = torch.cat([p.kinds for _, p, _ in done]), torch.cat([h for *_, h in done]).float()
    shares = {n: round(hits[kinds == k].mean().item(), 3) for k, n in enumerate(KINDS) if (kinds == k).any()}
    return {"loss": round(float(np.mean([loss for loss, *_ in done])), 5), "answered": shares}


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    import tyro

    config: Train | Card = tyro.cli(Train | Card, args=argv, prog="python -m mmxai.shapes.llava")

    def run() -> None:
        if isinstance(config, Card):
            from mmxai.shapes.llava_card import write_card

            torch.set_num_threads(config.threads)
            write_card(config.run, config.out, pictures=config.pictures)
        else:
            announced(config)
            train(config)

    return command(run)


if __name__ == "__main__":
    sys.exit(main())
