"""Probes of rows held in memory: every penalty on every fold, and which penalty is best."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.special import logsumexp
from sklearn.model_selection import GroupKFold, KFold, StratifiedKFold

from mmxai.errors import ArgumentError
from mmxai.linalg.gram import FoldedGram
from mmxai.linalg.logistic import array_blocks, fit_logistic
from mmxai.linalg.solve import ridge_path
from mmxai.linalg.states import State
from mmxai.methods.probe.calibration import golden
from mmxai.methods.probe.closed import Linear, lda, mean_difference, ridge_classifier, ridge_regression

_BLOCK = 16384


class Fitted(NamedTuple):
    """coef float64 `[fits, P, D, K]`, intercept `[fits, P, K]`: without each fold in turn, then on all rows.

    K is 1 of two classes, towards the second.
    """

    coef: np.ndarray
    intercept: np.ndarray


def scores(x: np.ndarray, coef: np.ndarray, intercept: np.ndarray) -> np.ndarray:
    """float64 `[N, K]` of rows `[N, D]`, coef `[D, K]`; rows are turned to float64 a block at a time."""
    out = np.empty((len(x), coef.shape[1]))
    for start in range(0, len(x), _BLOCK):
        out[start : start + _BLOCK] = x[start : start + _BLOCK].astype(np.float64, copy=False) @ coef
    return out + intercept


def folds_of(targets: np.ndarray, kind: str, folds: int, groups: Any) -> np.ndarray:
    """The fold of each row, int64 `[N]`: by group where there are groups, else stratified by class."""
    if folds < 2:
        raise ArgumentError(f"LinearProbe: got folds={folds}, expected at least 2 to choose among penalties")
    splitter: GroupKFold | StratifiedKFold | KFold
    if groups is not None:
        splitter = GroupKFold(folds)
    else:
        splitter = StratifiedKFold(folds) if kind == "classes" else KFold(folds)
    out = np.empty(len(targets), np.int64)
    strata = targets.argmax(1) if kind == "classes" else targets
    for f, (_, held) in enumerate(splitter.split(targets, strata, groups)):
        out[held] = f
    return out


def fit_closed(
    x: np.ndarray,
    targets: np.ndarray,
    kind: str,
    method: str,
    penalties: tuple[float, ...],
    folds: np.ndarray | None,
) -> Fitted:
    """From moments: one pass over the rows, a factorisation a fold and penalty."""
    y = targets[:, None] if targets.ndim == 1 else targets
    count = 1 if folds is None else int(folds.max()) + 1
    gram = FoldedGram(x.shape[1], y.shape[1], count, rows=len(x))
    for start in range(0, len(x), _BLOCK):
        part = slice(start, start + _BLOCK)
        fold = None if folds is None else torch.from_numpy(folds[part])
        gram.update(_tensor(x[part]), _tensor(y[part]), fold)
    states = [gram.train(f) for f in range(count)] if folds is not None else []
    made = [_probe(state, kind, method, penalties) for state in (*states, gram.total())]
    return Fitted(*(np.stack([m[i].numpy() for m in made]) for i in (0, 1)))


def _probe(state: State, kind: str, method: str, penalties: tuple[float, ...]) -> Linear:
    exclusive = kind == "classes"
    two = exclusive and len(state.mean_y) == 2
    if method == "mean_difference":
        out = mean_difference(state, exclusive=exclusive)
    else:
        path = ridge_path(state, penalties)
        if method == "ridge_regression":
            return ridge_regression(path)
        if method == "ridge":
            coef, intercept = ridge_classifier(path)
            return Linear(coef[..., 1:], intercept[..., 1:]) if two else Linear(coef, intercept)
        out = lda(state, path, exclusive=exclusive)
    if not two:
        return out
    return Linear(out.coef[..., 1:] - out.coef[..., :1], out.intercept[..., 1:] - out.intercept[..., :1])


def fit_iterated(
    x: np.ndarray, targets: np.ndarray, kind: str, penalties: tuple[float, ...], folds: np.ndarray | None,
    tolerance: float, max_passes: int,
) -> Fitted:  # fmt: skip
    """Logistic regression, all penalties and folds at once."""
    if min(penalties) <= 0:
        raise ArgumentError(
            f"LinearProbe: got penalty {min(penalties):g}, expected above 0: logistic takes C = 1 / penalty"
        )
    labels = targets.astype(np.int64) if kind == "multilabel" else targets.argmax(1)[:, None]
    classes = [2] * targets.shape[1] if kind == "multilabel" else [targets.shape[1]]
    fit = fit_logistic(
        array_blocks(_tensor(x), _tensor(labels), None if folds is None else _tensor(folds)),
        classes,
        [1 / p for p in penalties],
        folds=0 if folds is None else int(folds.max()) + 1,
        total=True,
        tolerance=tolerance,
        max_passes=max_passes,
    )
    # [P, fits, K, D] a task; labels are tasks of one column each.
    coef = torch.cat(fit.coef, 2).permute(1, 0, 3, 2)
    return Fitted(coef.numpy(), torch.cat(fit.intercept, 2).transpose(0, 1).numpy())


def choose(
    fitted: Fitted,
    x: np.ndarray,
    targets: np.ndarray,
    kind: str,
    penalties: tuple[float, ...],
    folds: np.ndarray,
) -> tuple[int, np.ndarray]:
    """The best penalty's place, and the score of each on rows held out: accuracy of a row or label; of
    numbers R²."""
    y = targets[:, None] if targets.ndim == 1 else targets
    out = np.zeros(len(penalties))
    for f in range(int(folds.max()) + 1):
        held = folds == f
        for p in range(len(penalties)):
            made = scores(x[held], fitted.coef[f, p], fitted.intercept[f, p])
            out[p] += _right(made, y[held], kind)
    if kind == "regression":
        spread = np.square(y - y.mean(0)).sum()
        out = 1 + out / spread if spread > 0 else out
    else:
        out /= y.size if kind == "multilabel" else len(y)
    best = max(range(len(penalties)), key=lambda p: (out[p], penalties[p]))
    return best, out


def smooth_temperature(logits: np.ndarray, targets: np.ndarray, kind: str) -> float:
    """The scale of logits `[N, K]` with the least log loss on targets 0 and 1 `[N, K]`.

    These are taken for a little less sure than they say (Platt 1999), so that classes that are parted exactly
    do not scale without end.
    """
    if kind == "multilabel":
        told = (targets != targets[:1]).any(0)  # of a label that all rows have, or none, any scale is right
        if not told.any():
            return 1.0
        logits, targets = logits[:, told], targets[:, told]
    parts = 2 if kind == "multilabel" else targets.shape[1]
    soft = targets + (1 / parts - targets) * 2 / (len(targets) + 2)

    def loss(log_scale: float) -> float:
        z = logits * np.exp(log_scale)
        if kind == "multilabel":
            return float((np.logaddexp(0, z) - soft * z).sum())
        return float(logsumexp(z, axis=1).sum() - (soft * z).sum())

    return float(np.exp(golden(loss, -5.0, 9.0, 24)[0]))


def _right(made: np.ndarray, y: np.ndarray, kind: str) -> float:
    """Answers that are right; of numbers, less the squares they are off."""
    if kind == "regression":
        return -float(np.square(made - y).sum())
    if kind == "multilabel":
        return float(((made > 0) == (y > 0)).sum())
    guess = (made[:, 0] > 0) if made.shape[1] == 1 else made.argmax(1)
    return float((guess == y.argmax(1)).sum())


def _tensor(values: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(values))
