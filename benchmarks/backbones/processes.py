"""A process for each architecture, forked from one that has loaded torch: its memory comes back."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any

LOADED = ["timm", "extract.engines.embed", "data.images.decode", "PIL.JpegImagePlugin"]


class DiedError(Exception):
    """The process ended without an answer."""


class Children:
    """Calls functions in processes of their own, one at a time."""

    def __init__(self) -> None:
        # Threads of OpenMP that wait in a loop take the processors from everybody else.
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        self._context = get_context("forkserver")
        self._context.set_forkserver_preload(LOADED)

    def call(self, function: Callable[..., Any], *args: Any, memory: int | None = None) -> Any:
        """Give what a function returns in a process that may take so many bytes of memory."""
        ours, theirs = self._context.Pipe(duplex=False)
        child = self._context.Process(target=_answer, args=(theirs, function, args, memory))
        child.start()
        theirs.close()
        try:
            with suppress(EOFError):
                return ours.recv()
            child.join()
            raise DiedError(_end_of(child.exitcode))
        finally:
            child.kill()
            child.join()
            ours.close()


def _answer(
    out: Connection, function: Callable[..., Any], args: tuple[Any, ...], memory: int | None
) -> None:
    # Ctrl-C reaches every process of a terminal; the one that asked ends this one.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if memory is not None:
        _limit(memory)
    out.send(function(*args))
    out.close()


def _limit(memory: int) -> None:
    """Let allocations beyond a limit fail, where the system has such a limit."""
    with suppress(ImportError, OSError, ValueError):
        import resource

        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        resource.setrlimit(resource.RLIMIT_DATA, (memory, hard))


def _end_of(code: int | None) -> str:
    if code is not None and code < 0:
        return f"the process was ended by {signal.Signals(-code).name}"
    return f"the process ended with exit code {code}"
