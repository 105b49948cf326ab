"""The embedding seen: two directions of many, and an order of the classes.

References
----------
Belhumeur, P. N., Hespanha, J. P., Kriegman, D. J. (1997). Eigenfaces vs. Fisherfaces: recognition
    using class specific linear projection. IEEE Transactions on Pattern Analysis and Machine
    Intelligence 19, 711-720.
Bar-Joseph, Z., Gifford, D. K., Jaakkola, T. S. (2001). Fast optimal leaf ordering for hierarchical
    clustering. Bioinformatics 17, S22-S29.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from classify.scoring import rows_of

FITTED_ROWS = 5000
SHOWN_ROWS = 2000
COMPONENTS = 50
# Optimal ordering takes time in the cube of the classes.
LARGEST_OPTIMAL = 400


def _sample(n: int, most: int, seed: int) -> npt.NDArray[np.intp]:
    if n <= most:
        return np.arange(n)
    return np.sort(np.random.default_rng(seed).choice(n, most, replace=False))


# The same bits whatever the number of threads.
@threadpool_limits.wrap(limits=1, user_api="blas")
def two_views(
    X_train: Any,
    y_train: npt.NDArray[np.intp],
    X_test: Any,
    y_test: npt.NDArray[np.intp],
    seed: int,
) -> dict[str, Any] | None:
    """Project test rows on two directions of PCA and of LDA.

    Both are fitted to training rows (a sample, where there are many), standardised. LDA is made in
    the space of the leading principal components, where the scatter within classes can be inverted
    (Belhumeur et al. 1997).

    Shapes: X_train, X_test (n_rows, n_features) or StoredRows; y_train, y_test (n_rows,).
    """
    from sklearn.decomposition import PCA
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
    from sklearn.preprocessing import StandardScaler

    fitted = _sample(len(y_train), FITTED_ROWS, seed)
    shown = _sample(len(y_test), SHOWN_ROWS, seed)
    X, y = rows_of(X_train, fitted), y_train[fitted]
    n_classes = len(np.unique(y))
    size = min(COMPONENTS, X.shape[1], len(y) - n_classes)
    if size < 2 or n_classes < 2:
        return None
    # Where the rows of a class are all alike there is no scatter to divide by.
    if not any(np.ptp(X[y == label], axis=0).any() for label in np.unique(y)):
        return None
    scaler = StandardScaler().fit(X)
    # Any seed will do here, but scikit-learn's have 32 bits.
    pca = PCA(size, svd_solver="randomized", random_state=seed % 2**32)
    leading = pca.fit_transform(scaler.transform(X))
    lda = LinearDiscriminantAnalysis(n_components=min(2, n_classes - 1)).fit(leading, y)
    Z = pca.transform(scaler.transform(rows_of(X_test, shown)))
    across = np.column_stack([lda.transform(Z), Z])[:, :2]
    return {
        "n_fitted": len(fitted),
        "rows": shown.tolist(),
        "labels": y_test[shown].tolist(),
        "pca": {
            "points": _rounded(Z[:, :2]),
            "explained": pca.explained_variance_ratio_[:2].tolist(),
        },
        "lda": {
            "points": _rounded(across),
            "explained": lda.explained_variance_ratio_[:2].tolist(),
            "components": size,
        },
    }


def _rounded(points: npt.NDArray[np.floating]) -> list[list[float]]:
    """Keep four digits, which is what a drawing can show."""
    return [[float(f"{value:.4g}") for value in point] for point in points]


def class_order(matrices: Sequence[npt.NDArray[np.int64]]) -> list[int]:
    """Order classes so that those which are taken for each other are neighbours.

    Shapes: matrices (n_classes, n_classes).
    """
    from scipy.cluster.hierarchy import leaves_list, linkage, optimal_leaf_ordering
    from scipy.spatial.distance import squareform

    counts = np.sum(matrices, axis=0)
    n_classes = len(counts)
    if n_classes < 3:
        return list(range(n_classes))
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    near = shares + shares.T
    np.fill_diagonal(near, 0.0)
    distances = squareform(near.max() - near, checks=False)
    tree = linkage(distances, "average")
    if n_classes <= LARGEST_OPTIMAL:
        tree = optimal_leaf_ordering(tree, distances)
    order = leaves_list(tree)
    # Either direction is as good; this one keeps to the order of the names, more or less.
    return [int(i) for i in (order if order[0] < order[-1] else order[::-1])]
