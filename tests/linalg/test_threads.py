"""Threads of our own, and BLAS on one meanwhile."""

import threading
import time

import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_info, threadpool_limits

from mmxai.linalg import FoldedGram, ridge_path
from mmxai.linalg._threads import one_blas_thread, spread


def blas():
    return {p["num_threads"] for p in threadpool_info() if p["user_api"] == "blas"}


@pytest.fixture(autouse=True)
def two():
    with threadpool_limits(2, user_api="blas"):
        yield


@pytest.mark.parametrize("threads", [1, 3])
def test_results_stand_in_order(threads):
    def work(i):
        time.sleep(0.01 * (i % 3))
        return i * i, threading.get_ident(), blas()

    found = spread(work, range(7), threads)
    assert [f[0] for f in found] == [i * i for i in range(7)]
    assert len({f[1] for f in found}) == threads
    assert all(f[2] == {1} for f in found) and blas() == {2}
    assert spread(work, [], threads) == []


def test_inside_a_thread_it_runs_there():
    def outer(_):
        return threading.get_ident(), spread(lambda _: threading.get_ident(), range(4), 2)

    for own, inner in spread(outer, range(2), 2):
        assert set(inner) == {own}


@pytest.mark.parametrize("threads", [1, 2])
def test_an_error_ends_it(threads):
    done = []

    def work(i):
        if i == 3:
            raise ValueError("three")
        time.sleep(0.005)
        done.append(i)

    with pytest.raises(ValueError, match="three"):
        spread(work, range(500), threads)
    assert len(done) < 50 and blas() == {2}


def test_the_last_out_puts_the_threads_of_blas_back():
    first, second = one_blas_thread(), one_blas_thread()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert blas() == {1}
    second.__exit__(None, None, None)
    assert blas() == {2}


@pytest.mark.parametrize("product", ["float64", "float32", "auto"])
@pytest.mark.parametrize("rows", [None, 40])
def test_moments_are_the_same_on_any_number_of_threads(product, rows):
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(rows or 5000, 70, generator=draw)
    y, fold = torch.randn(len(x), 3, generator=draw), torch.randint(-1, 5, (len(x),), generator=draw)

    def made(threads):
        gram = FoldedGram(70, 3, 5, rows=rows, product=product, share=1e-2, threads=threads)
        for part in torch.arange(len(x)).split(900):
            gram.update(x[part], y[part], fold[part])
        return gram.total().xx, gram.train(3).xy, *ridge_path(gram.train(1), [1.0, 10.0])

    one = made(1)
    for threads in (2, 5):
        for a, b in zip(one, made(threads), strict=True):
            assert np.array_equal(a, b)
