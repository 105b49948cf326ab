"""Writes shards in another thread, while the next one is computed."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType


class Writer:
    """Runs one write after another in another thread; at most one waits while one is under way.

    A write is HDF5, reading back and a sync: mostly waiting. What goes wrong in it is raised by
    the next call.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="shards")
        self._under_way: Future[None] | None = None

    def __enter__(self) -> Writer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # On Ctrl-C, too, the shard that is being written is finished: it counts as kept.
        try:
            self.drain()
        except Exception:
            if error is None:
                raise
        finally:
            self._thread.shutdown()

    def put(self, write: Callable[[], None]) -> None:
        """Hand over a write, once the one before it is done."""
        self.drain()
        self._under_way = self._thread.submit(write)

    def drain(self) -> None:
        """Wait until everything handed over is on the disk."""
        if self._under_way is None:
            return
        under_way, self._under_way = self._under_way, None
        try:
            under_way.result()
        except KeyboardInterrupt:
            self._under_way = under_way  # it goes on, and is waited for at the end
            raise
