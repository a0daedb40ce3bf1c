"""From scores to probabilities: one temperature a task (Guo et al. 2017), fitted where the probe was not."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from mmxai.labels.labels import Task

_LOW, _HIGH, _STEPS = -5.0, 8.0, 18  # of log temperatures of scores of spread 1: golden sections leave 0.002
_GOLDEN = (5**0.5 - 1) / 2


def log_probabilities(task: Task, scores: np.ndarray, scale: float = 1.0) -> np.ndarray:
    """float64 `[n, K]` of scores `[n, K]`: the softmax of `scale` times the scores; of labels the log
    probability that each is there, by itself."""
    logits = scale * scores.astype(np.float64)
    if task.kind == "multilabel":
        return -np.logaddexp(0, -logits)
    logits -= logits.max(1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(1, keepdims=True))


class LogLoss:
    """Mean log loss of an item in nats (of labels their sum), for as many scales as one likes.

    scores: float `[..., n, K]`; values: of the n items, as `Labels` has them. smooth: share of every item
    that is taken to be of any class alike, but for those of score -inf.
    """

    def __init__(self, task: Task, scores: np.ndarray, values: np.ndarray, smooth: float = 0.0):
        self._labels = task.kind == "multilabel"
        if self._labels:  # each a task of two: what is so, at 0, and what is not
            against = np.moveaxis(np.where(values == 1, -1.0, 1.0) * scores, -1, 0)
            logits, own = np.stack([np.zeros(against.shape), against]), np.zeros(against.shape)
        else:
            own = scores[..., np.arange(len(values)), values].astype(np.float64)
            # Classes first: sums over few numbers next to each other are what numpy is slowest at.
            logits = np.ascontiguousarray(np.moveaxis(scores, -1, 0), np.float64)
        if smooth:
            own += smooth * (logits.mean(0, where=np.isfinite(logits)) - own)
        most = logits.max(0)
        self._logits, self._own = logits - most, own - most

    def __call__(self, scale: float = 1.0, mix: float = 0.0) -> np.ndarray:
        """float64 `[...]`. mix: share of the uniform distribution in the probabilities, which bounds what a
        single wrong answer can cost."""
        loss = np.log(np.exp(scale * self._logits).sum(0)) - scale * self._own
        if mix:
            loss = -np.log((1 - mix) * np.exp(-loss) + mix / len(self._logits))
        mean: np.ndarray = loss.mean(-1)
        return mean.sum(0) if self._labels else mean


def temperature(task: Task, scores: np.ndarray, values: np.ndarray) -> float:
    """The scale with the least log loss, which is convex in it.

    Labels are taken for a little less sure than they say (Platt 1999): where every answer is right the scale
    would be without bound, and the first wrong one cost as much.
    """
    centre = -float(np.log(scores[np.isfinite(scores)].std() or 1.0))
    loss = LogLoss(task, scores, values, 2 / (len(values) + 2))
    at, _ = golden(lambda log: float(loss(np.exp(log))), centre + _LOW, centre + _HIGH, _STEPS)
    return float(np.exp(at))


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
