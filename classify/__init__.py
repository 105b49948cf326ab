"""Stage two of Icebox: classifiers trained on cached embeddings, evaluated and compared."""

from __future__ import annotations

from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from classify.estimators import (
        ErrorCorrectingLogistic,
        MultinomialLogistic,
        OneVsOneLogistic,
        OneVsOneSVM,
        OneVsRestLogistic,
        OneVsRestSVM,
    )

# Before anything imports `data`: a user's data.py may lie under that name.
_file = Path(__file__).parents[1] / "data" / "common" / "own_packages.py"
_spec = spec_from_file_location("_own_packages", _file)
assert _spec is not None and _spec.loader is not None
_own_packages = module_from_spec(_spec)
_spec.loader.exec_module(_own_packages)
_own_packages.check("data")

__all__ = [
    "ErrorCorrectingLogistic",
    "MultinomialLogistic",
    "OneVsOneLogistic",
    "OneVsOneSVM",
    "OneVsRestLogistic",
    "OneVsRestSVM",
]


def __getattr__(name: str) -> Any:
    """Import an estimator when it is asked for: ``python -m classify --help`` needs none."""
    if name in __all__:
        from classify import estimators

        return getattr(estimators, name)
    raise AttributeError(f"module 'classify' has no attribute {name!r}")
