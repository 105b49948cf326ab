"""The nearest rows by cosine, block by block: no table of all rows by all rows is made.

Every query has its nearest rows so far as integers: the similarity in the upper half, in an order
that integers have too, and the row in the lower. They are all different, so that the nearest are
the same whatever sorts them, and of rows that are equally similar the first is nearer. A block of
rows meets blocks of queries in one product each; what is not above a query's least similarity so
far is left out, which is nearly all after the first blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from classify.heads.interface import Floats, RowSet
from classify.solver.row_norms import normalized
from classify.solver.threads import Workers

Keys = npt.NDArray[np.int64]

# Rows and queries of one product: its result, 4 MB, stays in the cache that cores share.
ROWS, QUERIES, FEWEST_QUERIES = 2048, 512, 32
# No row: greater than the key of every row.
_NONE = np.iinfo(np.int64).max
_LOW_HALF = (1 << 32) - 1


class Neighbours(NamedTuple):
    """The nearest rows of each query, nearest first, both (n_queries, k)."""

    places: npt.NDArray[np.intp]
    similarities: npt.NDArray[np.float32]


def unit_rows(block: Floats) -> npt.NDArray[np.float32]:
    """Divide rows by their norms; rows of zeros stay as they are."""
    if block.dtype == np.float32:
        with np.errstate(over="ignore"):
            squares = np.einsum("ij,ij->i", block, block)
        # Neither so large nor so small that squares lose digits.
        if len(block) and float(squares.min()) > 1e-20 and float(squares.max()) < 1e30:
            return np.asarray(block / np.sqrt(squares)[:, None])
    if block.dtype == np.float16:
        return unit_rows(block.astype(np.float32))
    found: npt.NDArray[np.float32] = normalized(block, "l2").astype(np.float32)
    return found


def nearest_rows(rows: RowSet, queries: Floats, k: int, pool: Workers) -> Neighbours:
    """Find the nearest rows of queries of norm 1; `k` is at most the number of rows.

    Shapes: queries (n_queries, n_features) float32.
    """
    step = min(QUERIES, max(FEWEST_QUERIES, -(-len(queries) // pool.n_threads)))
    searches = [_Search(queries[low : low + step], k) for low in range(0, len(queries), step)]
    blocks = rows.blocks(ROWS)

    def read() -> tuple[int, Floats] | None:
        found = next(blocks, None)
        return None if found is None else (found[0].start, unit_rows(found[1]))

    upcoming = read()
    while upcoming is not None:
        first, block = upcoming
        # The next block is read while this one is compared.
        tasks: list[Callable[[], Any]] = [read, *_compare(searches, first, block)]
        upcoming, *_ = pool.map(lambda task: task(), tasks)
    keys = np.concatenate([np.sort(search.keys, axis=1) for search in searches])
    return places_and_similarities(keys)


def places_and_similarities(keys: Keys) -> Neighbours:
    """Take sorted keys apart."""
    return Neighbours((keys & _LOW_HALF).astype(np.intp), similarities_of(keys))


def _compare(searches: list[_Search], first: int, block: Floats) -> Iterator[Callable[[], None]]:
    for search in searches:
        yield lambda search=search: search.add(first, block)  # type: ignore[misc]


class _Search:
    """Some queries and the nearest rows so far, in no order."""

    def __init__(self, queries: Floats, k: int) -> None:
        self.queries, self.k = queries, k
        self.keys: Keys = np.empty((len(queries), 0), np.int64)
        self.least: npt.NDArray[np.float32] | None = None  # similarities to beat, once there are k

    def add(self, first: int, block: Floats) -> None:
        """Compare with rows that come after all before."""
        found = self.queries @ block.T
        if self.least is None:
            keys = np.hstack([self.keys, keys_of(found, np.arange(first, first + len(block)))])
        else:
            at = np.flatnonzero(found > self.least)
            if not len(at):
                return
            keys = self._with(found.ravel()[at], at, first, len(block))
        if keys.shape[1] > self.k:
            keys.partition(self.k - 1, axis=1)
        self.keys = keys[:, : self.k].copy()
        if self.keys.shape[1] == self.k:
            self.least = similarities_of(self.keys.max(axis=1, keepdims=True))

    def _with(
        self, found: npt.NDArray[np.float32], at: npt.NDArray[np.intp], first: int, width: int
    ) -> Keys:
        """Put the similarities at places of a table of `width` rows beside the nearest so far."""
        query, row = np.divmod(at, width)
        counts = np.bincount(query, minlength=len(self.queries))
        place = np.arange(len(at)) - np.repeat(np.cumsum(counts) - counts, counts)
        keys = np.full((len(self.queries), self.k + int(counts.max())), _NONE)
        keys[:, : self.k] = self.keys
        keys[query, self.k + place] = keys_of(found, row + first)
        return keys


def search_bytes(n_features: int, k: int) -> int:
    """Count what one thread of a search takes: blocks of rows, and keys of a product."""
    return 4 * 4 * ROWS * n_features + QUERIES * (40 * ROWS + 24 * k)


def keys_of(similarities: npt.NDArray[np.float32], places: npt.NDArray[np.intp]) -> Keys:
    """Return integers that are smaller for a larger similarity, and then for an earlier row."""
    bits = (similarities + np.float32(0)).view(np.int32)  # -0 is no less than 0
    ascending = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    return (~ascending).astype(np.int64) << 32 | places


def similarities_of(keys: Keys) -> npt.NDArray[np.float32]:
    """Return the similarities that keys were made of."""
    ascending = ~(keys >> 32).astype(np.int32)
    return (ascending ^ ((ascending >> 31) & 0x7FFFFFFF)).view(np.float32)
