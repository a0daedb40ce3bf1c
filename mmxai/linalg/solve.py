"""Ridge regression from moments, for every penalty and target of a state at once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from scipy.linalg import lapack

from mmxai.errors import ArgumentError
from mmxai.linalg.states import DualState, State

LEFT_LEAST = 1e-14
"""A column of which less than this share is left by those before it has been left rounding errors. A
share, so that columns of very different size, a dead one among them, are no matter."""

SINGLE_LEFT_LEAST = 1e-3
"""As `LEFT_LEAST`, of a factor in float32."""
SINGLE_MOST = 1e20
"""Above it entries or solutions could leave float32's range."""


def ridge_path(
    state: State, penalties: Sequence[float], *, accuracy: float = 1e-11
) -> tuple[torch.Tensor, torch.Tensor]:
    """Coefficients float64 `[P, D, T]` and intercepts `[P, T]` of ridge regression.

    They minimise |y - x w - b|^2 + penalty |w|^2: alpha of scikit-learn's Ridge, intercept unpenalised.

    One Cholesky factorisation a penalty serves all T targets. At width 768 it takes 4 ms where the
    eigendecomposition that would serve all penalties takes 110 (one core, float64), so that this is faster
    below some 25 penalties. Well-conditioned matrices are factorised in float32, and the solution is refined
    in float64 until it is off by at most `accuracy` of its length. A `DualState` is solved in its rows:
    w = x' (x x' + penalty)^-1 y.

    ArgumentError where a penalty is negative, or too small for a matrix that is (nearly) singular.
    """
    checked = check_penalties(penalties)
    width, targets = len(state.mean_x), len(state.mean_y)
    coef = torch.empty(len(checked), width, targets, dtype=torch.float64)
    if isinstance(state, DualState):
        matrix, right = (state.x @ state.x.T).numpy(), state.y.numpy()
    else:
        matrix, right = state.xx.numpy(), state.xy.numpy()
    single = matrix.astype(np.float32) if max(np.abs(matrix).max(), *checked) < SINGLE_MOST else None
    # The largest penalty first: where float32 does not do for one it will not for those below.
    for i in sorted(range(len(checked)), key=lambda i: -checked[i]):
        solved = None
        if single is not None and (solved := _refined(matrix, single, right, checked[i], accuracy)) is None:
            single = None
        if solved is None:
            solved = _solve(matrix, right, checked[i])
        made = torch.from_numpy(solved)
        coef[i] = state.x.T @ made if isinstance(state, DualState) else made
    return coef, state.mean_y - state.mean_x @ coef


def check_penalties(penalties: Sequence[float]) -> tuple[float, ...]:
    """Penalties as floats. ArgumentError where there are none, or one is negative, infinite or NaN."""
    out = tuple(float(p) for p in penalties)
    if not out or not all(0 <= p < float("inf") for p in out):
        raise ArgumentError(f"penalties: got {out}, expected numbers of at least 0, one or more")
    return out


def _solve(matrix: np.ndarray, right: np.ndarray, penalty: float) -> np.ndarray:
    """(matrix + penalty)^-1 right, `[n, T]`, by Cholesky in float64; matrix symmetric `[n, n]`."""
    # The matrix is symmetric, so its transpose is it in Fortran's order, and the copy is plain memory.
    shifted = matrix.copy().T
    shifted[np.diag_indices_from(shifted)] += penalty
    before = shifted.diagonal().copy()
    factor, info = lapack.dpotrf(shifted, lower=1, clean=0, overwrite_a=1)
    if info != 0 or (np.square(factor.diagonal()) < LEFT_LEAST * before).any():
        raise ArgumentError(
            f"ridge: got penalty {penalty:g}, expected one that makes x'x + penalty positive definite (its "
            f"mean diagonal is {matrix.trace() / len(matrix):.3g}); columns are constant, depend on each "
            "other or are more than the rows: take a larger penalty"
        )
    return lapack.dpotrs(factor, right, lower=1)[0]


def _refined(
    matrix: np.ndarray, single: np.ndarray, right: np.ndarray, penalty: float, accuracy: float
) -> np.ndarray | None:
    """The same by Cholesky in float32, corrected in float64 (as LAPACK's dsposv; Langou et al. 2006).

    single: the matrix in float32. None where a column has little left by those before it, which float32 could
    take for rounding errors or the other way round, and where two corrections would not do.
    """
    shifted = single.copy().T
    shifted[np.diag_indices_from(shifted)] += np.float32(penalty)
    scale = np.sqrt(matrix.diagonal() + penalty)[:, None]
    factor, info = lapack.spotrf(shifted, lower=1, clean=0, overwrite_a=1)
    if info != 0 or (np.square(factor.diagonal()) < SINGLE_LEFT_LEAST * np.square(scale[:, 0])).any():
        return None
    # Targets may be of any size: each goes through float32 with its largest entry at 1.
    size = np.abs(right).max(0)
    unit = right / np.where(size > 0, size, 1.0)
    solved = lapack.spotrs(factor, unit, lower=1)[0].astype(np.float64)
    before = 1.0
    for _ in range(2):
        left = unit - matrix @ solved - penalty * solved
        step = lapack.spotrs(factor, left, lower=1)[0].astype(np.float64)
        solved += step
        length = np.linalg.norm(scale * solved, axis=0)
        share = float((np.linalg.norm(scale * step, axis=0) / np.where(length > 0, length, 1.0)).max())
        # Each step is shorter than the one before by the same factor.
        if share * share / before < accuracy:
            return solved * size
        if not share**3 < accuracy:
            return None
        before = share
    return None
