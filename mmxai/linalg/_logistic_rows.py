"""The rows of `fit_logistic`: their moments, and segments of one fold with a column of ones."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch

from mmxai.errors import ArgumentError, NonFiniteError

Block = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
"""x `[N, D]`, y int64 `[N, tasks]`, fold int64 `[N]`."""

_SEGMENT = 2048


@dataclass
class Scale:
    """What a first look at the rows tells. Rows of no fit are left out.

    mean float32 `[D]`. axes float32 `[D, D]`: principal directions in columns; variances float32 `[D]` along
    them. counts float64: a task `[folds or 1, classes]`. sums float64: a task `[folds or 1, classes, D]`,
    the sum of a class's rows about the mean.
    """

    mean: torch.Tensor
    axes: torch.Tensor
    variances: torch.Tensor
    counts: list[torch.Tensor]
    sums: list[torch.Tensor]

    @property
    def width(self) -> int:
        return len(self.mean)


def first_pass(blocks: Iterable[Block], classes: Sequence[int], folds: int) -> Scale:
    moments: _Moments | None = None
    for x, y, fold in blocks:
        _check(x, y, fold, classes, folds)
        inside = fold >= 0
        if not inside.all():
            x, y, fold = x[inside], y[inside], fold[inside]
        if len(x):
            moments = moments or _Moments(x, classes, max(folds, 1))
            moments.update(x, y, fold if folds else torch.zeros_like(fold))
    if moments is None:
        raise ArgumentError("logistic: got no rows, expected at least one in a fold")
    return moments.scale()


class _Moments:
    """Sums about the mean of the first block, so that a common offset costs no digits."""

    def __init__(self, first: torch.Tensor, classes: Sequence[int], folds: int):
        self.shift = first.double().mean(0).float()
        zeros = partial(torch.zeros, dtype=torch.float64, device=first.device)
        width, self.rows = first.shape[1], 0
        self.total, self.product = zeros(width), zeros(width, width)
        self.counts = [zeros(folds, k) for k in classes]
        self.sums = [zeros(folds, k, width) for k in classes]

    def update(self, x: torch.Tensor, y: torch.Tensor, fold: torch.Tensor) -> None:
        x = (x - self.shift).float()  # in the rows' own precision: their offset may be large
        total = x.sum(0)
        if not total.isfinite().all():
            raise NonFiniteError(
                f"logistic: got NaN or inf among the {len(x)} rows of a block, expected finite rows; "
                "leave such rows out"
            )
        self.rows += len(x)
        self.total += total
        self.product += x.T @ x
        for task, (counts, sums) in enumerate(zip(self.counts, self.sums, strict=True)):
            labelled = y[:, task] >= 0
            folds, columns = counts.shape
            cell = torch.where(labelled, fold * columns + y[:, task], folds * columns)
            member = torch.nn.functional.one_hot(cell, folds * columns + 1)[:, :-1].to(x.dtype)
            counts += member.sum(0).view(folds, columns)
            sums += (member.T @ x).view(folds, columns, -1)

    def scale(self) -> Scale:
        apart = self.total / self.rows
        covariance = self.product / self.rows - torch.outer(apart, apart)
        variances, axes = torch.linalg.eigh(covariance.float())
        return Scale(
            mean=self.shift + apart.float(),
            axes=axes,
            variances=variances.clamp(min=0),
            counts=self.counts,
            sums=[s - c[:, :, None] * apart for s, c in zip(self.sums, self.counts, strict=True)],
        )


class Segments:
    """Splits blocks by fold into float32 rows about the mean, `[n, D + 1]`, the last column ones.

    A segment is small enough to stay in the cache until it has been multiplied twice.
    """

    def __init__(self, mean: torch.Tensor):
        self._mean = mean
        self._rows = torch.ones(_SEGMENT, len(mean) + 1, device=mean.device)

    def __call__(
        self, x: torch.Tensor, y: torch.Tensor, fold: torch.Tensor
    ) -> Iterator[tuple[int, torch.Tensor, torch.Tensor]]:
        """Fold, rows `[n, D + 1]`, labels int64 `[n, tasks]`. The next segment overwrites the rows."""
        order = fold.argsort(stable=True)
        folds, counts = fold.index_select(0, order).unique_consecutive(return_counts=True)
        start = 0
        for held, count in zip(folds.tolist(), counts.tolist(), strict=True):
            for which in order[start : start + count].split(_SEGMENT) if held >= 0 else ():
                rows = self._rows[: len(which)]
                # index_select is several times as fast as x[which]
                torch.sub(x.index_select(0, which), self._mean, out=rows[:, :-1])
                yield held, rows, y.index_select(0, which)
            start += count


def _check(x: torch.Tensor, y: torch.Tensor, fold: torch.Tensor, classes: Sequence[int], folds: int) -> None:
    if x.ndim != 2 or not x.is_floating_point() or y.shape != (len(x), len(classes)) or len(fold) != len(x):
        raise ArgumentError(
            f"logistic: got rows {x.dtype} {tuple(x.shape)}, labels {tuple(y.shape)}, folds "
            f"{tuple(fold.shape)}, expected floats (N, D), (N, {len(classes)}), (N,)"
        )
    if len(x) and (y >= torch.tensor(classes, device=y.device)).any():
        raise ArgumentError(
            f"logistic: got labels up to {y.amax(0).tolist()}, expected below {list(classes)}"
        )
    if folds and len(fold) and int(fold.max()) >= folds:
        raise ArgumentError(f"logistic: got fold {int(fold.max())}, expected below {folds}")
