"""Where the next fit along a path of C starts: where the last few heads point to.

The heads of a strategy are a smooth function of log C. A polynomial through the last three of them
predicts the next one; the minimiser corrects what is left. (Predictor and
corrector: Allgower and Georg, *Numerical Continuation Methods*, 1990, chapter 2; for paths of
regularisation, Park and Hastie, "L1-regularization path algorithm for generalized linear models",
*JRSS B* 69, 2007.) From the last head itself, a path takes half as many iterations again or more:
the figures are in the benchmark notes.
"""

from __future__ import annotations

from collections import deque

import numpy as np
import numpy.typing as npt

from classify.linear_head import Head, blended

Array = npt.NDArray[np.float64]

POINTS = 3
# Each head is only as near to its optimum as the path's tolerance, and its error counts as often
# as its weight says: three heads in even steps have the weights 1, -3, 3, two of them -1, 2. Where
# steps are so uneven that the sizes add up to more than this, fewer heads are used.
LARGEST_WEIGHTS = {2: 4.0, 3: 8.0}
# Heads of more numbers than this are not kept for it.
MOST_NUMBERS = 10_000_000


def weights_ahead(places: Array, ahead: float) -> Array:
    """Return the weights of a polynomial through ascending places at a place beyond them.

    They are Lagrange's, which add up to 1; not finite where places are the same.
    """
    apart = places[:, None] - places
    np.fill_diagonal(apart, 1.0)
    beyond = np.tile(ahead - places, (len(places), 1))
    np.fill_diagonal(beyond, 1.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.prod(beyond / apart, axis=1))


class RecentHeads:
    """The last few heads of a path of ascending C, and where they point to."""

    def __init__(self) -> None:
        self._fitted: deque[tuple[float, Head]] = deque(maxlen=POINTS)

    def add(self, C: float, head: Head) -> None:
        """Add the heads that were fitted at a value of C."""
        if head.size > MOST_NUMBERS:
            self._fitted.clear()
        self._fitted.append((C, head))

    def predict(self, C: float) -> Head | None:
        """Predict the heads at the next value of C; None where nothing was added."""
        values, heads = [value for value, _ in self._fitted], [head for _, head in self._fitted]
        for k in range(len(heads), 1, -1):
            weights = weights_ahead(np.log(values[-k:]), float(np.log(C)))
            if not np.abs(weights).sum() <= LARGEST_WEIGHTS[k]:
                continue
            found = blended(heads[-k:], weights.tolist())
            if found.finite():
                return found
        return heads[-1] if heads else None
