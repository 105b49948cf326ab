"""What a strategy is: how classes become binary problems, and which loss these have.

A strategy is known by its name, and has a *coding*, by which problems are set up and scores are
decoded: ``multinomial``, ``ovr``, ``ovo``, or ``ecoc`` with a code book of its own.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from classify.linear_head import pairs_of
from classify.solver.codes import Code, code_book

CODINGS = ("multinomial", "ovr", "ovo", "ecoc")


@dataclass(frozen=True)
class Strategy:
    """How a set of classes becomes linear heads."""

    name: str
    coding: str
    loss: str = "logistic"  # of each problem; a key of `classify.solver.losses.BINARY_LOSSES`
    # (n_classes, n_problems), in place of the one that ``ecoc`` chooses for so many classes.
    code: Code | None = field(default=None, compare=False, repr=False)
    decoding: str = "loss"  # of ``ecoc``: see `classify.codings.code_books`
    # (n_classes,) old indices of the classes: probabilities of ``ovo`` are coupled in that order.
    coupled_as: npt.NDArray[np.intp] | None = field(default=None, compare=False, repr=False)

    def n_heads(self, n_classes: int) -> int:
        """Count the linear heads (rows of ``coef_``): 1 for two classes, whatever it is."""
        if n_classes == 2:
            return 1
        if self.coding == "ecoc":
            return self.code_of(n_classes).shape[1]
        return n_classes * (n_classes - 1) // 2 if self.coding == "ovo" else n_classes

    def by_class(self, n_classes: int) -> bool:
        """Tell whether the rows of a class share their columns and signs: they are sorted then."""
        return self.coding in ("ovo", "ecoc") and n_classes > 2

    def scores_a_row(self, n_classes: int) -> int:
        """Count the columns that a row of the training set meets, at most."""
        if self.coding == "ovo":
            return n_classes - 1
        if self.coding == "ecoc" and n_classes > 2:
            return int(np.count_nonzero(self.code_of(n_classes), axis=1).max())
        return self.n_heads(n_classes)

    def code_of(self, n_classes: int) -> Code:
        """Return the code book of ``ecoc`` for so many classes."""
        if self.code is None:
            return code_book(n_classes)
        if len(self.code) != n_classes:
            raise ValueError(
                f"the code book has {len(self.code)} rows, one for each class, and there are "
                f"{n_classes} classes"
            )
        return self.code

    def problems_of(
        self, label: int, n_classes: int
    ) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.bool_]]:
        """Return the heads whose problem has rows of a class, and whether it is the positive one.

        Not for the multinomial, which is one problem.
        """
        if n_classes == 2:
            return np.array([0]), np.array([label == 1])
        if self.coding == "ovr":
            heads = np.arange(n_classes)
            return heads, heads == label
        if self.coding == "ecoc":
            row = self.code_of(n_classes)[label]
            heads = np.flatnonzero(row)
            return heads, row[heads] > 0
        return pairs_of(label, n_classes), np.arange(n_classes - 1) < label


STRATEGIES = {
    strategy.name: strategy
    for strategy in (
        Strategy("multinomial", "multinomial"),
        Strategy("ovr", "ovr"),
        Strategy("ovo", "ovo"),
        Strategy("svm-ovr", "ovr", "squared_hinge"),
        Strategy("svm-ovo", "ovo", "squared_hinge"),
        Strategy("ecoc", "ecoc"),
    )
}


def strategy_of(name: str | Strategy) -> Strategy:
    """Find a strategy by its name; one that is given already stays as it is."""
    if isinstance(name, Strategy):
        return name
    if name not in STRATEGIES:
        raise ValueError(f"unknown strategy {name!r}; expected one of {', '.join(STRATEGIES)}")
    return STRATEGIES[name]
