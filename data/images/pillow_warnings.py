"""What Pillow and its libtiff say about an image without naming it: switched off while we decode.

What matters of it is found and said by `data.images.decode` itself: faults of a file, and its
pixels where they are more than the limit. All settings belong to the process, and threads may
decode side by side (``warnings.catch_warnings`` is not safe in threads before Python 3.14): the
first thread makes them, and the last one puts back what was there.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import logging
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any


class _WhileAnyThread:
    """Enter a setting with the first of several threads, and leave it with the last."""

    def __init__(self, enter: Callable[[], Callable[[], object]]) -> None:
        self._enter = enter
        self._leave: Callable[[], object] | None = None
        self._inside = 0
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def __call__(self) -> Iterator[None]:
        with self._lock:
            if not self._inside:
                self._leave = self._enter()
            self._inside += 1
        try:
            yield
        finally:
            with self._lock:
                self._inside -= 1
                if not self._inside and self._leave is not None:
                    self._leave()


def _say_nothing(_: logging.LogRecord) -> bool:
    return False


def _ignore_warnings() -> Callable[[], object]:
    warnings.filterwarnings("ignore", module=r"PIL\b")
    added = warnings.filters[0]
    logger = logging.getLogger("PIL.TiffImagePlugin")  # the only one that says more than "debug"
    logger.addFilter(_say_nothing)

    def leave() -> None:
        logger.removeFilter(_say_nothing)
        # Gone already where somebody has put back the filters of before.
        with contextlib.suppress(ValueError):
            warnings.filters.remove(added)  # type: ignore[attr-defined]

    return leave


@functools.cache
def _libtiff_setters() -> tuple[Any, ...]:
    """Find libtiff's functions that set handlers, in what Pillow's extension is linked with."""
    from PIL import _imaging

    try:
        library = ctypes.CDLL(_imaging.__file__)
        setters = (library.TIFFSetErrorHandler, library.TIFFSetWarningHandler)
    except (OSError, AttributeError):  # linked in with its names hidden: then it may print
        return ()
    for setter in setters:
        setter.argtypes, setter.restype = [ctypes.c_void_p], ctypes.c_void_p
    return setters


def _silence_libtiff() -> Callable[[], object]:
    before = [(setter, setter(None)) for setter in _libtiff_setters()]
    return lambda: [setter(handler) for setter, handler in before]


def _lift_limit() -> Callable[[], object]:
    from PIL import Image

    before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None

    def leave() -> None:
        Image.MAX_IMAGE_PIXELS = before

    return leave


no_pillow_limit = _WhileAnyThread(_lift_limit)
no_pillow_warnings = _WhileAnyThread(_ignore_warnings)
no_libtiff_messages = _WhileAnyThread(_silence_libtiff)
