"""Trains the world's CLIP: `python -m mmxai.shapes.train clip --out RUN`, then `card --run RUN --out DIR`.

A run stops at any step (Ctrl-C, SIGTERM, --minutes) and goes on where it was when called again: to the same
weights, bit for bit, with the same torch, device and threads.
"""

from __future__ import annotations

import math
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mmxai.errors import ArgumentError
from mmxai.runs import SIGNALS, stop_signals
from mmxai.shapes import checkpoint
from mmxai.shapes.card import LOG, export, write_card
from mmxai.shapes.feed import Feed, TrainBatch
from mmxai.shapes.loss import WEIGHTS, contrastive
from mmxai.shapes.model import new_clip
from mmxai.shapes.score import scores
from mmxai.shapes.towers import Towers
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

_STEADY = 0.3  # share of the steps before the rate falls
_SETTINGS = (
    "batch", "rate", "warmup", "decay", "beta2", "seed", "paired", "negatives", "places_from",
    "relations_from", "stress", "autocast",
)  # fmt: skip


def _stress(text: str) -> tuple[str, int, int]:
    kind, *bounds = text.split(":")
    if kind not in WEIGHTS or len(bounds) != 2 or not all(map(str.isdecimal, bounds)):
        raise ArgumentError(
            f"train: got --stress {text}, expected KIND:FROM:TO, two steps and one of {', '.join(WEIGHTS)}"
        )
    return kind, int(bounds[0]), int(bounds[1])


@dataclass(frozen=True)
class Clip:
    """Settings of a training run; those that shape the weights must be the same when it goes on."""

    out: Path
    """Folder of the run: checkpoint, log, exported models."""
    steps: int = 12_000
    """May change when a run goes on, as long as its rate has not begun to fall."""
    batch: int = 128
    """Pictures a step, each seen once."""
    rate: float = 1e-3
    """Learning rate: a linear warm-up, steady for 30% of the steps, then linearly to nothing."""
    warmup: int = 200
    decay: float = 0.05
    beta2: float = 0.98
    seed: int = 0
    paired: float = 0.5
    """Share of the pictures that are near scenes of others in the batch."""
    negatives: int = 1
    """False swaps added to each sentence at most."""
    places_from: int = 0
    """Step from which every picture is asked what is where."""
    relations_from: int = 0
    """Step from which every picture is asked for simple relations."""
    stress: tuple[str, ...] = ()
    """KIND:FROM:TO, steps in which sentences of a kind (`feed.KINDS`) weigh ten times what they do else: what
    a model could learn and does not begin to has too small a gradient among the others'."""
    autocast: bool = True
    """Matrix products in bfloat16."""
    keep: tuple[int, ...] = ()
    """Steps after which the model is exported, to OUT/step-N."""
    threads: int = 1
    device: str = "cpu"
    workers: int = 1
    """Processes that make batches ahead; 0: in between steps."""
    minutes: float | None = None
    """Stop and save after so long; the schedule stays that of --steps."""
    save_every: int = 250
    score_every: int = 500
    """Steps between held-out scores (validation split)."""
    score_pictures: int = 512

    @property
    def settings(self) -> dict[str, Any]:
        """What decides the weights, beside the number of steps."""
        return {name: getattr(self, name) for name in _SETTINGS} | {
            "stress": list(self.stress),  # as JSON has it
            "world": VERSION,
        }

    def weights(self, step: int) -> dict[str, float]:
        """Of each kind of sentence in the loss of a step."""
        weights = dict(WEIGHTS)
        for kind, start, end in map(_stress, self.stress):
            if start <= step < end:
                weights[kind] *= 10
        return weights


@dataclass(frozen=True)
class Card:
    """Scores a model of a run and writes the folder to ship: weights in float16, README.md, curve."""

    run: Path
    """Folder of a training run."""
    out: Path
    step: int | None = None
    """A step that the run kept; default the trained model."""
    pictures: int = 2048
    """Pictures behind each score."""
    threads: int = 1


def train(config: Clip) -> Path | None:
    """Runs or goes on; returns the folder of the trained model, None if stopped before the last step."""
    _check(config)
    torch.set_num_threads(config.threads)
    config.out.mkdir(parents=True, exist_ok=True)
    model = new_clip(config.seed)
    model.to(config.device)  # type: ignore[arg-type]  # transformers wraps `to` without its types
    model.train()
    towers = Towers(model, autocast=config.autocast)
    optimizer = optimizer_of(model.named_parameters(), config, plain=["position_embedding"])
    step, before = 0, 0.0
    if (config.out / checkpoint.NAME).exists():
        state = checkpoint.restore(config.out, model, optimizer, config.settings)
        same_schedule(config, state, _STEADY)
        step, before = state["step"], state["seconds"]
    log = ShownLog(config.out / LOG, step)
    start = time.monotonic()

    def seconds() -> float:
        return before + time.monotonic() - start

    def save() -> None:
        state = {"step": step, "steps": config.steps, "seconds": seconds(), "settings": config.settings}
        state["torch"] = torch.__version__
        checkpoint.save(config.out, model, optimizer, state)

    losses: list[torch.Tensor] = []
    with stop_signals() as stopped:
        for batch in _batches(config, step):
            losses.append(
                _step(towers, optimizer, batch, learning_rate(config, step, _STEADY), config.weights(step))
            )
            step += 1
            if step % 25 == 0 or step == config.steps:
                entry = {
                    "step": step,
                    "loss": round(torch.stack(losses).mean().item(), 5),
                    "scale": round(towers.scale.item(), 3),
                    "seconds": round(seconds(), 1),
                }
                log.write(entry)
                losses.clear()
            last = step == config.steps
            if step % config.score_every == 0 or last:
                log.write({"step": step, "scores": held_out(towers, config.score_pictures)})
            if step in config.keep:
                export(model, config.out / f"step-{step}")
            late = config.minutes is not None and time.monotonic() - start > 60 * config.minutes
            halt = bool(stopped) or late
            if step % config.save_every == 0 or halt or last:
                save()
            if halt and not last:
                print(f"stopped and saved at step {step:,} of {config.steps:,}; call again to go on")
                return None
    return export(model, config.out / "model")


def _check(config: Clip) -> None:
    for text in config.stress:
        _stress(text)  # raises, before an hour is spent
    positive = {n: getattr(config, n) for n in ("steps", "threads", "save_every", "score_every")}
    if config.batch < 2 or not 0 <= config.paired <= 0.5 or config.negatives < 0 or config.workers < 0:
        raise ArgumentError(
            f"train: got batch {config.batch}, paired {config.paired}, negatives {config.negatives}, workers "
            f"{config.workers}; expected a batch of 2 or more, 0 <= paired <= 0.5, the others not negative"
        )
    if wrong := {n: v for n, v in positive.items() if v < 1}:
        raise ArgumentError(f"train: got {wrong}, expected at least 1")
    if late := [step for step in config.keep if not 1 <= step <= config.steps]:
        raise ArgumentError(f"train: got --keep {late}, expected steps from 1 to {config.steps:,}")
    if torch.device(config.device).type == "cuda" and not torch.cuda.is_available():
        raise ArgumentError(f"train: got device {config.device}, expected cpu: torch sees no CUDA device")


def held_out(towers: Towers, pictures: int) -> dict[str, float]:
    """Validation scores by name, to three digits."""
    towers.model.eval()
    found = {s.name: round(s.value, 3) for s in scores(towers, "val", pictures=pictures)}
    towers.model.train()
    return found


def _step(
    towers: Towers,
    optimizer: torch.optim.Optimizer,
    batch: TrainBatch,
    rate: float,
    weights: dict[str, float],
) -> torch.Tensor:
    device = towers.device
    cosine = towers.texts(batch.tokens) @ towers.pictures(batch.images).T
    loss = contrastive(cosine * towers.scale, batch.kinds.to(device), batch.true.to(device), weights)
    descend(optimizer, loss, rate)
    with torch.no_grad():
        towers.model.logit_scale.clamp_(0, math.log(100))
    return loss.detach()


def _batches(config: Clip, start: int) -> Iterator[TrainBatch]:
    feed = Feed(
        config.steps, config.batch, seed=config.seed, paired=config.paired,
        negatives=config.negatives, places_from=config.places_from, relations_from=config.relations_from,
    )  # fmt: skip
    todo = range(start, config.steps)
    if config.workers == 0:
        return (feed[step] for step in todo)
    loader: torch.utils.data.DataLoader[TrainBatch] = torch.utils.data.DataLoader(
        feed,  # type: ignore[arg-type]  # a sequence is all that it asks for
        batch_size=None,
        sampler=todo,
        num_workers=config.workers,
        worker_init_fn=_ignore_signals,
        multiprocessing_context="spawn",  # numba and OpenMP do not survive a fork
    )
    before = {number: signal.getsignal(number) for number in SIGNALS}
    _ignore_signals()  # what is ignored when a worker starts, it ignores from its first moment
    try:
        return iter(loader)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _ignore_signals(worker: int = 0) -> None:
    """A worker's end is its parent's to decide: Ctrl-C and `timeout` reach the whole process group."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    import tyro

    config: Clip | Card = tyro.cli(Clip | Card, args=argv, prog="python -m mmxai.shapes.train")

    def run() -> None:
        if isinstance(config, Card):
            torch.set_num_threads(config.threads)
            write_card(config.run, config.out, step=config.step, pictures=config.pictures)
        else:
            announced(config)
            train(config)

    return command(run)


if __name__ == "__main__":
    sys.exit(main())
