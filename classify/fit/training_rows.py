"""The rows of a store that heads are fitted to, and why a store cannot be fitted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from classify.records import TrainingRows
from classify.saved.parts import head_parts, norm_of_parts
from classify.solver.out_of_core import is_source
from classify.solver.row_norms import Norm
from data.common.errors import UserError
from data.format.stored_rows import StackedRows

if TYPE_CHECKING:
    from data.format.records import Features, FeatureSplit


def usable(X: Any) -> Any:
    """Convert half precision, which is for storage, to single."""
    return X.astype(np.float32) if X.dtype == np.float16 else X


def norm_of(features: Features, norm: Norm) -> Norm:
    """Settle what rows are divided by: of a sum, each store's part of a row by its own norm."""
    return norm_of_parts(norm, head_parts(features))


def training_rows(features: Features) -> TrainingRows:
    """Put the validation split, where there is one, after the training split."""
    train, more = features.train, features.validation
    if more is None or not len(more):
        X = usable(train.features)
        return TrainingRows(X, train.labels, train.groups, train.weights, 0)
    return TrainingRows(
        _stacked(train.features, more.features),
        np.concatenate([train.labels, more.labels]),
        _joined_groups(train, more),
        _joined_weights(train, more),
        len(more),
    )


def _stacked(first: Any, second: Any) -> Any:
    if is_source(first):
        return StackedRows((first, second))
    return np.concatenate([usable(first), usable(second)])


def _joined_groups(train: FeatureSplit, more: FeatureSplit) -> npt.NDArray[np.int64] | None:
    """Join the splits' groups; rows of a split without them are groups of their own."""
    if train.groups is None and more.groups is None:
        return None
    free, parts = 0, []
    for split in (train, more):
        if split.groups is not None:
            free = max(free, int(split.groups.max(initial=-1)) + 1)
    for split in (train, more):
        if split.groups is None:
            parts.append(np.arange(free, free + len(split)))
        else:
            parts.append(split.groups)
    return np.concatenate(parts)


def _joined_weights(train: FeatureSplit, more: FeatureSplit) -> npt.NDArray[np.float64] | None:
    if train.weights is None and more.weights is None:
        return None
    return np.concatenate(
        [np.ones(len(split)) if split.weights is None else split.weights for split in (train, more)]
    )


def check_classes(features: Features) -> None:
    """Refuse a store whose classes or splits leave nothing to fit, or nothing to judge."""
    names = features.class_names
    if any(not name.strip() for name in names):
        raise UserError(
            f"{features.path} has a class whose name is empty; name it and run stage one again"
        )
    repeated = {name for name in names if list(names).count(name) > 1}
    if repeated:
        raise UserError(
            f"{features.path} has several classes called {sorted(repeated)[0]!r}; "
            "rename them and run stage one again"
        )
    present = np.unique(features.train.labels)
    if len(present) < 2:
        raise UserError(
            f"the training rows of {features.path} hold {len(present)} class of {len(names)}; "
            "a classifier needs two or more: use more images or a larger --limit in stage one"
        )
    if not len(features.test.labels):
        raise UserError(f"{features.path} has no test rows; run stage one with a test split")
    _check_weights(features)
    _check_validation(features, present)


def _check_weights(features: Features) -> None:
    """Refuse weights that leave a class, or a split, without any."""
    train = features.train
    if train.weights is not None:
        weighed = np.unique(train.labels[train.weights > 0])
        lost = [features.class_names[i] for i in np.setdiff1d(train.labels, weighed)]
        if lost:
            more = f" and {len(lost) - 3} more" if len(lost) > 3 else ""
            raise UserError(
                f"{features.path}: every training row of {', '.join(lost[:3])}{more} has the "
                "weight 0, so the class cannot be learned; give its rows weights above 0, or run "
                "stage one with --drop-class"
            )
    for name in ("validation", "test"):
        split = getattr(features, name)
        if split is not None and split.weights is not None and not split.weights.any():
            raise UserError(
                f"{features.path}: every {name} row has the weight 0, so nothing can be judged; "
                "give rows weights above 0 and run stage one again"
            )


def _check_validation(features: Features, trained: npt.NDArray[np.int64]) -> None:
    """Refuse a validation split that cannot choose anything."""
    split = features.validation
    if split is None or not len(split):
        return
    labels = split.labels if split.weights is None else split.labels[split.weights > 0]
    found = np.unique(labels)
    strange = [features.class_names[i] for i in np.setdiff1d(found, trained)]
    if strange:
        n = int(np.count_nonzero(split.labels == features.class_names.index(strange[0])))
        raise UserError(
            f"{features.path}: the class {strange[0]!r} has {n} validation "
            f"{'row' if n == 1 else 'rows'} and no training rows; move some into the training "
            "split, or leave the class out (--drop-class in stage one)"
        )
    if len(found) < 2:
        raise UserError(
            f"the validation rows of {features.path} hold 1 class of {len(features.class_names)} "
            f"({features.class_names[found[0]]}), so nothing can be chosen on them; add rows of "
            "other classes, or call them training rows in stage one"
        )
