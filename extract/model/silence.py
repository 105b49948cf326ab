"""Silence of libraries that tell of everything they try, which nobody asked."""

from __future__ import annotations

import logging
import threading
import warnings as python_warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

# Levels belong to the process: of blocks that run at the same time the first one in saves a
# logger's level, and the last one out puts it back.
_lock = threading.Lock()
# Python's filters are the process's too, before 3.14: one thread at a time changes them.
_filters = threading.RLock()
_saved: dict[str, tuple[int, int]] = {}  # name -> level before, blocks that run


@contextmanager
def silenced(*names: str, warnings: bool = True) -> Iterator[None]:
    """Let these loggers say nothing but errors, and nobody warn, for a while.

    What speaks through the logger named root gives it a handler, by which every library would be
    heard from then on; it is taken away.
    """
    handlers = list(logging.root.handlers)
    for name in names:
        _enter(name)
    try:
        with _no_warnings() if warnings else nullcontext():
            yield
    finally:
        for name in names:
            _leave(name)
        if "root" in names:
            for handler in [one for one in logging.root.handlers if one not in handlers]:
                logging.root.removeHandler(handler)


@contextmanager
def _no_warnings() -> Iterator[None]:
    with _filters, python_warnings.catch_warnings():
        python_warnings.simplefilter("ignore")
        yield


def _enter(name: str) -> None:
    with _lock:
        logger = logging.getLogger(name)
        level, depth = _saved.get(name, (logger.level, 0))
        _saved[name] = level, depth + 1
        logger.setLevel(logging.ERROR)


def _leave(name: str) -> None:
    with _lock:
        level, depth = _saved.pop(name)
        if depth > 1:
            _saved[name] = level, depth - 1
        else:
            logging.getLogger(name).setLevel(level)
