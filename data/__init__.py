"""Images and features of Icebox at rest: datasets, and the store of embeddings.

``from data import open_features`` reads a feature store. Nothing heavy is imported until a name
is asked for, so that the command lines start fast.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from data.common.errors import UserError
    from data.format.records import Features, StoreError
    from data.reading import open_features

__all__ = ["Features", "StoreError", "UserError", "open_features"]
_HOMES = {
    "Features": "data.format.records",
    "StoreError": "data.format.records",
    "UserError": "data.common.errors",
    "open_features": "data.reading",
}


def __getattr__(name: str) -> Any:
    """Import the public names when they are first used."""
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
