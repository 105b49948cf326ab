"""Stage one of Icebox: a frozen backbone turns images into embeddings, once.

``from extract import embed`` does so from Python. Nothing heavy is imported until it is asked for.
"""

from __future__ import annotations

import importlib
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from extract.from_python import embed

# Before anything imports `data`: a user's data.py may lie under that name.
_file = Path(__file__).parents[1] / "data" / "common" / "own_packages.py"
_spec = spec_from_file_location("_own_packages", _file)
assert _spec is not None and _spec.loader is not None
_own_packages = module_from_spec(_spec)
_spec.loader.exec_module(_own_packages)
_own_packages.check("data")

__all__ = ["embed"]


def __getattr__(name: str) -> Any:
    """Import the public name when it is first used."""
    if name in __all__:
        return getattr(importlib.import_module("extract.from_python"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
