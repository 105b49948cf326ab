"""Stage one: a frozen backbone turns images into embeddings, once.

``from extract import embed`` does so from Python. Nothing heavy is imported until it is asked for.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from extract.from_python import embed

__all__ = ["embed"]


def __getattr__(name: str) -> Any:
    """Import the public name when it is first used."""
    if name in __all__:
        return getattr(importlib.import_module("extract.from_python"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
