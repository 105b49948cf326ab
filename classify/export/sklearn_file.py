"""The fitted estimator of a head in a skops file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from classify.heads.skops_files import write_file
from classify.saved.estimators import estimator_of, load_head, type_name
from data.common.errors import UserError

if TYPE_CHECKING:
    from classify.predict import AnyHead

# Rows that the check answers, and how far probabilities may differ.
N_ROWS, LIMIT = 64, 1e-12


def write(head: AnyHead, out: Path) -> str:
    """Write the estimator, read it back and compare; returns what to say of it."""
    estimator = estimator_of(head)
    write_file(out, estimator)
    largest = _check(head, out)
    name = type_name(type(estimator))
    return (
        f"the head {head.strategy} as {type(estimator).__name__}; read back, it answers {N_ROWS} "
        f"rows as the head does, with probabilities that differ by {largest:.1g} at most. It needs "
        f"Icebox where it is read: classify.load_head(PATH), or skops.io.load(PATH, "
        f"trusted=[{name!r}])"
    )


def _check(head: AnyHead, written: Path) -> float:
    """Answer random rows by what was written and by the head; return the largest difference."""
    rows = np.random.default_rng(0).normal(size=(N_ROWS, head.n_features)).astype(np.float32)
    estimator = load_head(written)
    expected, labels = head.probabilities(rows), np.array(head.class_names)[head.predict(rows)]
    columns = np.searchsorted(estimator.classes_, head.class_names)
    found = estimator.predict_proba(rows)[:, columns]
    largest = float(np.abs(found - expected).max())  # NaN stays one
    if not largest <= LIMIT or not np.array_equal(estimator.predict(rows), labels):
        raise UserError(
            f"what was written answers otherwise than predict: probabilities differ by "
            f"{largest:.2g}, and {LIMIT:g} is allowed, or a label does; nothing was kept. Please "
            "report this, with the name of the head"
        )
    return largest
