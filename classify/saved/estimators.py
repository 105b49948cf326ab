"""Trained heads of files as fitted scikit-learn classifiers: ``classify.load_head``."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from classify.estimator_base import LinearHeads
from classify.estimators import (
    ErrorCorrectingLogistic,
    MultinomialLogistic,
    OneVsOneLogistic,
    OneVsOneSVM,
    OneVsRestLogistic,
    OneVsRestSVM,
)
from classify.heads import skops_files
from classify.heads.estimator import HeadEstimator
from classify.heads.linear import LinearTrained
from classify.heads.registry import HEADS, is_solved
from classify.linear_head import Head, LinearHead, PairHead, reordered_pairs
from classify.parameters import check_norm, check_parameters
from classify.saved import reading
from classify.saved.heads import SavedHead
from classify.saved.models import SavedModel, is_model, load_model
from classify.solver.codes import check_code, code_book
from classify.solver.strategies import strategy_of
from data.common.errors import UserError

Estimator = LinearHeads | HeadEstimator

ESTIMATORS: dict[str, type[LinearHeads]] = {
    "multinomial": MultinomialLogistic,
    "ovr": OneVsRestLogistic,
    "ovo": OneVsOneLogistic,
    "svm-ovr": OneVsRestSVM,
    "svm-ovo": OneVsOneSVM,
    "ecoc": ErrorCorrectingLogistic,
}
WANTED = (
    "give a file heads/NAME.safetensors or heads/NAME.skops from the folder of a run, or one that "
    "`python -m classify export --to sklearn` wrote"
)
# What files of other programs are that ``export`` and others write.
_PROGRAMS = {
    ".onnx": "an ONNX program, which onnxruntime runs",
    ".pt2": "a program of torch.export, which torch.export.load opens",
    ".pt": "a file of torch, which may run code when it is read",
    ".pth": "a file of torch, which may run code when it is read",
    ".pkl": "a pickle, which may run code when it is read",
    ".joblib": "a pickle, which may run code when it is read",
    ".h5": "a store of features, which data.open_features opens",
}


def type_name(estimator: type[Any]) -> str:
    """Return the name under which skops knows a type."""
    return f"{estimator.__module__}.{estimator.__qualname__}"


TRUSTED = tuple(type_name(one) for one in (*ESTIMATORS.values(), HeadEstimator))


def load_head(path: str | os.PathLike[str]) -> Estimator:
    """Open the file of a trained head as a fitted scikit-learn classifier.

    It answers rows of raw features as ``python -m classify predict`` does: the same labels, and
    probabilities calibrated by the temperature of the file.

    Parameters
    ----------
    path : str or path-like
        A file of a run, ``heads/NAME.safetensors`` or ``heads/NAME.skops``, or one that
        ``python -m classify export --to sklearn`` wrote. No code of a file is run, and nothing is
        loaded from a skops file that holds anything but one of these estimators, numbers, texts
        and arrays.

    Returns
    -------
    MultinomialLogistic, OneVsRestLogistic, OneVsOneLogistic, OneVsRestSVM, OneVsOneSVM, \
ErrorCorrectingLogistic or HeadEstimator
        The estimator of the head, with the parameters and fitted attributes that the file knows:
        `C`, `normalize` and `fit_intercept`; `classes_`, `coef_`, `intercept_`, `pairs_`,
        `code_`, `n_features_in_` and `temperature_`. Heads that the solver does not fit, such as
        ridge or a forest, are a `HeadEstimator` with the parameters `head` and `setting`.

        `classes_` holds the names of the classes, sorted, as scikit-learn's scorers expect; the
        columns of ``predict_proba`` and the rows of `coef_` have that order, whichever the file
        has. What a file does not know, such as `n_iter_`, is no attribute. Scores are computed in
        float64.

    Raises
    ------
    data.UserError
        If the file is not there, damaged, or something else; the message says what to give.

    Examples
    --------
    >>> from classify import load_head
    >>> head = load_head("reports/.../heads/ovo.safetensors")  # doctest: +SKIP
    >>> head.predict(features)  # doctest: +SKIP
    array(['cat', 'dog', 'cat'], dtype='<U10')
    """
    file = Path(path)
    _check_is_file(file)
    if not is_model(file):
        return estimator_of(reading.load_head(file))
    try:
        root = skops_files.root_type(file, WANTED)
        if root == "builtins.dict":
            return estimator_of(load_model(file))
        with skops_files.damage_told(file, WANTED):
            estimator: Estimator = skops_files.read_file(file, WANTED, TRUSTED)
        _check(estimator)
    except MemoryError as error:
        raise _bad(file, "its arrays do not fit into the memory that is free") from error
    except (ValueError, TypeError, AttributeError, IndexError) as error:
        raise _bad(file, str(error)) from error
    return estimator


def _check_is_file(path: Path) -> None:
    if path.is_dir():
        heads = sorted(file.name for file in path.glob("heads/*") if file.suffix in _SUFFIXES)
        heads = heads or sorted(file.name for file in path.glob("*.skops"))
        if (path / "results.json").is_file() and heads:
            raise UserError(
                f"{path} is the folder of a run; give one of its heads: "
                f"{', '.join(str(path / 'heads' / name) for name in heads)}"
            )
        written = ""
        if any(path.glob("*.safetensors")) and any(path.glob("*.py")):
            written = " (as export --to torch writes them, with a loader of their own)"
        elif (path / "config.json").is_file():
            written = " (as export --to timm writes them, which timm.create_model opens)"
        raise UserError(f"{path} is a folder{written}, not the file of a head; {WANTED}")
    if not path.is_file():
        raise UserError(f"no head at {path}; {WANTED}")
    what = _PROGRAMS.get(path.suffix.lower())
    if what:
        raise UserError(f"{path} is {what}, not the file of a head; {WANTED}")


_SUFFIXES = (".safetensors", ".skops")


def _bad(path: Path, what: str) -> UserError:
    return UserError(
        f"{path} is not a usable estimator: {what}; export the head again to get a new one"
    )


def estimator_of(head: SavedHead | SavedModel) -> Estimator:
    """Make the fitted estimator of a head that was read."""
    if isinstance(head, SavedModel):
        return HeadEstimator.of(
            head.strategy,
            head.trained,
            head.class_names,
            normalize=head.normalize,
            temperature=head.temperature,
        )
    known = HEADS.get(head.strategy)
    coded = strategy_of(head.strategy).coding if head.strategy in ESTIMATORS else "multinomial"
    if known is None or head.coded != coded:
        raise UserError(
            f"the head is called {head.strategy!r}, with scores of {head.coded}, which this Icebox "
            "has no estimator for; update Icebox, or fit again with this one"
        )
    if is_solved(head.strategy):
        return _solved(head)
    weights = {name: getattr(head, name).astype(np.float64) for name in ("coef", "intercept")}
    trained = LinearTrained.from_state({**weights, "setting": head.setting or {}})
    return HeadEstimator.of(
        head.strategy,
        trained,
        head.class_names,
        normalize=head.normalize,
        temperature=head.temperature,
    )


def _solved(head: SavedHead) -> LinearHeads:
    """Make an estimator of the solver's, with the classes sorted."""
    setting = head.setting or {}
    parameters: dict[str, Any] = {
        "fit_intercept": head.fit_intercept,
        "normalize": head.normalize,
        "C": setting.get("C", 1.0) if head.C is None else head.C,
    }
    k = len(head.class_names)
    names = np.array(head.class_names)
    order = np.argsort(names, kind="stable")
    code = None
    if head.strategy == "ecoc":
        code = code_book(2) if head.code is None else head.code[order]
        if "code_seed" in setting:
            parameters["random_state"] = setting["code_seed"]
        elif head.code is not None:
            parameters["code"] = code.copy()
    estimator = ESTIMATORS[head.strategy](**parameters)
    estimator.classes_, estimator.n_classes_ = names[order], k
    estimator.n_features_in_ = head.n_features
    estimator.head_ = _in_order(head.linear, head.coded, order)
    if code is not None:
        estimator.code_ = np.array(code)
    if head.coded == "ovo" and k > 2 and (np.diff(order) < 0).any():
        estimator.coupled_as_ = order
    estimator.temperature_ = head.temperature
    return estimator


def _in_order(head: Head, coded: str, order: npt.NDArray[np.intp]) -> Head:
    """Put heads in the order of classes of which `order` (n_classes,) holds the old indices."""
    if isinstance(head, PairHead):
        return head.in_order(order)
    coef, intercept = head.coef.astype(np.float64), head.intercept.astype(np.float64)
    if coded == "ecoc" and len(order) > 2:
        return LinearHead(coef, intercept)
    if len(order) > 2 and coded != "ovo":
        return LinearHead(coef[order], intercept[order])
    pairs, signs = reordered_pairs(order)
    return LinearHead(signs[:, None] * coef[pairs], signs * intercept[pairs])


def _check(estimator: Any) -> None:
    """Check that the attributes of an estimator from a file fit; a ``ValueError`` says what not."""
    missing = [name for name in _needed(estimator) if name not in vars(estimator)]
    if missing:
        raise ValueError(f"it has no {', '.join(missing)}")
    classes, width = estimator.classes_, estimator.n_features_in_
    _check_classes(classes)
    if type(width) is not int or width < 1:
        raise ValueError(f"n_features_in_ is {width!r}, expected a number")
    temperature = vars(estimator).get("temperature_")
    if temperature is not None and not (
        isinstance(temperature, float) and math.isfinite(temperature) and temperature > 0
    ):
        raise ValueError(f"temperature_ is {temperature!r}, expected a positive number")
    check_norm(estimator.normalize)
    if isinstance(estimator.normalize, tuple) and sum(estimator.normalize) != width:
        raise ValueError(f"the widths of normalize do not add up to {width} features")
    for name in ("_order", "coupled_as_"):
        order = vars(estimator).get(name, np.arange(len(classes)))
        if not np.array_equal(np.sort(order, axis=None), np.arange(len(classes))):
            raise ValueError(f"{name} is not an order of {len(classes)} classes")
    if isinstance(estimator, HeadEstimator):
        found = estimator.trained_.n_classes, estimator.trained_.n_features
        if found != (len(classes), width):
            raise ValueError(f"the head is of {found[0]} classes and {found[1]} features")
        return
    check_parameters(estimator)
    _check_weights(estimator)


def _check_classes(classes: Any) -> None:
    if not isinstance(classes, np.ndarray) or classes.ndim != 1 or len(classes) < 2:
        raise ValueError("classes_ is not an array of two or more classes")
    kind = classes.dtype.kind
    if kind not in "Uiufb" or not classes.dtype.isnative or not classes.dtype.itemsize:
        raise ValueError(f"classes_ are {classes.dtype}, expected texts or numbers")
    # numpy does not look at the characters of a file, of which Python refuses some later.
    if kind == "U" and np.ascontiguousarray(classes).view(np.uint32).max() > sys.maxunicode:
        raise ValueError("classes_ hold what is no text")
    if not (classes[:-1] <= classes[1:]).all():
        raise ValueError("classes_ are not sorted")


def _needed(estimator: Any) -> Iterable[str]:
    """List the attributes without which an estimator does not answer."""
    yield from estimator._get_param_names()
    yield from ("classes_", "n_features_in_")
    yield "trained_" if isinstance(estimator, HeadEstimator) else "head_"
    if isinstance(estimator, HeadEstimator):
        yield "_order"
    if isinstance(estimator, ErrorCorrectingLogistic):
        yield "code_"


def _check_weights(estimator: LinearHeads) -> None:
    k, width, head = len(estimator.classes_), estimator.n_features_in_, estimator.head_
    if isinstance(estimator, ErrorCorrectingLogistic):
        estimator.code_ = check_code(estimator.code_, k)
    n_heads = estimator._fitted_strategy().n_heads(k)
    shapes = {"coef": (n_heads, width), "intercept": (n_heads,)}
    if isinstance(head, PairHead):
        n = len(head.span)
        shapes = {"span": (n, width), "shift": (width,), "duals": (n, k), "offset": (n_heads,)}
        if head.starts.shape != (k + 1,) or head.starts[0] != 0 or head.starts[-1] != n:
            raise ValueError("starts does not run from 0 to the rows of span")
        if not (np.diff(head.starts) > 0).all() or n_heads != k * (k - 1) // 2 or k < 3:
            raise ValueError("starts does not ascend")
    for name, shape in shapes.items():
        array = getattr(head, name)
        if array.shape != shape or array.dtype.kind != "f" or not np.isfinite(array).all():
            raise ValueError(f"{name} is not of {shape} finite numbers")
