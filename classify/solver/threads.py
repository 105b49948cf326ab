"""Row blocks over threads, with one BLAS thread in each.

A tall, thin matrix product is bound by memory, and a BLAS library splits it badly among its own
threads: cutting the rows by hand and giving each thread a one-threaded BLAS is faster, and it makes
the answer reproducible, because the cuts depend on the data alone and the partial sums are added
in the order of the rows, whatever the number of threads and whichever finishes first.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from threadpoolctl import ThreadpoolController

from classify.solver.tuning import PIECE_NUMBERS

Array = npt.NDArray[np.float64]
Floats = npt.NDArray[np.floating[Any]]

Item = TypeVar("Item")
Result = TypeVar("Result")


@lru_cache(maxsize=1)
def _controller() -> ThreadpoolController:
    # Finding the loaded libraries takes milliseconds; they are loaded before the first fit.
    return ThreadpoolController()


def thread_count(n_jobs: int | None) -> int:
    """Say how many threads a fit uses: None means as many as BLAS may, by whatever limits it."""
    import joblib

    if n_jobs is not None:
        return int(max(1, joblib.effective_n_jobs(n_jobs)))
    limits = [lib["num_threads"] for lib in _controller().info() if lib["user_api"] == "blas"]
    return max(1, min(joblib.cpu_count(), max(limits, default=joblib.cpu_count())))


class _SingleThreadedBlas:
    """Limit BLAS to one thread while a fit runs.

    The limit belongs to the process, and `threadpoolctl` (3.8) lets only the thread that has set it
    lift it. Fits that run at the same time (joblib's threading backend) must neither restore it
    under one another in the wrong order nor leave it behind: the first one in holds it for all, and
    lifts it itself. One that stays longer goes on with whatever BLAS does then, which is slower but
    not wrong.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._holder: int | None = None
        self._depth = 0
        self._limiter: Any = None

    def __enter__(self) -> None:
        with self._lock:
            me = threading.get_ident()
            if self._holder is None:
                self._holder = me
                self._limiter = _controller().limit(limits=1, user_api="blas").__enter__()
            if self._holder == me:
                self._depth += 1

    def __exit__(self, *exc: object) -> None:
        with self._lock:
            if self._holder != threading.get_ident():
                return
            self._depth -= 1
            if self._depth == 0:
                self._limiter.__exit__(None, None, None)
                self._holder = self._limiter = None


_single_threaded_blas = _SingleThreadedBlas()


def _no_flags() -> None:
    """Leave floating-point flags alone in a thread of ours; see `fit.Fitter.solve`."""
    np.seterr(over="ignore", invalid="ignore", divide="ignore")


class Workers:
    """Threads that map a function over items, results in the order of the items."""

    def __init__(self, n_threads: int = 1) -> None:
        self.n_threads = n_threads
        self._pool = ThreadPoolExecutor(n_threads, initializer=_no_flags) if n_threads > 1 else None

    def map(self, function: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
        """Apply `function` to every item."""
        if self._pool is None:
            return [function(item) for item in items]
        return list(self._pool.map(function, items))

    def share(self, function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
        """Apply `function` to items that take about as long as each other, and not long.

        Every thread gets its share at once: handing over an item takes longer than some of them.
        """
        if self._pool is None or len(items) < 2:
            return [function(item) for item in items]
        parts = [items[i :: self.n_threads] for i in range(min(self.n_threads, len(items)))]
        done = list(self._pool.map(lambda part: [function(item) for item in part], parts))
        return [done[i % len(parts)][i // len(parts)] for i in range(len(items))]

    def stream(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """Apply `function` to every item, a few ahead of the caller."""
        if self._pool is None:
            yield from map(function, items)
            return
        waiting: deque[Future[Result]] = deque()
        try:
            for item in items:
                if len(waiting) >= 2 * self.n_threads:
                    yield waiting.popleft().result()
                waiting.append(self._pool.submit(function, item))
            while waiting:
                yield waiting.popleft().result()
        finally:
            for task in waiting:
                task.cancel()

    def close(self) -> None:
        """Drop what has not been started, and end the threads."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)


@contextmanager
def workers(n_jobs: int | None) -> Iterator[Workers]:
    """Open the threads of one fit, with BLAS limited to one thread in each."""
    pool = Workers(thread_count(n_jobs))
    try:
        with _single_threaded_blas:
            yield pool
    finally:
        pool.close()


def each_piece(workers: Workers, table: Floats, work: Callable[[slice], None]) -> None:
    """Do something for all rows of a table, some at a time.

    Shapes: `table` (n_rows, n_columns).
    """
    step = max(1, PIECE_NUMBERS // max(1, table.shape[1]))
    workers.share(work, [slice(low, low + step) for low in range(0, len(table), step)])


def row_dots(workers: Workers, a: Floats, b: Floats) -> Array:
    """Multiply two tables row by row.

    Shapes: `a, b` (n_rows, n_columns), returns (n_rows,).
    """
    result = np.empty(len(a))

    def multiply(part: slice) -> None:
        result[part] = np.einsum("ij,ij->i", a[part], b[part])

    each_piece(workers, a, multiply)
    return result


def some_rows(workers: Workers, table: Floats, rows: npt.NDArray[np.intp]) -> Any:
    """Copy some rows of a table; most of the time goes into fresh pages, which threads share.

    Shapes: `table` (n_rows, n_columns), `rows` (k,), returns (k, n_columns).
    """
    result = np.empty((len(rows), table.shape[1]), table.dtype)

    def copy(part: slice) -> None:
        # Without a mode that needs no check, numpy fills a buffer first, and copies that.
        np.take(table, rows[part], axis=0, out=result[part], mode="clip")

    each_piece(workers, result, copy)
    return result
