"""What products in float32 would cost coefficients, told from the moments of a first few rows."""

from __future__ import annotations

import numpy as np

from mmxai.linalg._lapack import potrf, potrs
from mmxai.linalg.states import State

ROUNDED = 3e-7
"""What an entry of a float32 X'X of n rows is off, root mean square, of the larger of its own size and the
lengths of its two columns over the square root of n: measured 1.5e-7 to 3.3e-7, for spectra flat to steep."""


def rounding_error(state: State, share: float) -> float:
    """About what float32 products change coefficients by, of their length, in the worst of the targets.

    share: the penalty, as a share of the mean diagonal of xx. To first order the change solves
    (xx + penalty) change = -d w - e, where d and e are the roundings of xx and xy. Of those only the size is
    known: some are drawn. inf where the matrix is not positive definite.
    """
    xx, xy, n = state.xx.numpy(), state.xy.numpy(), state.count
    squares = xx.diagonal()
    factor = xx.copy()
    factor[np.diag_indices_from(factor)] += share * float(squares.mean())
    if not potrf(factor):
        return float("inf")
    coef = xy.T.copy()
    potrs(factor, coef)
    coef = coef.T
    apart = np.square(xx) @ np.square(coef) + np.square(xy)
    apart += np.outer(squares, squares @ np.square(coef) + state.yy.numpy()) / n
    change = (ROUNDED * np.random.default_rng(0).standard_normal(coef.shape) * np.sqrt(apart)).T.copy()
    potrs(factor, change)
    length = np.linalg.norm(coef, axis=0)
    return float((np.linalg.norm(change, axis=1)[length > 0] / length[length > 0]).max(initial=0.0))
