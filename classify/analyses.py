"""What a report shows beyond the metrics: computed once, after the fits, for results.json."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from classify import coding
from classify.calibration import calibration, fit_temperature
from classify.chunked import is_source, row_steps
from classify.results import json_ready

if TYPE_CHECKING:
    from classify.fitting import Head
    from classify.strategy import Fitted
    from data.store import Features


def scored(
    X: Any, head: Head, rows: npt.NDArray[np.intp] | None = None
) -> Iterator[tuple[slice, npt.NDArray[Any]]]:
    """Score rows in blocks, so that many heads and rows larger than memory do no harm.

    Parameters
    ----------
    X : ndarray, shape (n_rows, n_features), or StoredRows
        Features.
    head : Head
        Linear heads.
    rows : ndarray of int, optional
        Which rows; all by default.

    Yields
    ------
    tuple
        Where in `rows` a block is, and its scores, ``(n_block, n_heads)``.
    """
    for low, high in row_steps(X, len(X) if rows is None else len(rows), len(head.coef)):
        block = slice(low, high)
        if rows is not None:
            part = X.gather(rows[block]) if is_source(X) else X[rows[block]]
        else:
            part = X.read(low, high) if is_source(X) else X[block]
        yield block, head.scores(part)


def analyse(features: Features, X_train: Any, fitted: Mapping[str, Fitted]) -> None:
    """Add to the entries of the strategies what their part of a report shows.

    Parameters
    ----------
    features : Features
        The open store.
    X_train : ndarray, shape (n_train, n_features), or StoredRows
        Its training features, as they were fitted.
    fitted : mapping of str to Fitted
        The fitted strategies; their ``entry`` grows.
    """
    for strategy, fit in fitted.items():
        fit.entry["calibration"] = json_ready(_calibration(strategy, fit, features, X_train))


def _calibration(strategy: str, fit: Fitted, features: Features, X_train: Any) -> dict[str, Any]:
    temperature, n_validation = None, 0
    if fit.selection is not None:
        rows, start = fit.selection.held, fit.selection.start
        known = fit.estimator.classes_
        chances = np.concatenate(
            [
                coding.probabilities(strategy, scores, len(known))
                for _, scores in scored(X_train, start, rows)
            ]
        )
        labels = np.searchsorted(known, features.train.labels[rows])
        temperature, n_validation = fit_temperature(labels, chances), len(rows)
    return calibration(features.test.labels, fit.probabilities, temperature, n_validation)
