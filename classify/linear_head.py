"""Linear heads for raw features: what a fit returns, starts from, and is scored with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Floats = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True)
class LinearHead:
    """Weights (n_heads, n_features) and intercepts (n_heads,) of linear heads."""

    coef: Array
    intercept: Array

    def scores(self, X: Floats) -> Floats:
        """Return ``X @ coef.T + intercept`` in the features' dtype, ``(n_rows, n_heads)``."""
        return X @ self.coef.astype(X.dtype).T + self.intercept.astype(X.dtype)
