"""Stage two on a CUDA device, beside scikit-learn on the same CUDA tensors.

    make bench-cuda [FEATURES=features/cifar10/....h5] [C=0.01]

One value of C: each strategy from features in host memory (the way to the device is part of the
time), and from a tensor that lies there. scikit-learn's LogisticRegression runs under array-API
dispatch on the tensor, one fit after another for one-vs-rest and one-vs-one; both objectives are
evaluated in float64 against a fit at tol=1e-9 in float64. These times are medians of the repeats,
after one fit that is not counted. Then, once, the whole path of 45 values of C, as ``--c auto
--full-path`` takes it, choice included; scikit-learn's, warm-started, for the multinomial alone
unless ``--peer-paths`` is given. The device has finished before a clock is read.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("SCIPY_ARRAY_API", "1")  # scipy reads it when it is imported

import numpy as np
import sklearn
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from benchmarks.objective import objective
from benchmarks.rows import from_store, made
from classify import MultinomialLogistic, OneVsOneLogistic, OneVsRestLogistic
from classify.selection import C_GRID, select_C, validation_split
from classify.solver.problems import class_pairs

OURS = {"multinomial": MultinomialLogistic, "ovr": OneVsRestLogistic, "ovo": OneVsOneLogistic}


RESULTS = Path(__file__).parent / "results"


def weights_of(fitted: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return the heads of a fit, one part a head or all in one."""
    parts = getattr(fitted, "estimators_", [fitted])
    coef = np.concatenate([part.coef_ for part in parts]).astype(np.float64)
    return coef, np.concatenate([part.intercept_ for part in parts]).astype(np.float64)


def _fit(estimator: Any, C: float, device: str, X: Any, y: Any) -> Any:
    return estimator(C, device=device).fit(X, y)


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Run something and wait for the device: seconds and result."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    start = time.perf_counter()
    result = work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start, result


class Peer:
    """scikit-learn's LogisticRegression for each problem of a strategy, on tensors."""

    def __init__(self, strategy: str, C: float, tol: float) -> None:
        self.strategy, self.C, self.tol = strategy, C, tol
        self.models: dict[int, LogisticRegression] = {}

    def fit(self, X: torch.Tensor, y: torch.Tensor) -> Peer:
        with sklearn.config_context(array_api_dispatch=True):
            for k, (rows, labels) in enumerate(self._problems(y)):
                model = self.models.setdefault(
                    k, LogisticRegression(tol=self.tol, max_iter=5000, warm_start=True)
                )
                model.set_params(C=self.C).fit(X if rows is None else X[rows], labels)
        return self

    def _problems(self, y: torch.Tensor) -> Any:
        n_classes = int(y.max()) + 1
        if self.strategy == "multinomial":
            yield None, y
        elif self.strategy == "ovr":
            for k in range(n_classes):
                yield None, (y == k).to(torch.int64)
        else:
            for a, b in class_pairs(n_classes):
                rows = torch.nonzero((y == int(a)) | (y == int(b)))[:, 0]
                yield rows, (y[rows] == int(b)).to(torch.int64)

    @property
    def estimators_(self) -> list[Any]:
        """What `benchmarks.stage_two.weights_of` reads, on the host."""

        class Part:
            def __init__(self, model: LogisticRegression) -> None:
                self.coef_ = model.coef_.cpu().numpy()
                self.intercept_ = model.intercept_.cpu().numpy()

        return [Part(self.models[k]) for k in sorted(self.models)]


def try_peer(work: Callable[[], Any]) -> tuple[float, Any] | str:
    """Time scikit-learn, or say why it cannot: not every release dispatches to torch."""
    try:
        return timed(work)
    except (TypeError, ValueError, RuntimeError) as error:
        return f"{type(error).__name__}: {str(error).splitlines()[0]}"


def at_one_C(options: Any, X: np.ndarray, y: np.ndarray, device: str, place: str) -> list[dict]:
    """Fit the three strategies at one value of C."""
    X_there, y_there = torch.from_numpy(X).to(place), torch.from_numpy(y).to(place)
    wide = X.astype(np.float64)
    table = []
    for strategy, ours in OURS.items():
        ways: dict[str, Callable[[], Any]] = {
            "from the host": partial(_fit, ours, options.c, device, X, y),
            "on the device": partial(_fit, ours, options.c, device, X_there, y),
            "scikit-learn": partial(Peer(strategy, options.c, options.tol).fit, X_there, y_there),
        }
        reference = ours(options.c, tol=1e-9, max_iter=5000, device=device).fit(wide, y)
        lowest = objective(strategy, *weights_of(reference), options.c, wide, y)
        row: dict[str, Any] = {"strategy": strategy, "seconds": {}, "excess": {}}
        for repeat in range(options.repeats + 1):
            for who, work in ways.items():
                found = try_peer(work) if who == "scikit-learn" else timed(work)
                if isinstance(found, str):
                    row["seconds"][who] = found
                    continue
                seconds, fitted = found
                if repeat:  # the first fit loads libraries and kernels
                    row["seconds"].setdefault(who, []).append(seconds)
                value = objective(strategy, *weights_of(fitted), options.c, wide, y)
                row["excess"][who] = value / lowest - 1
        row["reference_gap"] = reference.certificate_["relative_gap"]
        table.append(row)
        cells = "; ".join(
            f"{who} {seconds}"
            if isinstance(seconds, str)
            else f"{who} {statistics.median(seconds):.3f} s (excess {row['excess'][who]:.0e})"
            for who, seconds in row["seconds"].items()
        )
        print(f"{strategy:<12} {cells}", flush=True)
    return table


def whole_paths(
    options: Any, X: np.ndarray, y: np.ndarray, device: str, place: str, grid: np.ndarray
) -> list[dict]:
    """Take the whole path of C with each strategy, from features in host memory."""
    train, held = validation_split(y, 0)
    table = []
    for strategy in OURS:

        def ours(strategy: str = strategy) -> Any:
            return select_C(
                strategy, X, y, grid=grid, full_path=True, standardize=True, device=device
            )

        seconds, chosen = timed(ours)
        row: dict[str, Any] = {"strategy": strategy, "icebox": seconds, "C": chosen.C}
        row["not_converged"] = sum(not step["converged"] for step in chosen.path)
        if strategy == "multinomial" or options.peer_paths:

            def theirs(strategy: str = strategy) -> None:
                X_there, y_there = (torch.from_numpy(part[train]).to(place) for part in (X, y))
                X_held, peer = torch.from_numpy(X[held]).to(place), None
                for C in grid:
                    peer = peer or Peer(strategy, C, options.tol)
                    peer.C = float(C)
                    peer.fit(X_there, y_there)
                    with sklearn.config_context(array_api_dispatch=True):
                        for model in peer.models.values():
                            model.predict_proba(X_held)

            found = try_peer(theirs)
            row["scikit-learn"] = found if isinstance(found, str) else found[0]
        table.append(row)
        peer = row.get("scikit-learn", "not run")
        peer = peer if isinstance(peer, str) else f"{peer:.2f} s"
        print(
            f"{strategy:<12} {len(grid)} values: Icebox {seconds:.2f} s, scikit-learn {peer}; "
            f"chose {chosen.C:.3g}, {row['not_converged']} did not converge",
            flush=True,
        )
    return table


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("store", nargs="?", help="a feature store (made data by default)")
    parser.add_argument("--c", type=float, default=0.01)
    parser.add_argument("--tol", type=float, default=1e-5, help="scikit-learn's (%(default)s)")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--peer-paths", action="store_true", help="scikit-learn's, all strategies")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print(
            f"error: there is no CUDA device (torch {torch.__version__} finds none), and this "
            "benchmark measures one; `make bench` measures the CPU",
            file=sys.stderr,
        )
        return 2
    warnings.simplefilter("ignore", ConvergenceWarning)
    rows = from_store(Path(options.store)) if options.store else made(10_000, 512, 10)
    name, X, y = rows.name, rows.X, rows.y
    y = np.asarray(y, dtype=np.int64)
    gpu, device = torch.cuda.get_device_name(), f"cuda:{torch.cuda.current_device()}"
    print(f"{name}: {len(X):,} x {X.shape[1]:,} float32 on {gpu}, C = {options.c:g}")
    print(f"torch {torch.__version__}, scikit-learn {sklearn.__version__} at tol={options.tol:g}")
    one = at_one_C(options, X, y, device, device)
    total = sum(statistics.median(row["seconds"]["from the host"]) for row in one)
    print(f"all three strategies from the host: {total:.3f} s")
    paths = whole_paths(options, X, y, device, device, C_GRID)
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / "cuda.json"
    facts = {
        "data": name, "shape": X.shape, "C": options.c, "tol": options.tol, "device": gpu,
        "torch": torch.__version__, "scikit-learn": sklearn.__version__,
        "one_C": one, "paths": paths,
    }  # fmt: skip
    path.write_text(json.dumps(facts, indent=1) + "\n")
    print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
