"""The heads that ``--head`` names, one line each; their modules are loaded when asked for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from importlib import import_module
from typing import Any, NamedTuple

from data.common.errors import UserError


class Entry(NamedTuple):
    """How a head is called in text for people, and where it is defined."""

    title: str
    # ``module:Class`` of a `HeadKind`; empty for what the solver fits along a path of C
    kind: str = ""
    # Heads that are one and the same problem where there are two classes
    family: str = ""


_TREES = "classify.heads.trees.heads:TreesKind"

HEADS: dict[str, Entry] = {
    "multinomial": Entry("multinomial", family="logistic"),
    "ovr": Entry("OvR", family="logistic"),
    "ovo": Entry("OvO", family="logistic"),
    "svm-ovr": Entry("SVM OvR", family="svm"),
    "svm-ovo": Entry("SVM OvO", family="svm"),
    "ecoc": Entry("ECOC", family="logistic"),
    "ridge": Entry("ridge", "classify.heads.ridge:Ridge"),
    "lda": Entry("LDA", "classify.heads.lda:Lda"),
    "nearest-mean": Entry("nearest mean", "classify.heads.nearest_mean:NearestMean"),
    "knn": Entry("k-NN", "classify.heads.knn:Knn"),
    "tree": Entry("decision tree", _TREES, family="tree"),
    "tree-ovr": Entry("decision tree OvR", _TREES, family="tree"),
    "tree-ovo": Entry("decision tree OvO", _TREES, family="tree"),
    "forest": Entry("random forest", _TREES, family="forest"),
    "forest-ovr": Entry("random forest OvR", _TREES, family="forest"),
    "forest-ovo": Entry("random forest OvO", _TREES, family="forest"),
    "boosting": Entry("gradient boosting", _TREES, family="boosting"),
    "boosting-ovr": Entry("gradient boosting OvR", _TREES, family="boosting"),
    "boosting-ovo": Entry("gradient boosting OvO", _TREES, family="boosting"),
    "mlp": Entry("MLP", "classify.heads.mlp.head:Mlp"),
}
# What is fitted where no head is named.
DEFAULT = ("multinomial", "ovr", "ovo")


def is_solved(name: str) -> bool:
    """Tell whether the solver fits a head, along a path of C."""
    return not HEADS[name].kind


def distinct(names: Iterable[str], n_classes: int) -> list[str]:
    """Leave out heads that solve the problem of an earlier one, which those of two classes do."""
    found: dict[str, str] = {}
    for name in names:
        family = HEADS[name].family if name in HEADS and n_classes == 2 else ""
        found.setdefault(family or name, name)
    return list(found.values())


def head_kind(name: str) -> Any:
    """Load a head that the solver does not fit: a `classify.heads.interface.HeadKind`."""
    module, _, kind = HEADS[name].kind.partition(":")
    return getattr(import_module(module), kind)(name)


def check_solver_options(given: Sequence[str], heads: Sequence[str]) -> str:
    """Refuse options that change only what the solver fits where it fits no head.

    Returns a sentence about the heads that they say nothing of, where there are both kinds.
    """
    others = [name for name in heads if not is_solved(name)]
    if not given or not others:
        return ""
    options = " and ".join(given)
    if len(others) == len(heads):
        solved = ", ".join(filter(is_solved, HEADS))
        raise UserError(
            f"{options}: only heads of the solver have that ({solved}), and --head asks for "
            f"{', '.join(others)}; leave it out, or add one of those heads"
        )
    return f"no effect on {', '.join(others)}: {options}"
