"""Stage two: classifiers trained on cached embeddings, evaluated and compared."""

from __future__ import annotations

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
