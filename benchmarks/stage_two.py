"""Stage two against scikit-learn: the same rows, the same objective, side by side in one process.

    make bench [FEATURES=features/cifar10/....h5] [C=0.01]

Each strategy is fitted by Icebox and by scikit-learn in turn, ABAB..., so that a machine whose
speed drifts slows both. A time means nothing without how near the optimum it got: both solutions
are evaluated in float64 on the same objective, and the excess is over a fit of Icebox in float64 at
tol=1e-9, whose own distance from the optimum is bounded by its duality gap.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
import warnings
from functools import partial
from pathlib import Path

import numpy as np
import sklearn
from sklearn.datasets import make_classification
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsOneClassifier, OneVsRestClassifier

from classify import MultinomialLogistic, OneVsOneLogistic, OneVsRestLogistic
from classify.coding import class_pairs
from data import open_features

RESULTS = Path(__file__).parent / "results"


def rows_of(store: str | None) -> tuple[str, np.ndarray, np.ndarray]:
    """Return standardised float32 training rows of a store, or made ones."""
    if store:
        features = open_features(store)
        X, y, name = features.train.features, features.train.labels, Path(store).name
    else:
        X, y = make_classification(
            10_000, 512, n_informative=60, n_redundant=200, n_classes=10, random_state=0
        )
        name = "made data, 10,000 x 512, 10 classes"
    scale = X.std(axis=0, dtype=np.float64)
    scale[scale == 0] = 1
    return name, ((X - X.mean(axis=0, dtype=np.float64)) / scale).astype(np.float32), y


def objective(strategy: str, coef: np.ndarray, intercept: np.ndarray, C: float, X, y) -> float:
    """Sum of the strategy's objectives, in float64 (the multinomial's by log-sum-exp)."""
    scores = X @ coef.T + intercept
    if strategy == "multinomial":
        top = scores.max(axis=1)
        log_sum = np.log(np.exp(scores - top[:, None]).sum(axis=1)) + top
        loss = (log_sum - scores[np.arange(len(y)), y]).sum()
    else:
        loss = 0.0
        pairs = class_pairs(int(y.max()) + 1)
        for k in range(len(coef)):
            rows = slice(None) if strategy == "ovr" else np.isin(y, pairs[k])
            positive = (y == (k if strategy == "ovr" else pairs[k][1]))[rows]
            margin = np.where(positive, scores[rows, k], -scores[rows, k])
            loss += np.logaddexp(0, -margin).sum()
    return C * loss + 0.5 * (coef**2).sum()


def weights_of(fitted) -> tuple[np.ndarray, np.ndarray]:
    parts = getattr(fitted, "estimators_", [fitted])
    coef = np.concatenate([part.coef_ for part in parts]).astype(np.float64)
    return coef, np.concatenate([part.intercept_ for part in parts]).astype(np.float64)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("store", nargs="?", help="a feature store (made data by default)")
    parser.add_argument("--c", type=float, default=0.01)
    parser.add_argument("--tol", type=float, default=1e-5, help="scikit-learn's (%(default)s)")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    warnings.simplefilter("ignore", ConvergenceWarning)
    name, X, y = rows_of(options.store)
    wide, C, cores = X.astype(np.float64), options.c, os.cpu_count()

    def peer():
        return LogisticRegression(C=C, tol=options.tol, max_iter=5000)

    contest = {
        "multinomial": (MultinomialLogistic, peer),
        "ovr": (OneVsRestLogistic, lambda: OneVsRestClassifier(peer(), n_jobs=cores)),
        "ovo": (OneVsOneLogistic, lambda: OneVsOneClassifier(peer(), n_jobs=cores)),
    }
    print(f"{name}: {len(X):,} x {X.shape[1]:,} float32, C = {C:g}, {cores} cores, medians")
    print(f"scikit-learn {sklearn.__version__} at tol={options.tol:g}, Icebox at its default")
    head = ("strategy", "Icebox", "scikit-learn", "ratio", "our excess", "its excess")
    print("{:<12} {:>9} {:>13} {:>6} {:>11} {:>11}".format(*head))
    table = []
    for strategy, (ours, theirs) in contest.items():
        seconds: dict[str, list[float]] = {"icebox": [], "scikit-learn": []}
        values = {}
        for _ in range(options.repeats):
            for who, make in (("icebox", partial(ours, C=C)), ("scikit-learn", theirs)):
                start = time.perf_counter()
                fitted = make().fit(X, y)
                seconds[who].append(time.perf_counter() - start)
                values[who] = objective(strategy, *weights_of(fitted), C, wide, y)
        reference = ours(C=C, tol=1e-9, max_iter=5000).fit(wide, y)
        lowest = objective(strategy, *weights_of(reference), C, wide, y)
        row = {
            "strategy": strategy,
            "seconds": seconds,
            "ratio": statistics.median(
                b / a for a, b in zip(seconds["icebox"], seconds["scikit-learn"], strict=True)
            ),
            "excess": {who: value / lowest - 1 for who, value in values.items()},
            "reference_gap": reference.certificate_["relative_gap"],
        }
        table.append(row)
        a, b = (statistics.median(seconds[who]) for who in ("icebox", "scikit-learn"))
        print(
            f"{strategy:<12} {a:>7.2f} s {b:>11.2f} s {row['ratio']:>6.1f} "
            f"{row['excess']['icebox']:>11.1e} {row['excess']['scikit-learn']:>11.1e}",
            flush=True,
        )
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / "stage_two.json"
    machine = f"{platform.machine()}, {cores} cores, {platform.system()}"
    facts = {"data": name, "C": C, "tol": options.tol, "machine": machine, "results": table}
    path.write_text(json.dumps(facts, indent=1) + "\n")
    print(path)


if __name__ == "__main__":
    main()
