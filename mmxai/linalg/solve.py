"""Ridge regression from moments, for every penalty and target of a state at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from mmxai.errors import ArgumentError, NonFiniteError
from mmxai.linalg._lapack import potrf, potrs
from mmxai.linalg._threads import one_blas_thread
from mmxai.linalg.states import DualState, State

LEFT_LEAST = 1e-14
"""A column of which less than this share is left by those before it has been left rounding errors. A
share, so that columns of very different size, a dead one among them, are no matter."""

SINGLE_LEFT_LEAST = 1e-3
"""As `LEFT_LEAST`, of a factor in float32."""
SINGLE_MOST = 1e20
"""Above it entries or solutions could leave float32's range."""


@one_blas_thread()
def ridge_path(
    state: State, penalties: Sequence[float], *, accuracy: float = 1e-11
) -> tuple[torch.Tensor, torch.Tensor]:
    """Coefficients float64 `[P, D, T]` and intercepts `[P, T]` of ridge regression.

    They minimise |y - x w - b|^2 + penalty |w|^2: alpha of scikit-learn's Ridge, intercept unpenalised.

    One Cholesky factorisation a penalty serves all T targets. At width 768 it takes 4 ms where the
    eigendecomposition that would serve all penalties takes 110 (one core, float64), so that this is faster
    below some 25 penalties. Well-conditioned matrices are factorised in float32, and the solution is refined
    in float64 until it is off by at most `accuracy` of its length; where it is so without, the solutions of
    larger penalties, which are better conditioned, are taken as they are. A `DualState` is solved in its
    rows: w = x' (x x' + penalty)^-1 y.

    ArgumentError where a penalty is negative, or too small for a matrix that is (nearly) singular;
    NonFiniteError where products of very large rows have left the range of their type.
    """
    checked = check_penalties(penalties)
    mean_x, mean_y = state.mean_x.numpy(), state.mean_y.numpy()
    coef = np.empty((len(checked), len(mean_x), len(mean_y)))
    if isinstance(state, DualState):
        x = state.x.numpy()
        matrix, right = x @ x.T, state.y.numpy()
    else:
        matrix, right = state.xx.numpy(), state.xy.numpy()
    if not (np.isfinite(matrix.trace()) and np.isfinite(right).all()):
        raise NonFiniteError(
            "ridge: got products of rows and targets that are infinite or NaN, expected numbers whose "
            "squares fit their type; scale them down, or take products in float64"
        )
    for i, solved in _solutions(matrix, right, checked, accuracy):
        coef[i] = x.T @ solved.T if isinstance(state, DualState) else solved.T
    return torch.from_numpy(coef), torch.from_numpy(mean_y - mean_x @ coef)


def check_penalties(penalties: Sequence[float]) -> tuple[float, ...]:
    """Penalties as floats. ArgumentError where there are none, or one is negative, infinite or NaN."""
    out = tuple(float(p) for p in penalties)
    if not out or not all(0 <= p < float("inf") for p in out):
        raise ArgumentError(f"penalties: got {out}, expected numbers of at least 0, one or more")
    return out


def _solutions(
    matrix: np.ndarray, right: np.ndarray, penalties: Sequence[float], accuracy: float
) -> Iterator[tuple[int, np.ndarray]]:
    """Each penalty's place, with (matrix + penalty)^-1 right, `[T, n]`; matrix symmetric `[n, n]`, right
    `[n, T]`."""
    smallest, *larger = sorted(range(len(penalties)), key=lambda i: penalties[i])
    most = max(matrix.diagonal().max(), *penalties)
    single = _Single(matrix, right, accuracy) if most < SINGLE_MOST else None
    if single is not None and (solved := single.solve(penalties[smallest])) is not None:
        yield smallest, solved
        for i in larger:
            solved = single.solve(penalties[i], refine=single.off >= accuracy)
            yield i, _solve(matrix, right, penalties[i]) if solved is None else solved
        return
    yield smallest, _solve(matrix, right, penalties[smallest])
    for i in reversed(larger):
        solved = None if single is None else single.solve(penalties[i])
        if solved is None:  # nor will float32 do for those below
            single, solved = None, _solve(matrix, right, penalties[i])
        yield i, solved


def _solve(matrix: np.ndarray, right: np.ndarray, penalty: float) -> np.ndarray:
    """By Cholesky in float64."""
    factor = matrix.copy()
    factor[np.diag_indices_from(factor)] += penalty
    before = factor.diagonal().copy()
    if not potrf(factor) or (np.square(factor.diagonal()) < LEFT_LEAST * before).any():
        raise ArgumentError(
            f"ridge: got penalty {penalty:g}, expected one that makes x'x + penalty positive definite (its "
            f"mean diagonal is {matrix.trace() / len(matrix):.3g}); columns are constant, depend on each "
            "other or are more than the rows: take a larger penalty"
        )
    solved = right.T.copy()
    potrs(factor, solved)
    return solved


class _Single:
    """By Cholesky in float32, corrected in float64 (as LAPACK's dsposv; Langou et al. 2006)."""

    def __init__(self, matrix: np.ndarray, right: np.ndarray, accuracy: float):
        self._matrix, self._single, self._accuracy = matrix, matrix.astype(np.float32), accuracy
        # Targets may be of any size: each goes through float32 with its largest entry at 1.
        self._size = np.abs(right).max(0)[:, None]
        self._unit = np.ascontiguousarray(right.T) / np.where(self._size > 0, self._size, 1.0)
        self.off = np.inf
        """What the last solution that was refined was off by before, of its length."""

    def solve(self, penalty: float, refine: bool = True) -> np.ndarray | None:
        """None where a column has little left by those before it, which float32 could take for rounding
        errors or the other way round, and where two corrections would not do."""
        factor = self._single.copy()
        factor[np.diag_indices_from(factor)] += np.float32(penalty)
        squares = self._matrix.diagonal() + penalty
        if not potrf(factor) or (np.square(factor.diagonal()) < SINGLE_LEFT_LEAST * squares).any():
            return None
        solved = _by(factor, self._unit)
        return self._refined(solved, factor, penalty, np.sqrt(squares)) if refine else solved * self._size

    def _refined(
        self, solved: np.ndarray, factor: np.ndarray, penalty: float, scale: np.ndarray
    ) -> np.ndarray | None:
        before = 1.0
        for turn in range(2):
            step = _by(factor, self._unit - solved @ self._matrix - penalty * solved)
            solved += step
            length = np.linalg.norm(scale * solved, axis=1)
            share = float((np.linalg.norm(scale * step, axis=1) / np.where(length > 0, length, 1.0)).max())
            if turn == 0:
                self.off = share
            # Each step is shorter than the one before by the same factor.
            if share * share / before < self._accuracy:
                return solved * self._size
            if not share**3 < self._accuracy:
                return None
            before = share
        return None


def _by(factor: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Solutions float64 for the rows of `right`, by a factor in float32."""
    solved = right.astype(np.float32)
    potrs(factor, solved)
    return solved.astype(np.float64)
