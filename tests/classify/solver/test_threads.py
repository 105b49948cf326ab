"""Threads and the limit on BLAS that goes with them."""

import threading

import pytest
import threadpoolctl

from classify.solver.threads import Workers, thread_count, workers


def blas_threads():
    found = threadpoolctl.threadpool_info()
    return [lib["num_threads"] for lib in found if lib["user_api"] == "blas"]


def test_results_come_in_the_order_of_the_items():
    pool = Workers(3)
    assert pool.map(lambda i: i * i, range(50)) == [i * i for i in range(50)]
    for n in (0, 1, 2, 3, 7, 50):
        assert pool.share(lambda i: i * i, range(n)) == [i * i for i in range(n)]
    assert Workers().share(str, [1, 2]) == ["1", "2"]
    pool.close()


@pytest.mark.parametrize("first_out", ["holder", "guest"])
def test_blas_is_limited_inside_and_restored_whoever_leaves_first(first_out):
    before = blas_threads()
    inside, leave = threading.Event(), threading.Event()

    def other():
        with workers(1):
            inside.set()
            leave.wait(10)

    thread = threading.Thread(target=other)
    with workers(2):
        assert set(blas_threads()) == {1}
        with workers(1):
            assert set(blas_threads()) == {1}
        assert set(blas_threads()) == {1}  # nested in one thread
        thread.start()
        inside.wait(10)
        if first_out == "guest":
            leave.set()
            thread.join()
            assert set(blas_threads()) == {1}
    assert blas_threads() == before
    leave.set()
    thread.join()
    assert blas_threads() == before


def test_an_exception_restores_blas():
    before = blas_threads()
    with pytest.raises(ZeroDivisionError), workers(2) as pool:
        pool.map(lambda i: 1 / i, [1, 0])
    assert blas_threads() == before


def test_none_means_what_blas_may_use():
    with threadpoolctl.threadpool_limits(1):
        assert thread_count(None) == 1
    assert thread_count(3) == 3
    assert thread_count(1) == 1
    assert thread_count(-1) >= 1
