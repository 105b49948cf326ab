"""How a fit out of core divides the memory that it was given.

What a fit takes, for ``n`` rows of ``d`` features of ``f`` bytes, ``K`` columns in all problems
together, of which a row meets ``m`` (one-vs-one: ``n_classes - 1``; of a code book, as many as
its class is in; otherwise all):

========================================  =====================================================
for the rows (labels, order, weights)     ``64 n``
one score a row and column, when a fit    ``f n m``
is certified
history and vectors of L-BFGS             ``36 * 8 K (d + 1)``
weights folded and laid out for products  ``(8 + 3 f) K d``
the preconditioner                        see `_sampled` and `_shared`
for each thread                           a chunk; three blocks of rows with their scores; the
                                          sums of three chunks; float64 scores of a block in the
                                          certificate; the preconditioner's own
========================================  =====================================================

The features themselves are not in it. The size of a chunk follows from the data and the memory,
not from the number of threads, so that the answer does not depend on that number either; a fit
for which there is not enough memory runs on fewer threads.
"""

from __future__ import annotations

from dataclasses import dataclass

from classify.solver.arrays import block_rows
from classify.solver.design import product_rows
from classify.solver.strategies import Strategy, strategy_of
from classify.solver.tuning import (
    BLOCK_BYTES,
    BUCKETS,
    CHUNK_BYTES,
    CHUNK_THREADS,
    DENSE_NUMBERS,
    GOOD_CHUNK,
    LARGEST_CHUNK,
    LEADING,
    OBJECT_BYTES,
    OWN_ROWS,
    PARTS,
    RUN_BYTES,
    SAMPLE_ROWS,
    SHARED_ROWS,
    SHARED_SAMPLES,
    SMALLEST_CHUNK,
)


class TooLittleMemoryError(ValueError):
    """A fit needs more memory than it was given."""

    def __init__(self, what: str, needed: int, given: int) -> None:
        super().__init__(
            f"memory is {show_bytes(given)}, but {what} needs at least {show_bytes(needed)}, even "
            "when its features stay on the disk"
        )
        self.what, self.needed, self.given = what, needed, given


@dataclass(frozen=True)
class MemoryPlan:
    """What `plan_memory` decides."""

    # Rows in a chunk.
    chunk_rows: int
    # Threads that there is memory for, of those that were asked for.
    threads: int = 1
    # Whether each column may have an inverse Hessian of its own.
    sampled: bool = True
    # Rows in the sample of the preconditioner that all columns share.
    shared_rows: int = SHARED_SAMPLES[0]


@dataclass(frozen=True)
class _Shape:
    """The sizes of a fit, under the names of the table above."""

    n: int
    d: int
    f: int
    K: int
    m: int
    by_class: bool  # whether rows are sorted by class: see `Strategy.by_class`

    def fixed(self) -> int:
        """Bytes whatever the preconditioner."""
        return (
            64 * self.n
            + self.f * self.n * self.m
            + 36 * 8 * self.K * (self.d + 1)
            + (8 + 3 * self.f) * self.K * self.d
        )

    def thread(self) -> int:
        """Bytes of a thread, apart from its chunk and the preconditioner's part."""
        a_chunk = 8 * self.d * (2 * self.K if self.m < self.K else self.K)
        rows = product_rows(self.d, self.f)
        blocks = 3 * BLOCK_BYTES + 4 * self.f * rows * self.m
        return 3 * a_chunk + blocks + 12 * 8 * self.m * block_rows(self.m)


def _shared(shape: _Shape, rows: int) -> tuple[int, int]:
    """Count the bytes of one inverse for all columns: `classify.solver.preconditioner.shared`.

    Kept: scatters of parts of the sample and inverses for several sizes of curvature, the sample
    in the leading directions, every column's own part there, the curvature of all rows with its
    temporaries. A thread: a piece of the sample, and what an inversion takes.
    """
    rows = min(rows, SHARED_ROWS * shape.d, shape.n)
    # What `light` inverses have room for comes from a start in few directions, in memory alone.
    leading = int(min(LEADING, (DENSE_NUMBERS / shape.K) ** 0.5)) if shape.by_class else 0
    kept = (
        (PARTS + min(shape.K, BUCKETS)) * shape.d**2 + 3 * rows * leading + 2 * shape.K * leading**2
    )
    kept += shape.n * shape.m
    return (kept + 8 * shape.K * shape.d) * shape.f + 8 * 8 * shape.K * shape.d, (
        PARTS * SAMPLE_ROWS * shape.d + 5 * shape.d**2
    ) * shape.f


def _sampled(shape: _Shape) -> tuple[int, int]:
    """Count the bytes of one inverse a column (`classify.solver.preconditioner.sampled`).

    Kept: the inverses, twice while they are renewed, beside the shared one. A thread: the chances
    of all rows of its column, and its sample with the products of it.
    """
    rows = min(OWN_ROWS * shape.d, shape.n)
    side = min(rows, shape.d)
    kept, _ = _shared(shape, SHARED_SAMPLES[0])
    return kept + 2 * shape.K * side * max(side, shape.d) * shape.f, (
        80 * shape.n + (3 * rows * shape.d + 4 * side**2) * shape.f
    )


def plan_memory(
    table: tuple[int, int],
    itemsize: int,
    strategy: str | Strategy,
    n_classes: int,
    memory: int,
    *,
    threads: int,
    sampled: bool,
) -> MemoryPlan:
    """Divide the memory of a fit out of core."""
    n, d = table
    strategy = strategy_of(strategy)
    columns, by_class = strategy.n_heads(n_classes), strategy.by_class(n_classes)
    shape = _Shape(n, d, itemsize, columns, strategy.scores_a_row(n_classes), by_class)
    row = max(1, d * shape.f)
    smallest = min(max(SMALLEST_CHUNK, 64 * row), max(1, n) * row)
    good = min(max(GOOD_CHUNK, smallest), max(1, n) * row)
    most = RUN_BYTES * n_classes if by_class else CHUNK_BYTES
    most = max(smallest, min(max(CHUNK_BYTES, most), LARGEST_CHUNK))
    choices = [(True, SHARED_SAMPLES[0], _sampled(shape))] if sampled else []
    choices += [(False, rows, _shared(shape, rows)) for rows in SHARED_SAMPLES]
    for room in (good, smallest):
        for each, rows, (kept, a_thread_more) in choices:
            rest = memory - shape.fixed() - kept
            a_thread = shape.thread() + a_thread_more
            if rest < a_thread + room:
                continue
            chunk = min(max(rest // CHUNK_THREADS - a_thread, room), most)
            chunk_rows = max(1, chunk // row)
            if chunk_rows > 64:
                chunk_rows = chunk_rows // 64 * 64
            fit = max(1, min(threads, rest // (a_thread + chunk)))
            return MemoryPlan(min(chunk_rows, max(1, n)), fit, each, rows)
    least = min(kept + a_thread_more for _, _, (kept, a_thread_more) in choices)
    raise TooLittleMemoryError(
        f"{strategy.name} on {n:,} rows x {d:,} features with {n_classes:,} classes "
        f"({columns:,} heads)",
        shape.fixed() + shape.thread() + least + smallest,
        memory,
    )


def column_bytes(n_features: int, itemsize: int, strategy: str | Strategy, n_classes: int) -> int:
    """Count what a fit takes for its columns, wherever the features are."""
    columns = strategy_of(strategy).n_heads(n_classes)
    return _Shape(0, n_features, itemsize, columns, 0, False).fixed() + OBJECT_BYTES * columns


def show_bytes(count: float) -> str:
    """Write a number of bytes for a person."""
    for unit, size in (("TB", 10**12), ("GB", 10**9), ("MB", 10**6)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{max(0, int(count)):,} bytes"
