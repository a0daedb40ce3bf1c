"""LAPACK as we call it against scipy's wrappers."""

import threading

import numpy as np
import pytest
from scipy.linalg import cho_factor, cho_solve

from mmxai.linalg._lapack import potrf, potrs


def positive(n, dtype=np.float64):
    x = np.random.default_rng(n).standard_normal((2 * n + 1, n))
    return (x.T @ x).astype(dtype)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n", [1, 2, 65, 300])
def test_factors_and_solutions_are_scipys(n, dtype):
    matrix = positive(n, dtype)
    right = np.random.default_rng(0).standard_normal((3, n)).astype(dtype)
    factor, solved = matrix.copy(), right.copy()
    assert potrf(factor)
    theirs = cho_factor(matrix, lower=False)
    exact = 1e-3 if dtype is np.float32 else 1e-10
    np.testing.assert_allclose(np.triu(factor), np.triu(theirs[0]), rtol=exact, atol=exact)
    assert np.array_equal(np.tril(factor, -1), np.tril(matrix, -1)), "the other triangle is left alone"
    potrs(factor, solved)
    np.testing.assert_allclose(solved.T, cho_solve(theirs, right.T), rtol=exact, atol=exact)
    assert np.abs(solved @ matrix - right).max() < exact


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_what_is_not_positive_definite_is_said(dtype):
    matrix = positive(40, dtype)
    matrix[20, 20] = -1
    assert not potrf(matrix)
    assert not potrf(np.zeros((2, 2), dtype))


def test_nothing_to_solve():
    factor = positive(4)
    potrf(factor)
    potrs(factor, np.empty((0, 4)))


def test_what_c_would_read_wrongly_is_refused():
    good = positive(6)
    fixed = good.copy()
    fixed.flags.writeable = False
    for bad in (good[:5], good[::2, ::2], np.asfortranarray(good), good.astype(np.int64), fixed, good[0]):
        with pytest.raises(TypeError):
            potrf(bad)
    for bad in (np.ones((2, 5)), np.ones((6, 2)).T, np.ones((2, 6), np.float32), np.ones(6)):
        with pytest.raises(TypeError):
            potrs(good, bad)


def test_other_threads_run_meanwhile():
    """As they do not in scipy's wrappers: a factorisation of a second would stop everybody for as long."""
    matrix, ticks, done = positive(1500), [], threading.Event()

    def tick():
        while not done.wait(0.0005):
            ticks.append(1)

    clock = threading.Thread(target=tick)
    clock.start()
    before = len(ticks)
    assert potrf(matrix)
    found = len(ticks) - before
    done.set()
    clock.join()
    assert found >= 3


@pytest.mark.parametrize("at", [(0, 0), (0, 2), (1, 2), (2, 2)])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_no_number_is_not_positive_definite(at, bad):
    matrix = np.eye(3)
    matrix[at] = matrix[at[::-1]] = bad
    assert not potrf(matrix)
