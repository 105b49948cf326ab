"""Stage two of Icebox: classifiers trained on cached embeddings, evaluated and compared."""

from __future__ import annotations

from importlib import import_module
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
    from classify.heads.estimator import HeadEstimator
    from classify.saved.estimators import load_head

# Before anything imports `data`: a user's data.py may lie under that name.
_file = Path(__file__).parents[1] / "data" / "common" / "own_packages.py"
_spec = spec_from_file_location("_own_packages", _file)
assert _spec is not None and _spec.loader is not None
_own_packages = module_from_spec(_spec)
_spec.loader.exec_module(_own_packages)
_own_packages.check("data")

__all__ = [
    "ErrorCorrectingLogistic",
    "HeadEstimator",
    "MultinomialLogistic",
    "OneVsOneLogistic",
    "OneVsOneSVM",
    "OneVsRestLogistic",
    "OneVsRestSVM",
    "load_head",
]


_ELSEWHERE = {"HeadEstimator": "classify.heads.estimator", "load_head": "classify.saved.estimators"}


def __getattr__(name: str) -> Any:
    """Import what is asked for, and then only: ``python -m classify --help`` needs none of it."""
    if name in __all__:
        return getattr(import_module(_ELSEWHERE.get(name, "classify.estimators")), name)
    raise AttributeError(f"module 'classify' has no attribute {name!r}")
