"""Shape of the results.json of a run, as `data.common.shapes` reads shapes."""

from __future__ import annotations

from classify.results.binary_shape import BINARY

_Number = (int, float)
_Maybe = (int, float, None)
_PER_CLASS = {"precision": _Number, "recall": _Number, "f1": _Number, "support": int}
_TEST = {
    "n": int,
    "accuracy": _Number,
    "accuracy_ci95": [_Number],
    "balanced_accuracy": _Number,
    "macro_f1": _Number,
    "log_loss": _Maybe,
    "brier": _Maybe,
    "ece": _Maybe,
    "top2_accuracy": _Number,
    "per_class": {"*": _PER_CLASS},
    "confusion_matrix": [[int]],
}
_JUDGED = {
    "log_loss": _Maybe,
    "ece": _Number,
    "bins": [{"n": int, "confidence": _Number, "accuracy": _Number}],
}
_EXAMPLE = {"row": int, "id": str, "truth": int, "answer": int, "margin": _Number}
_PAIR = {
    "a": int,
    "b": int,
    "accuracy": _Number,
    "n": int,
    "errors": int,
    "a_as_b": int,
    "b_as_a": int,
    "converged?": bool,
    "examples": [_EXAMPLE],
}
_SHARE = {"accuracy": _Number, "accuracy_ci95": [_Number], "converged?": bool}
# A question mark: what runs of before it do not have, or what makes no sense for some runs.
CERTIFICATE = {"grad_norm": _Maybe, "objective": _Maybe, "gap_bound": _Maybe}
_STEP = {
    "C": _Maybe,
    "setting?": dict,
    "accuracy": _Maybe,
    "log_loss": _Maybe,
    "converged?": bool,
}
_STRATEGY = {
    "C": _Maybe,
    "setting?": dict,
    "n_problems": int,
    "fit_seconds": _Number,
    "predict_seconds?": _Number,
    "n_iter": (int, None),
    "converged": bool,
    "certificate": (dict, None),
    "notes?": {
        "curves?": {
            "loss": [_Number],
            "accuracy": [_Number],
            "validation_loss": [_Number],
            "validation_accuracy": [_Number],
        }
    },
    "saved?": {"file": str, "linear": bool, "bytes": int},
    "validation": [_STEP],
    "validation_not_visited": [_Number],
    "test": _TEST,
    "never_answered?": [str],
    "calibration?": {
        "temperature": _Maybe,
        "n_validation": int,
        "converged?": bool,
        "before": _JUDGED,
        "after?": _JUDGED,
    },
    "binary?": BINARY,
    "course?": {"classes": [int], "relative_gaps": [_Number]},
    "pairs?": {"classes": [int], "accuracy": [[_Maybe]], "hardest": [_PAIR]},
    "detection?": {
        "classes": [
            {"class": int, "auc": _Number, "average_precision": _Number, "converged?": bool}
        ],
        "false_alarms": [_Number],
        "curves": [[_Number]],
    },
}
_VIEW = {"points": [[_Number]], "explained": [_Number]}
_COMPARISON = {
    "a": str,
    "b": str,
    "accuracy_difference": _Number,
    "difference_ci95": [_Number],
    "mcnemar_p": _Number,
    "mcnemar_p_holm": _Number,
    "mcnemar_p_adjusted?": _Number,
    "n_tests?": int,
    "both_right": int,
    "only_a_right": int,
    "only_b_right": int,
    "both_wrong": int,
    "agreement": _Number,
    "detectable_difference": _Maybe,
    "test_rows_needed?": int,
    "n_groups?": (int, None),
    "group_differences?": [[_Number]],
    "significant": bool,
    "converged": bool,
    "verdict": str,
}
_POINT = {
    "per_class": (int, None),
    "n_train": int,
    "accuracies": [_Number],
    "converged?": [bool],
    "mean": _Number,
    "ci95": (list, None),
}
_SHARED = {"a": str, "b": str, "n": int, "n_rows": int, "first": [str]}
_PICTURE = {
    "id": str,
    "truth": str,
    "answers": {"*": {"class": str, "probability": _Number, "right": bool}},
}
RUN = {
    "kind": str,
    "store": {"path": str, "key": str, "spec": dict, "provenance": dict},
    "seed": int,
    "command": str,
    "settings": dict,
    "class_names": [str],
    "n_train": int,
    "n_validation?": int,
    "n_test": int,
    "splits?": {
        "groups": ({"*": int}, None),
        "shared_groups": ([_SHARED], None),
        "shared_images": ([_SHARED], None),
    },
    "interval_method?": str,
    "n_features": int,
    "environment": dict,
    "strategies": {"*": _STRATEGY},
    "comparisons": [_COMPARISON],
    "comparison_method?": str,
    "one_problem?": bool,
    "majority?": {"class": str, "train_share": _Number, "test_accuracy": _Number},
    "verdict": str,
    "warnings": [str],
    "timings": dict,
    "class_order?": [int],
    "decoding?": [{"way": str, "temperature": _Maybe, "log_loss": _Maybe, **_SHARE}],
    "own_c?": {"*": {"C": [_Number], **_SHARE}},
    "views?": {
        "n_fitted": int,
        "rows": [int],
        "labels": [int],
        "pca": _VIEW,
        "lda": {"components": int, **_VIEW},
    },
    "few_shot?": {
        "draws": int,
        "level": _Number,
        "near": _Number,
        "curves": {"*": [_POINT]},
        "enough": {"*": (int, None)},
        "left_out": [int],
        "notes?": [str],
    },
    "numerics?": {
        "stored": str,
        "cases": [{"features": str, "against": str, "n": int, "flips": {"*": int}}],
    },
    "images?": {
        "disagreements": [_PICTURE],
        "confident_errors": [_PICTURE],
        "n_disagreements": int,
        "thumbnails": {"*": str},
        "missing": str,
    },
}
