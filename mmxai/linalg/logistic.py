"""Logistic regression of many tasks, penalties and folds at once, over rows that stream by.

A pass over the rows evaluates every problem still open in two thick matrix products. In the principal axes of
the rows the Hessian is near diagonal, so a dozen or two passes do (`BatchedLBFGS`). The start is the ridge
regression of the class indicators, which is Newton's step from 0: at equal probabilities the Hessian is the
rows' scatter over the number of classes.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch

from mmxai.errors import ArgumentError
from mmxai.linalg._logistic_group import Group, chunk_bytes
from mmxai.linalg._logistic_rows import Block, Segments, first_pass

_VECTORS = 14
"""Of the size of all parameters, that a minimiser and its group hold at most beside pairs of the history."""


class NotConvergedWarning(UserWarning):
    """A fit stopped before its objective was as near the least as asked for."""


@dataclass
class LogisticFit:
    """A list each, an entry a task. Fits are the folds (fit f leaves fold f out), then all rows where asked.

    coef: float64 `[Cs, fits, columns, D]`, `columns` being the number of classes, and 1 for two classes.
    intercept: float64 `[Cs, fits, columns]`. objective: float64 `[Cs, fits]`, scikit-learn's: C times the sum
    of the rows' losses in nats, plus half the squared coefficients. passes: int64 `[Cs, fits]`, evaluations
    until done. converged: bool `[Cs, fits]`.
    """

    coef: list[torch.Tensor]
    intercept: list[torch.Tensor]
    objective: list[torch.Tensor]
    passes: list[torch.Tensor]
    converged: list[torch.Tensor]


def fit_logistic(
    blocks: Callable[[], Iterable[Block]],
    classes: Sequence[int],
    Cs: Sequence[float],
    *,
    folds: int = 0,
    total: bool = False,
    tolerance: float = 1e-5,
    max_passes: int = 300,
    history: int = 8,
) -> LogisticFit:
    """L2-penalised logistic regression as scikit-learn's `LogisticRegression`, intercept unpenalised.

    blocks: called once a pass (as many as the slowest problem needs, and one more); gives blocks of the same
    rows each time: x `[N, D]` of any float dtype, y int64 `[N, tasks]` (class, or -1: no label), fold int64
    `[N]` (-1: a row of no fit), all on one device. Products run in float32, sums of losses in float64.
    classes: number of classes of each task. Two: binary, one column (so several labels a row, multilabel,
    are tasks of two); more: multinomial, a column a class. Cs: inverse penalties. folds: fit f uses the rows
    of the other folds. total: a last fit on all of them; always so without folds. tolerance: estimated excess
    of the objective over its least, relative, at which a problem is done and drops out.

    Raises ArgumentError for unusable labels, folds and settings, NonFiniteError for rows with NaN or inf;
    warns NotConvergedWarning where `max_passes` end a problem. A fit in whose rows a class never occurs has
    an intercept that tends to minus infinity there; it ends within 1e-6 nats a row of its least. One whose
    rows are all of one class has coefficients of 0 and that class certain (a logit of 25).
    """
    _check(classes, Cs, folds, tolerance, max_passes)
    scale = first_pass(blocks(), classes, folds)
    fits = folds + (total or not folds)
    found = _empty(classes, len(Cs), fits, scale.width)
    groups = [
        Group(scale, tasks, columns, Cs, folds, fits, tolerance, history)
        for columns, tasks in _by_columns(classes).items()
    ]
    segments = Segments(scale.mean)
    for _ in range(max_passes):
        for group in groups:
            group.begin()
        for x, y, fold in blocks():
            for held, rows, labels in segments(x, y, fold):
                for group in groups:
                    group.add(held, rows, labels)
        for group in groups:
            group.end()
            group.release(found)
        groups = [group for group in groups if group.open]
        if not groups:
            break
    for group in groups:
        group.release(found, everything=True)
    late = sum(int((~c).sum()) for c in found.converged)
    if late:
        warnings.warn(
            f"logistic regression: {late} fits did not come within {tolerance:g} of their least objective in "
            f"{max_passes} passes; see `converged`, raise max_passes or leave out the largest C",
            NotConvergedWarning,
            stacklevel=2,
        )
    return found


def bytes_needed(
    width: int,
    classes: Sequence[int],
    penalties: int,
    folds: int,
    *,
    total: bool = False,
    rows: int = 8192,
    history: int = 8,
) -> int:
    """What `fit_logistic` holds beside its blocks of at most `rows` rows: minimisers, results, moments, and
    rows under way."""
    columns = sum(count if count > 2 else 1 for count in classes)
    lines = columns * penalties * (folds + (total or not folds))
    state = lines * (width + 1) * (4 * (2 * history + _VECTORS) + 16)
    moments = 36 * width**2 + 16 * max(folds, 1) * sum(classes) * width
    return state + moments + 8 * rows * (width + max(folds, 1) * max(classes)) + chunk_bytes(lines)


def array_blocks(
    x: torch.Tensor, y: torch.Tensor, fold: torch.Tensor | None = None, rows: int = 8192
) -> Callable[[], Iterator[Block]]:
    """`blocks` of arrays in memory: x `[N, D]`, y int64 `[N]` or `[N, tasks]`, fold int64 `[N]` (none: 0)."""
    y = y[:, None] if y.ndim == 1 else y
    fold = torch.zeros(len(x), dtype=torch.int64, device=x.device) if fold is None else fold

    def blocks() -> Iterator[Block]:
        yield from zip(x.split(rows), y.split(rows), fold.split(rows), strict=True)

    return blocks


def _by_columns(classes: Sequence[int]) -> dict[int, list[int]]:
    """Columns of a problem -> tasks."""
    found: dict[int, list[int]] = {}
    for task, count in enumerate(classes):
        found.setdefault(count if count > 2 else 1, []).append(task)
    return found


def _empty(classes: Sequence[int], penalties: int, fits: int, width: int) -> LogisticFit:
    columns = [count if count > 2 else 1 for count in classes]

    def each(*shape: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
        return torch.zeros(penalties, fits, *shape, dtype=dtype)

    return LogisticFit(
        coef=[each(k, width) for k in columns],
        intercept=[each(k) for k in columns],
        objective=[each() for _ in columns],
        passes=[each(dtype=torch.int64) for _ in columns],
        converged=[each(dtype=torch.bool) for _ in columns],
    )


def _check(
    classes: Sequence[int], Cs: Sequence[float], folds: int, tolerance: float, max_passes: int
) -> None:
    if not classes or min(classes) < 2:
        raise ArgumentError(f"logistic: got classes={list(classes)}, expected at least 2 of each task")
    if not Cs or not min(Cs) > 0 or not max(Cs) < float("inf"):
        raise ArgumentError(f"logistic: got Cs={list(Cs)}, expected positive finite inverse penalties")
    if folds < 0 or folds == 1:
        raise ArgumentError(f"logistic: got folds={folds}, expected 0 (all rows in one fit) or at least 2")
    if not tolerance > 0 or max_passes < 1:
        raise ArgumentError(
            f"logistic: got tolerance={tolerance}, max_passes={max_passes}, expected both positive"
        )
