"""The probes of one site: every penalty, task, fold and control, from moments or from rows that stream."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import torch

from mmxai.kernels._threads import thread_count
from mmxai.linalg._threads import one_blas_thread, spread
from mmxai.linalg.gram import FoldedGram
from mmxai.linalg.logistic import NotConvergedWarning, fit_logistic
from mmxai.linalg.solve import ridge_path
from mmxai.linalg.states import State
from mmxai.methods.probe.closed import (
    ACCURACY,
    Linear,
    lda,
    mean_difference,
    ridge_classifier,
    ridge_regression,
)
from mmxai.methods.probe.columns import Columns
from mmxai.methods.probe.design import Cohort

Probes = list[Linear]
"""A `Linear` for each task and control of a cohort, in the order of its columns."""

Chunks = Callable[[], Iterable[tuple[np.ndarray, torch.Tensor]]]
"""Makes an iterable over training items: places in the cohort int64 `[n]`, x float32 `[n, D]`."""


def method_of(kind: str, method: str) -> str:
    """Numbers are fitted by ridge regression, whatever the method of classes and labels."""
    return "ridge_regression" if kind == "regression" else method


def closed_probes(
    gram: FoldedGram,
    columns: Columns,
    method: str,
    penalties: Sequence[float],
    threads: int | None = None,
) -> Iterator[Probes]:
    """Probes without each fold in turn, then of all; `threads` sets of moments are factorised at a time."""
    accuracy = None if method == "lda" else ACCURACY[gram.product]

    def fit(fold: int) -> Probes:
        state = gram.train(fold) if fold < gram.folds else gram.total()
        return _from_state(state, columns, method, penalties, accuracy)

    at_once = thread_count(threads)
    for start in range(0, gram.folds + 1, at_once):
        yield from spread(fit, range(start, min(start + at_once, gram.folds + 1)), threads)


def _from_state(
    state: State, columns: Columns, method: str, penalties: Sequence[float], accuracy: float | None
) -> Probes:
    path = ridge_path(state, penalties, **({"accuracy": accuracy} if accuracy else {}))
    probes = []
    for known, own in zip(columns.known, columns.slices, strict=True):
        exclusive = known.task.kind == "classes"
        match method_of(known.task.kind, method):
            case "ridge_regression":
                made = ridge_regression(path, own)
            case "lda":
                made = lda(state, path, own, exclusive=exclusive)
            case "mean_difference":
                made = mean_difference(state, own, exclusive=exclusive)
            case _:
                made = ridge_classifier(path, own)
        probes.append(made)
    return probes


def rows_probe(
    columns: Columns, penalties: Sequence[float]
) -> Callable[[torch.Tensor, torch.Tensor], Probes]:
    """Ridge probes of rows in memory: (x `[n, D]`, y `[n, T]`) -> probes."""

    def fit(x: torch.Tensor, y: torch.Tensor) -> Probes:
        gram = FoldedGram(x.shape[1], columns.total, rows=len(x))
        gram.update(x, y)
        # A share of the mean scatter, as for all the rows: penalties keep their meaning as items come in.
        unit = scatter(x) * len(x)
        return _from_state(gram.total(), columns, "ridge", [p * unit for p in penalties], ACCURACY["float64"])

    return fit


class LogisticProbes:
    """As `closed_probes`, by logistic regression; `columns` has no task of numbers.

    Labels are tasks of two classes each. Rows are gone through once an iteration. A smallest penalty is often
    too small for classes that can be parted, and a fit that is not done by then is no error where another is
    chosen: so there is no warning, but `done`.
    """

    def __init__(
        self, chunks: Chunks, cohort: Cohort, columns: Columns, penalties: Sequence[float], folds: int
    ):
        self._columns = columns
        classes: list[int] = []
        self._own: list[slice] = []
        for known in columns.known:
            own = [2] * known.task.width if known.task.kind == "multilabel" else [known.task.width]
            self._own.append(slice(len(classes), len(classes) + len(own)))
            classes += own

        def blocks() -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
            for where, x in chunks():
                values = [k.values[where].reshape(len(where), -1).astype(np.int64) for k in columns.known]
                yield x, torch.from_numpy(np.concatenate(values, 1)), torch.from_numpy(cohort.fold[where])

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotConvergedWarning)
            self._fit = fit_logistic(blocks, classes, [1 / p for p in penalties], folds=folds, total=True)

    def __iter__(self) -> Iterator[Probes]:
        for fold in range(self._fit.coef[0].shape[1]):
            probes = []
            for known, own in zip(self._columns.known, self._own, strict=True):
                coef = torch.cat([c[:, fold] for c in self._fit.coef[own]], 1)
                intercept = torch.cat([i[:, fold] for i in self._fit.intercept[own]], 1)
                if known.task.kind == "classes" and known.task.width == 2:
                    # One column: half its score for the second, half against.
                    coef, intercept = (torch.cat([-v / 2, v / 2], 1) for v in (coef, intercept))
                probes.append(Linear(coef.transpose(1, 2), intercept))
            yield probes

    def done(self, k: int, penalty: int) -> bool:
        """Whether the fit of all rows came to its end, of task or control `k` and a penalty's place."""
        return all(bool(c[penalty, -1]) for c in self._fit.converged[self._own[k]])


def scatter(x: torch.Tensor) -> float:
    """Mean variance of the columns, 1 where it is 0; times the rows, what penalties are shares of."""
    # In float64, so that constant columns have a scatter of exactly 0; by numpy, 8 times as fast as torch.
    rows = x.numpy()
    apart = rows - rows.mean(0, dtype=np.float64).astype(np.float32)
    return float(np.square(apart, out=apart).mean(dtype=np.float64)) or 1.0


def scores_of(probe: Linear, x: torch.Tensor) -> torch.Tensor:
    """float32 `[P, n, K]` of x float32 `[n, D]`."""
    p, d, k = probe.coef.shape
    flat = probe.coef.permute(1, 0, 2).reshape(d, p * k).float()
    return times(x, flat).reshape(len(x), p, k).permute(1, 0, 2) + probe.intercept.float()[:, None]


def times(x: torch.Tensor, coef: torch.Tensor) -> torch.Tensor:
    """x `[n, D]` times coef `[D, K]`, on one thread: the same to the last bit however many there are."""
    with one_blas_thread():
        return torch.from_numpy(x.numpy() @ coef.numpy())
