"""From scores to probabilities: one temperature a task (Guo et al. 2017), fitted where the probe was not."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from mmxai.labels.labels import Task

_LOW, _HIGH, _STEPS = -5.0, 8.0, 18  # of log temperatures of scores of spread 1: golden sections leave 0.002
_GOLDEN = (5**0.5 - 1) / 2


def log_probabilities(task: Task, scores: np.ndarray, scale: float = 1.0, mix: float = 0.0) -> np.ndarray:
    """float64 `[n, K]` of scores `[n, K]`: the softmax of `scale` times the scores; of labels the log
    probability that each is there, by itself.

    mix: share of the uniform distribution in it, which bounds what a single wrong answer can cost.
    """
    logits = scale * scores.astype(np.float64)
    if task.kind == "multilabel":
        logp, parts = -np.logaddexp(0, -logits), 2
    else:
        logits -= logits.max(1, keepdims=True)
        logp, parts = logits - np.log(np.exp(logits).sum(1, keepdims=True)), task.width
    return logp if not mix else np.log((1 - mix) * np.exp(logp) + mix / parts)


def nats(task: Task, scores: np.ndarray, values: np.ndarray, scale: float = 1.0, mix: float = 0.0) -> float:
    """Mean log loss of an item, of labels their sum."""
    if task.kind == "multilabel":
        signed = np.where(values == 1, 1, -1) * scores
        return float(-log_probabilities(task, signed, scale, mix).sum() / max(1, len(scores)))
    logp = log_probabilities(task, scores, scale, mix)
    return float(-logp[np.arange(len(values)), values].mean())


def temperature(task: Task, scores: np.ndarray, values: np.ndarray) -> tuple[float, float]:
    """The scale with the least log loss, and that loss. The loss is convex in the scale."""
    centre = -float(np.log(scores.std() or 1.0))
    low, high = centre + _LOW, centre + _HIGH
    at, loss = golden(lambda log: nats(task, scores, values, float(np.exp(log))), low, high, _STEPS)
    return float(np.exp(at)), loss


def golden(f: Callable[[float], float], low: float, high: float, steps: int) -> tuple[float, float]:
    """Least of a function with one valley, by golden sections."""
    a, b = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
    fa, fb = f(a), f(b)
    for _ in range(steps):
        if fa <= fb:
            high, b, fb = b, a, fa
            a = high - _GOLDEN * (high - low)
            fa = f(a)
        else:
            low, a, fa = a, b, fb
            b = low + _GOLDEN * (high - low)
            fb = f(b)
    return (a, fa) if fa <= fb else (b, fb)
