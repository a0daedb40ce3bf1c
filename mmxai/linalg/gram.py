"""Products of rows and targets that stream by, fold by fold: all that a linear probe in closed form needs."""

from __future__ import annotations

from typing import Any, Literal, NoReturn

import numpy as np
import torch
from scipy.linalg import blas

from mmxai.errors import ArgumentError, NonFiniteError
from mmxai.linalg.states import DualState, GramState, State

Product = Literal["float64", "float32"]


class FoldedGram:
    """X'X, X'Y, sums and counts of rows x `[N, D]` and targets y `[N, T]`, kept by fold.

    Every task's targets, and those of its controls, stand side by side in y: one pass serves them all.

    width, targets: D and T. folds: how many; `train(f)` is all of them less fold f. rows: how many rows will
    come at most, where that is known. Fewer than D are kept as they are (`dual`), and the matrix to factorise
    is rows x rows; otherwise memory is `folds` matrices D x D in float64, whatever the number of rows.
    product: in what the product of a block is taken. Sums are float64 always. "float32" is twice as fast and
    errs by about 1e-7 of each column's length: coefficients are off by 1e-7 of their length where directions
    have variances alike, and by up to 1e-7 D / s where few hold nearly all, s the penalty's share of the
    mean diagonal of X'X.

    Rows are taken less a fixed early mean (of the first block), so that a large common offset costs no digits
    and a fold can be subtracted.
    """

    def __init__(
        self,
        width: int,
        targets: int,
        folds: int = 1,
        *,
        rows: int | None = None,
        product: Product = "float64",
    ):
        for name, value, least in (("width", width, 1), ("targets", targets, 0), ("folds", folds, 1)):
            if value < least:
                raise ArgumentError(f"gram: got {name}={value}, expected at least {least}")
        if product not in ("float64", "float32"):
            raise ArgumentError(f"gram: got product={product!r}, expected float64 or float32")
        self.width, self.targets, self.folds = width, targets, folds
        self.dual = rows is not None and rows < width
        self.counts = [0] * folds
        self._rows_most, self._product = rows, np.dtype(product)
        self._shift_x: np.ndarray | None = None
        self._shift_y = np.zeros(targets)
        self._sum_x, self._sum_y = np.zeros((folds, width)), np.zeros((folds, targets))
        self._yy = np.zeros((folds, targets))
        self._kept: list[list[tuple[np.ndarray, np.ndarray]]] = [[] for _ in range(folds)]
        if not self.dual:
            # Of each fold, the lower triangle in Fortran's order: what BLAS adds to in place.
            self._xx = [np.zeros((width, width), order="F") for _ in range(folds)]
            self._xy = np.zeros((folds, width, targets))

    @staticmethod
    def bytes_needed(width: int, targets: int, folds: int) -> int:
        """Memory of one that is not dual: its sums, and one state with a copy to factorise."""
        return 8 * (folds * (width * (width + targets + 1) + 2 * targets) + width * (2 * width + targets))

    def update(self, x: torch.Tensor, y: torch.Tensor, fold: torch.Tensor | None = None) -> None:
        """Take in a block: x float `[N, D]`, y numbers `[N, T]`, fold integers `[N]`.

        fold None: all rows are in fold 0; -1: a row of no fold, left out. Blocks of a thousand rows a fold
        and more run fastest.
        NonFiniteError where a number of x or y is NaN or infinite; nothing of such a block is counted.
        """
        self._check(x, y, fold)
        if not len(x):
            return
        given = np.zeros(len(x), np.int64) if fold is None else fold.detach().cpu().numpy()
        xs, ys = _numpy(x), _numpy(y)
        if self._shift_x is None:
            if not (kept := given >= 0).any():
                return
            # In the product's type, so that what is taken off is what `_state` adds again.
            self._shift_x = xs[kept].mean(0, dtype=np.float64).astype(self._product)
            self._shift_y = ys[kept].mean(0, dtype=np.float64)
            if not (np.isfinite(self._shift_x).all() and np.isfinite(self._shift_y).all()):
                self._shift_x = None
                _refuse(xs, ys, given)
        parts: list[tuple[int, tuple[np.ndarray, ...]]] = []
        for f in np.unique(given[given >= 0]):
            chosen = np.flatnonzero(given == f)
            mine, theirs = (xs, ys) if len(chosen) == len(xs) else (xs.take(chosen, 0), ys.take(chosen, 0))
            own = np.subtract(mine, self._shift_x, dtype=self._product)
            targets = np.subtract(theirs, self._shift_y, dtype=np.float64)
            sums = own.sum(0, dtype=np.float64), targets.sum(0)
            if not (np.isfinite(sums[0]).all() and np.isfinite(sums[1]).all()):
                _refuse(xs, ys, given)
            parts.append((int(f), (own, targets, *sums)))
        taken = sum(self.counts) + sum(len(p[1][0]) for p in parts)
        if self.dual and taken > (self._rows_most or 0):
            raise ArgumentError(
                f"gram: got {taken} rows, expected at most rows={self._rows_most} as announced"
            )
        for f, (own, targets, sum_x, sum_y) in parts:
            self._add(f, own, targets)
            self.counts[f] += len(own)
            self._sum_x[f] += sum_x
            self._sum_y[f] += sum_y
            self._yy[f] += np.square(targets).sum(0)

    def _add(self, f: int, x: np.ndarray, y: np.ndarray) -> None:
        if self.dual:
            self._kept[f].append((x.astype(np.float64, copy=False), y))
            return
        self._xy[f] += x.T @ y.astype(self._product, copy=False)
        if self._product == np.float64:
            self._xx[f] = blas.dsyrk(1.0, x.T, beta=1.0, c=self._xx[f], lower=1, overwrite_c=1)
        else:
            self._xx[f] += blas.ssyrk(1.0, x.T, lower=1)

    def total(self) -> State:
        """All rows."""
        return self._state(list(range(self.folds)))

    def train(self, fold: int) -> State:
        """All rows but those of `fold`."""
        if not 0 <= fold < self.folds:
            raise ArgumentError(f"gram: got fold {fold}, expected 0 <= fold < {self.folds}")
        return self._state([f for f in range(self.folds) if f != fold])

    def _state(self, folds: list[int]) -> State:
        n = sum(self.counts[f] for f in folds)
        if n == 0 or self._shift_x is None:
            raise ArgumentError(
                f"gram: got no rows in folds {folds}, expected some; update first, or use fewer folds"
            )
        sum_x, sum_y = self._sum_x[folds].sum(0), self._sum_y[folds].sum(0)
        mean_x, mean_y = self._shift_x + sum_x / n, self._shift_y + sum_y / n
        yy = self._yy[folds].sum(0) - np.square(sum_y) / n
        if self.dual:
            kept = [pair for f in folds for pair in self._kept[f]]
            x = np.concatenate([p[0] for p in kept]) - sum_x / n
            y = np.concatenate([p[1] for p in kept]) - sum_y / n
            return DualState(n, *_torch(mean_x, mean_y, yy, x, y))
        xy = self._xy[folds].sum(0) - np.outer(sum_x / n, sum_y)
        # The sum of the others rather than all less one: as fast where folds are few, and no digits go.
        xx = self._xx[folds[0]].copy(order="F")
        for f in folds[1:]:
            xx += self._xx[f]
        xx = blas.dsyr(-1.0 / n, sum_x, a=xx, lower=1, overwrite_a=1)
        # Fortran's lower triangle is the upper one of a matrix in C's order.
        upper = torch.from_numpy(xx.T)
        full = upper.triu(1)
        symmetric = upper.triu_().add_(full.T)
        mx, my, squares, products = _torch(mean_x, mean_y, yy, xy)
        return GramState(n, mx, my, squares, symmetric, products)

    def _check(self, x: torch.Tensor, y: torch.Tensor, fold: torch.Tensor | None) -> None:
        if x.ndim != 2 or x.shape[1] != self.width or not x.is_floating_point():
            raise ArgumentError(
                f"gram: got x {x.dtype} {tuple(x.shape)}, expected floats of shape (N, {self.width})"
            )
        if y.shape != (len(x), self.targets):
            raise ArgumentError(f"gram: got y {tuple(y.shape)}, expected {(len(x), self.targets)}")
        if fold is None or not len(x):
            return
        if fold.shape != (len(x),) or fold.is_floating_point() or int(fold.max()) >= self.folds:
            raise ArgumentError(
                f"gram: got fold {fold.dtype} {tuple(fold.shape)} up to {fold.max()}, expected integers of "
                f"shape ({len(x)},) below {self.folds}"
            )

    def __repr__(self) -> str:
        rows = f"{sum(self.counts):,} rows in {self.folds} folds"
        return (
            f"FoldedGram({rows}, width {self.width}, {self.targets} targets{', dual' if self.dual else ''})"
        )


def _numpy(values: torch.Tensor) -> np.ndarray:
    values = values.detach().cpu()
    # numpy has no bfloat16; other types stay, and become float64 as the mean is taken off.
    return (values.float() if values.dtype == torch.bfloat16 else values).numpy()


def _refuse(x: np.ndarray, y: np.ndarray, fold: np.ndarray) -> NoReturn:
    bad = (fold >= 0) & ~(np.isfinite(x).all(1) & np.isfinite(y).all(1))
    raise NonFiniteError(
        f"gram: got NaN or inf in row {int(bad.argmax())} of a block of {len(x)}, expected finite rows and "
        "targets; leave such rows out (fold -1)"
    )


def _torch(*arrays: np.ndarray) -> tuple[Any, ...]:
    return tuple(torch.from_numpy(np.ascontiguousarray(a)) for a in arrays)
