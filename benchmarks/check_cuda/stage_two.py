"""Stage two: seconds, certificates and peak memory of fits on a device, beside scikit-learn's."""

from __future__ import annotations

import os
import statistics
import time
import warnings
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from benchmarks.check_cuda import inputs
from benchmarks.check_cuda.judge import objective, weights_of
from benchmarks.check_cuda.rows import Context, Row, seconds_text, timed
from benchmarks.check_cuda.stage_one import peak_bytes

if TYPE_CHECKING:
    import torch

C = 0.01
STRATEGIES = ("multinomial", "ovr", "ovo")
GOAL_ONE, GOAL_PATH, GOAL_MANY = 1.0, 10.0, 15.0
# Rounding of a sum of float64 over all rows, relative to the objective.
ROUNDING = 3e-9
# Seconds that scikit-learn's search for its tolerance may take in all.
PEER_SECONDS = 25.0
# How much of the free memory a fit of many classes may be expected to take.
SHARE = 0.8


def estimator(strategy: str, context: Context, C: float = C, **options: Any) -> Any:
    """Set up one of our estimators on the device."""
    from classify import MultinomialLogistic, OneVsOneLogistic, OneVsRestLogistic

    kinds = dict(zip(STRATEGIES, (MultinomialLogistic, OneVsRestLogistic, OneVsOneLogistic),
                     strict=True))  # fmt: skip
    return kinds[strategy](C, device=context.solver_device, **options)


class Problem:
    """Made features on the device and on the host, and the lowest objectives of all strategies."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.there, self.y = inputs.features(context.sizes.features, context.device)
        self.here = self.there.cpu().numpy()
        self._wide = self.there.double()

    def lowest(self, strategy: str) -> float:
        """Fit in float64 as far as that goes, and evaluate."""
        fitted = estimator(strategy, self.context, tol=1e-9, max_iter=5000).fit(self._wide, self.y)
        return self.value(strategy, fitted)

    def value(self, strategy: str, fitted: Any, C: float = C) -> float:
        """Evaluate a fit by the witness."""
        return objective(strategy, *weights_of(fitted), C, self.there, self.y)


def heads(context: Context, _: str) -> Iterator[Row]:
    """Fit the three strategies at one value of C, from the host's memory and where rows lie."""
    problem, device = Problem(context), context.device
    totals = {"from the host": 0.0, "on the device": 0.0}
    for strategy in STRATEGIES:
        lowest = problem.lowest(strategy)
        facts: dict[str, Any] = {"shape": context.sizes.features, "C": C, "lowest": lowest}
        parts = []
        for where, X in (("from the host", problem.here), ("on the device", problem.there)):
            fit = partial(estimator(strategy, context).fit, X, problem.y)
            fit()  # loads kernels
            found = [timed(device, fit) for _ in range(context.sizes.repeats)]
            seconds = statistics.median(took for took, _ in found)
            totals[where] += seconds
            fitted = found[-1][1]
            excess = problem.value(strategy, fitted) / lowest - 1
            facts |= {where: seconds, f"excess {where}": excess}
            parts.append(f"{seconds_text(seconds)} {where}")
        certificate = fitted.certificate_
        bound = float(certificate["relative_gap"])
        facts |= {"certified": bound, "iterations": int(np.max(fitted.n_iter_))}
        yield Row(f"{strategy}, C = {C:g}", ", ".join(parts), facts=facts)
        honest = bool(certificate["converged"]) and -ROUNDING <= excess <= bound + ROUNDING
        yield Row(f"{strategy}, excess and its certificate", f"{excess:.1e}, within {bound:.1e}",
                  "certified", honest)  # fmt: skip
    total = totals["from the host"]
    yield Row("the three strategies from the host", seconds_text(total), f"{GOAL_ONE:g} s",
              total <= GOAL_ONE, must=False, facts=totals)  # fmt: skip
    yield from _peak(context)


def path(context: Context, _: str) -> Iterator[Row]:
    """Take the whole path of C with each strategy, from features in the host's memory."""
    from classify.selection import C_GRID, select_C

    X, y = inputs.features(context.sizes.features, context.device)
    here = X.cpu().numpy()
    del X
    grid = np.asarray(context.sizes.grid or C_GRID)
    total = 0.0
    for strategy in STRATEGIES:

        def choose(strategy: str = strategy) -> Any:
            return select_C(strategy, here, y, grid=grid, full_path=True, standardize=True,
                            device=context.solver_device)  # fmt: skip

        seconds, chosen = timed(context.device, choose)
        total += seconds
        late = sum(not step["converged"] for step in chosen.path)
        found = f"{seconds_text(seconds)}, chose {chosen.C:.3g}, {late} did not converge"
        facts = {"seconds": seconds, "C": chosen.C, "path": chosen.path, "device": chosen.device}
        yield Row(f"{strategy}, {len(grid)} values of C", found, "on the device",
                  chosen.device == context.solver_device, facts=facts)  # fmt: skip
    yield Row("the three paths", seconds_text(total), f"{GOAL_PATH:g} s", total <= GOAL_PATH,
              must=False, facts={"seconds": total})  # fmt: skip
    yield from _peak(context)


class Peer:
    """scikit-learn's LogisticRegression for each problem of a strategy, on tensors or arrays."""

    def __init__(self, strategy: str, tol: float) -> None:
        self._strategy, self._tol = strategy, tol
        self.estimators_: list[Any] = []

    def fit(self, X: Any, y: Any) -> Peer:
        """Fit one model after the other; tensors under array-API dispatch."""
        import sklearn
        from sklearn.linear_model import LogisticRegression

        self.estimators_ = []
        with sklearn.config_context(array_api_dispatch=not isinstance(X, np.ndarray)):
            for rows, labels in self._problems(y):
                model = LogisticRegression(C=C, tol=self._tol, max_iter=5000)
                self.estimators_.append(model.fit(X if rows is None else X[rows], labels))
        return self

    def _problems(self, y: Any) -> Iterator[tuple[Any, Any]]:
        n_classes = int(y.max()) + 1
        if self._strategy == "multinomial":
            yield None, y
        elif self._strategy == "ovr":
            for k in range(n_classes):
                yield None, (y == k) * 1
        else:
            for a in range(n_classes):
                for b in range(a + 1, n_classes):
                    rows = (y == a) | (y == b)
                    yield rows, (y[rows] == b) * 1


def peers(context: Context, _: str) -> Iterator[Row]:
    """Fit with scikit-learn on the same tensors, as closely as ours, and say how long it took."""
    os.environ.setdefault("SCIPY_ARRAY_API", "1")  # scipy reads it when it is imported
    import sklearn
    import torch

    problem = Problem(context)
    tensors = problem.there, torch.from_numpy(problem.y).to(context.device)
    arrays, where = (problem.here, problem.y), "on the same tensors"
    data: tuple[Any, Any] = tensors
    for strategy in STRATEGIES:
        lowest = problem.lowest(strategy)
        seconds, fitted = _fit_twice(context, strategy, problem)
        ours = problem.value(strategy, fitted) / lowest - 1
        refusal = None
        try:
            found = _as_close(context, strategy, data, problem, lowest, ours)
        except (TypeError, ValueError, RuntimeError, AttributeError, NotImplementedError) as error:
            refusal = f"{type(error).__name__}: {str(error).splitlines()[0]}"[:120]
        if refusal is not None:
            yield Row(f"scikit-learn {sklearn.__version__} on tensors", f"cannot: {refusal}")
            data, where = arrays, "on this CPU"
            found = _as_close(context, strategy, data, problem, lowest, ours)
        text = f"{seconds_text(found.seconds)} {where}, excess {found.excess:.0e}"
        text += f"; ours {seconds_text(seconds)}, {ours:.0e}"
        if not found.reached:
            text += "; not as close"
        facts = {"seconds": found.seconds, "tol": found.tol, "excess": found.excess,
                 "ours": seconds, "ours_excess": ours, "where": where}  # fmt: skip
        yield Row(f"{strategy}, scikit-learn {sklearn.__version__}", text, facts=facts)
        if where == "on this CPU":
            return  # one after the other would take minutes


def _fit_twice(context: Context, strategy: str, problem: Problem) -> tuple[float, Any]:
    fit = partial(estimator(strategy, context).fit, problem.there, problem.y)
    fit()
    return timed(context.device, fit)


class _Closest(NamedTuple):
    """The loosest tolerance of scikit-learn that gets as close as ours, in the time there is."""

    tol: float
    seconds: float
    excess: float
    reached: bool


def _as_close(
    context: Context, strategy: str, data: tuple[Any, Any], problem: Problem, lowest: float,
    ours: float,
) -> _Closest:  # fmt: skip
    """Tighten the tolerance step by step."""
    from sklearn.exceptions import ConvergenceWarning

    begun = time.perf_counter()
    closest = None
    for tol in (1e-3, 1e-4, 1e-5, 1e-6):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            seconds, fitted = timed(context.device, partial(Peer(strategy, tol).fit, *data))
        excess = problem.value(strategy, fitted) / lowest - 1
        closest = _Closest(tol, seconds, excess, excess <= max(ours, 1e-6))
        if closest.reached or time.perf_counter() - begun + 2 * seconds > PEER_SECONDS:
            break
    assert closest is not None
    return closest


def many(context: Context, _: str) -> Iterator[Row]:
    """Fit one multinomial of ImageNet's shape, certified, from rows that lie on the device."""
    n, d, k = context.sizes.many
    while n > 10 * k and _needed(n, d, k) > SHARE * _free(context):
        n //= 2
    X, y = inputs.features((n, d, k), context.device)
    fit = estimator("multinomial", context, standardize=True)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        seconds, fitted = timed(context.device, lambda: fit.fit(X, y))
    certificate = fitted.certificate_
    bound = float(certificate["relative_gap"])
    shape = f"{n:,} x {d:,}, {k:,} classes"
    warned = [str(warning.message) for warning in said]
    facts = {"shape": (n, d, k), "seconds": seconds, "certified": bound, "warnings": warned,
             "iterations": int(np.max(fitted.n_iter_)), "device": fitted.device_}  # fmt: skip
    whole = n == context.sizes.many[0]
    yield Row(shape, f"{seconds_text(seconds)}, {facts['iterations']} iterations",
              f"{GOAL_MANY:g} s" if whole else f"{GOAL_MANY:g} s for all rows",
              whole and seconds <= GOAL_MANY, must=False, facts=facts)  # fmt: skip
    ok = fitted.device_ == context.solver_device and bool(certificate["converged"])
    yield Row("where it ran, and its certificate", f"{fitted.device_}, within {bound:.1e}",
              "certified there", ok)  # fmt: skip
    yield _stated(context, X, y, fitted)
    yield from _peak(context)


def _stated(context: Context, X: torch.Tensor, y: npt.NDArray[np.int64], fitted: Any) -> Row:
    """Compare the objective that the certificate states with the witness's."""
    scale = _deviations(X)
    coef, intercept = weights_of(fitted)
    # The penalty is that of weights for standardised features.
    ours = objective("multinomial", coef, intercept, C, X, y)
    ours += 0.5 * float(((coef * scale) ** 2).sum() - (coef**2).sum())
    stated = float(np.sum(fitted.certificate_["problems"]["objective"]))
    apart = abs(ours / stated - 1)
    return Row("the objective it states, against float64", f"{apart:.1e} apart", "1e-5",
               apart <= 1e-5, facts={"stated": stated, "witness": ours})  # fmt: skip


def _deviations(X: torch.Tensor) -> npt.NDArray[np.float64]:
    """Return the columns' standard deviations in float64."""
    import torch

    blocks = X.split(inputs.CHUNK)
    total = torch.stack([block.double().sum(dim=0) for block in blocks]).sum(dim=0)
    mean = total / len(X)
    squares = torch.stack([((block.double() - mean) ** 2).sum(dim=0) for block in blocks])
    found: npt.NDArray[np.float64] = (squares.sum(dim=0) / len(X)).sqrt().cpu().numpy()
    return found


def _needed(n: int, d: int, k: int) -> float:
    """Estimate the bytes that a fit of many classes takes on the device."""
    return n * (d + k) * 4 * 1.5 + k * d * d * 4 * 1.2 + 2e9


def _free(context: Context) -> float:
    import torch

    if not context.on_cuda:
        return float("inf")
    return float(torch.cuda.mem_get_info(context.device)[0])


def _peak(context: Context) -> Iterator[Row]:
    found = peak_bytes(context.device)
    if found is not None:
        yield Row("peak device memory", f"{found / 1e9:.2f} GB", facts={"bytes": found})
