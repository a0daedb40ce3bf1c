"""Products of rows and targets that stream by, fold by fold: all that a linear probe in closed form needs."""

from __future__ import annotations

from collections import deque
from typing import Any, Literal, get_args

import numpy as np
import torch

from mmxai.errors import ArgumentError, NonFiniteError
from mmxai.linalg._rounding import rounding_error
from mmxai.linalg._threads import one_blas_thread, spread
from mmxai.linalg.states import DualState, GramState, State

Product = Literal["float64", "float32", "auto"]

SAFE = 3e-5
"""What float32 products may change coefficients by, of their length, for "auto" to take them."""

_CONSTANT = 1e-13  # a target's scatter below this share of its squares is what rounding left of none
_PIECE = 2048  # rows at a time: in float64, what stays in a cache


class FoldedGram:
    """X'X, X'Y, sums and counts of rows x `[N, D]` and targets y `[N, T]`, kept by fold.

    Every task's targets, and those of its controls, stand side by side in y: one pass serves them all.

    width, targets: D and T. folds: how many; `train(f)` is all of them less fold f. rows: how many rows will
    come at most, where that is known. Fewer than D are kept as they are (`dual`), and the matrix to factorise
    is rows x rows; otherwise memory is `folds` matrices D x D in float64, whatever the number of rows.
    product: in what the product of a block is taken. Sums are float64 always. "float32" is twice as fast and
    errs by about 1e-7 of each column's length: coefficients are off by 1e-7 of their length where directions
    have variances alike, and by up to 1e-7 D / s where few hold nearly all, s the penalty's share of the
    mean diagonal of X'X. "auto" begins in float64 and, from 2 D rows on, goes on in float32 if by those rows
    that will change no coefficients by more than `SAFE` (see `rounding_error`) at the least penalty that is
    going to be asked for, `share` of the mean diagonal of X'X; rows of float64 stay in float64. `product` and
    `rounding` tell what it took, and what it estimated. threads: how many add to folds (None: as many as
    kernels use); sums are the same on any number, to the last bit.

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
        share: float = 0.0,
        threads: int | None = None,
    ):
        for name, value, least in (("width", width, 1), ("targets", targets, 0), ("folds", folds, 1)):
            if value < least:
                raise ArgumentError(f"gram: got {name}={value}, expected at least {least}")
        if product not in get_args(Product):
            raise ArgumentError(f"gram: got product={product!r}, expected one of {get_args(Product)}")
        if not 0 <= share < float("inf"):
            raise ArgumentError(f"gram: got share={share}, expected a number of at least 0")
        self.width, self.targets, self.folds = width, targets, folds
        self.dual = rows is not None and rows < width
        self.counts = [0] * folds
        self.rounding: float | None = None
        """Of "auto", once judged: what float32 products change coefficients by, estimated, relative."""
        self._rows_most, self._share, self._threads = rows, share, threads
        self._shift_type = np.dtype("float64" if self.dual or product == "float64" else "float32")
        self._undecided = product == "auto" and not self.dual
        self._product = np.dtype("float32" if product == "float32" and not self.dual else "float64")
        self._shift_x = np.zeros(width)
        self._shift_y = np.zeros(targets)
        self._sum_x, self._sum_y = np.zeros((folds, width)), np.zeros((folds, targets))
        self._yy = np.zeros((folds, targets))
        self._kept: list[list[tuple[np.ndarray, np.ndarray]]] = [[] for _ in range(folds)]
        if not self.dual:
            self._xx = [np.zeros((width, width)) for _ in range(folds)]
            self._xy = np.zeros((folds, width, targets))

    @staticmethod
    def bytes_needed(width: int, targets: int, folds: int, threads: int = 1) -> int:
        """Memory of one that is not dual: sums, and on each thread rows under way and their product, or a
        state and copies to factorise."""
        sums = folds * (width * (width + targets + 1) + 2 * targets)
        return 8 * sums + threads * (24 * width * (width + targets) + 12 * _PIECE * width)

    @one_blas_thread()
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
        kept = given >= 0
        if not kept.any():
            return
        _refuse_bad(xs, ys, kept)
        taken = sum(self.counts) + int(kept.sum())
        if self.dual and taken > (self._rows_most or 0):
            raise ArgumentError(
                f"gram: got {taken} rows, expected at most rows={self._rows_most} as announced"
            )
        if not any(self.counts):
            if self._undecided and xs.dtype == np.float64:
                self._undecided, self._shift_type = False, xs.dtype
            # What is taken off in float32 has to be what `_state` adds again.
            self._shift_x = xs[kept].mean(0, dtype=np.float64).astype(self._shift_type).astype(np.float64)
            self._shift_y = ys[kept].mean(0, dtype=np.float64)
        parts = {}
        for f in np.unique(given[kept]).tolist():
            chosen = np.flatnonzero(given == f)
            starts = range(0, len(chosen), _PIECE)
            whole = len(chosen) == len(xs)
            parts[f] = deque(slice(s, s + _PIECE) if whole else chosen[s : s + _PIECE] for s in starts)

        def add(f: int) -> None:
            while parts[f]:
                if self._undecided and sum(self.counts) >= 2 * self.width:
                    self._decide()
                part = parts[f].popleft()
                if isinstance(part, slice):
                    self._add(f, xs[part], ys[part])
                else:  # take is several times as fast as an index
                    self._add(f, xs.take(part, 0), ys.take(part, 0))

        # A fold's rows one after another, whatever the number of threads: the same sums to the last bit.
        # Before it is decided in what to multiply they are all in one order.
        for f in parts:
            if self._undecided:
                add(f)
        spread(add, parts, self._threads)

    def _add(self, f: int, xs: np.ndarray, ys: np.ndarray) -> None:
        """Rows of fold f."""
        x = np.subtract(xs, self._shift_x.astype(self._product), dtype=self._product)
        y = np.subtract(ys, self._shift_y, dtype=np.float64)
        self.counts[f] += len(x)
        self._sum_y[f] += y.sum(0)
        self._yy[f] += np.square(y).sum(0)
        if self.dual:
            self._sum_x[f] += x.sum(0)
            self._kept[f].append((x, y))
            return
        # A column of ones makes the sum of the rows.
        product = x.T @ np.pad(y, ((0, 0), (0, 1)), constant_values=1).astype(self._product, copy=False)
        self._xy[f] += product[:, :-1]
        self._sum_x[f] += product[:, -1]
        self._xx[f] += x.T @ x  # by numpy half the work of any other product, and symmetric

    def _decide(self) -> None:
        self._undecided = False
        self.rounding = rounding_error(self.total(), self._share)
        if self.rounding <= SAFE:
            self._product = np.dtype("float32")

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
        if n == 0:
            raise ArgumentError(
                f"gram: got no rows in folds {folds}, expected some; update first, or use fewer folds"
            )
        sum_x, sum_y = self._sum_x[folds].sum(0), self._sum_y[folds].sum(0)
        mean_x, mean_y = self._shift_x + sum_x / n, self._shift_y + sum_y / n
        squares = self._yy[folds].sum(0)
        yy = squares - np.square(sum_y) / n
        same = yy <= _CONSTANT * squares
        yy[same] = 0
        if self.dual:
            kept = [pair for f in folds for pair in self._kept[f]]
            x = np.concatenate([p[0] for p in kept]) - sum_x / n
            y = np.concatenate([p[1] for p in kept]) - sum_y / n
            return DualState(n, *_torch(mean_x, mean_y, yy, x, y))
        xy = self._xy[folds].sum(0) - np.outer(sum_x / n, sum_y)
        xy[:, same] = 0
        # The sum of the others rather than all less one: as fast where folds are few, and no digits go.
        xx = self._xx[folds[0]].copy()
        for f in folds[1:]:
            xx += self._xx[f]
        root = sum_x / n**0.5
        xx -= np.outer(root, root)
        return GramState(n, *_torch(mean_x, mean_y, yy, xx, xy))

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

    @property
    def product(self) -> str:
        """The type in which products of the rows to come are taken."""
        return str(self._product)

    def __repr__(self) -> str:
        rows = f"{sum(self.counts):,} rows in {self.folds} folds"
        return (
            f"FoldedGram({rows}, width {self.width}, {self.targets} targets{', dual' if self.dual else ''})"
        )


def _numpy(values: torch.Tensor) -> np.ndarray:
    values = values.detach().cpu()
    # numpy has no bfloat16, and no fast products of float16.
    return (values.float() if values.dtype in (torch.bfloat16, torch.float16) else values).numpy()


def _refuse_bad(x: np.ndarray, y: np.ndarray, kept: np.ndarray) -> None:
    with np.errstate(all="ignore"):
        sums = x @ np.ones(x.shape[1], x.dtype)
    if np.isfinite(sums).all() and np.isfinite(y).all():
        return
    # A sum may be too large for its type where no number is.
    bad = kept & ~(np.isfinite(x).all(1) & np.isfinite(y).all(1))
    if bad.any():
        raise NonFiniteError(
            f"gram: got NaN or inf in row {int(bad.argmax())} of a block of {len(x)}, expected finite rows "
            "and targets; leave such rows out (fold -1)"
        )


def _torch(*arrays: np.ndarray) -> tuple[Any, ...]:
    return tuple(torch.from_numpy(np.ascontiguousarray(a)) for a in arrays)
