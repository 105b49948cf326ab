"""Images and features at rest: datasets, and the store of embeddings.

``from data import open_features`` reads a feature store. Nothing heavy is imported until a name
is asked for, so that the command lines start fast.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from data.common.errors import UserError
    from data.store import Features, StoreError, open_features

__all__ = ["Features", "StoreError", "UserError", "open_features"]


def __getattr__(name: str) -> Any:
    """Import the public names when they are first used."""
    if name == "UserError":
        from data.common.errors import UserError

        return UserError
    if name in __all__:
        from data import store

        return getattr(store, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
