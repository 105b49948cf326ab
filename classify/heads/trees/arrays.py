"""Fitted decision trees as plain arrays, whatever library grew them, and their answers.

Arrays outlive scikit-learn's versions, whose trees are read by no other version, and can be checked
whole: an index out of place is refused, where compiled code would follow it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

# Rows that go through a tree together: their components stay in a processor's cache.
_ROWS = 8192
_KINDS = {"feature": "int32", "threshold": "float32", "children": "int32", "values": "float32"}


@dataclass(frozen=True)
class Trees:
    """Trees of one or more ensembles, end to end.

    A row goes to ``children[node, 0]`` where its ``feature[node]`` is at most ``threshold[node]``,
    and to ``children[node, 1]`` otherwise; a number below zero is ``~leaf``.

    Shapes: feature, threshold (n_nodes,), children (n_nodes, 2), values (n_leaves, n_outputs),
    roots (n_trees,), a number as in `children`; bounds (n_ensembles + 1,), the first tree of each.
    """

    feature: npt.NDArray[np.int32]
    threshold: npt.NDArray[np.float32]
    children: npt.NDArray[np.int32]
    values: npt.NDArray[np.float32]
    roots: npt.NDArray[np.int32]
    bounds: npt.NDArray[np.int32]

    @property
    def sizes(self) -> npt.NDArray[np.intp]:
        """Return how many trees each ensemble has, (n_ensembles,)."""
        return np.diff(self.bounds)

    def sums(self, X: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        """Add up what each ensemble's trees say of rows: (n_ensembles, n_rows, n_outputs)."""
        X = np.ascontiguousarray(X, dtype=np.float32)
        found = np.zeros((len(self.sizes), len(X), self.values.shape[1]))
        for low in range(0, len(X), _ROWS):
            block = X[low : low + _ROWS]
            for ensemble, total in enumerate(found):
                for root in self.roots[self.bounds[ensemble] : self.bounds[ensemble + 1]]:
                    total[low : low + _ROWS] += self.values[self._leaves(int(root), block)]
        return found

    def _leaves(self, root: int, X: npt.NDArray[np.float32]) -> npt.NDArray[np.intp]:
        """Find the leaf of each row in one tree."""
        if root < 0:
            return np.full(len(X), ~root, np.intp)
        flat, both = X.reshape(-1), self.children.reshape(-1)
        start = np.arange(len(X)) * X.shape[1]
        nodes = np.full(len(X), root, np.intp)
        leaves, going = np.empty(len(X), np.intp), np.arange(len(X))
        while len(going):
            x = flat.take(start + self.feature.take(nodes))
            # Not `x > threshold`, so that both sides are the same comparison of scikit-learn's.
            right = ~(x <= self.threshold.take(nodes))
            nodes = both.take(2 * nodes + right)
            ended = nodes < 0
            leaves[going[ended]] = ~nodes[ended]
            onward = ~ended
            going, start, nodes = going[onward], start[onward], nodes[onward].astype(np.intp)
        return leaves

    def state(self) -> dict[str, Any]:
        """Return the arrays by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @classmethod
    def from_state(cls, state: Mapping[str, Any], n_features: int) -> Trees:
        """Check every index; a ``ValueError`` says what leads nowhere."""
        trees = cls(**{field.name: state[field.name] for field in fields(cls)})
        n_nodes, n_leaves = len(trees.feature), len(trees.values)
        shapes = {"children": (n_nodes, 2), "values": (n_leaves, trees.values.shape[-1])}
        for field in fields(cls):
            array = getattr(trees, field.name)
            shape = shapes.get(field.name, array.shape[:1])
            if array.shape != shape or array.dtype != _KINDS.get(field.name, "int32"):
                raise ValueError(f"{field.name} of its trees is {array.dtype} {array.shape}")
        own = np.arange(n_nodes)[:, None]
        # Children lie behind their parents, so that no row goes in circles.
        onward = (trees.children < 0) | ((trees.children > own) & (trees.children < n_nodes))
        sound = (
            len(trees.threshold) == n_nodes
            and ((trees.feature >= 0) & (trees.feature < n_features)).all()
            and onward.all()
            and (trees.children >= -n_leaves).all()
            and ((trees.roots >= -n_leaves) & (trees.roots < max(n_nodes, 1))).all()
            and (n_nodes > 0 or (trees.roots < 0).all())
            and len(trees.bounds) > 1
            and trees.bounds[0] == 0
            and trees.bounds[-1] == len(trees.roots)
            and (np.diff(trees.bounds) > 0).all()
        )
        if not sound:
            raise ValueError("its trees have nodes that lead nowhere")
        if np.isnan(trees.threshold).any() or not np.isfinite(trees.values).all():
            raise ValueError("its trees hold NaN or infinite values")
        return trees


class Grown:
    """Trees that are being collected."""

    def __init__(self) -> None:
        self._parts: list[Trees] = []

    def add(self, trees: Sequence[Trees]) -> None:
        """Add an ensemble of trees, which are ensembles of one tree each."""
        one = _end_to_end(trees)
        self._parts.append(
            Trees(
                one.feature, one.threshold, one.children, one.values, one.roots,
                np.array([0, len(one.roots)], np.int32),
            )
        )  # fmt: skip

    def all(self) -> Trees:
        """Return them end to end."""
        return _end_to_end(self._parts)


def one_tree(
    feature: npt.NDArray[Any],
    threshold: npt.NDArray[Any],
    left: npt.NDArray[Any],
    right: npt.NDArray[Any],
    is_leaf: npt.NDArray[np.bool_],
    values: npt.NDArray[Any],
) -> Trees:
    """Turn a tree whose nodes and leaves are numbered together, from 0 for its root, into `Trees`.

    Shapes: all (n_nodes,), values (n_leaves, n_outputs) in the order of the leaves.
    """
    place = np.where(is_leaf, ~(np.cumsum(is_leaf) - 1), np.cumsum(~is_leaf) - 1).astype(np.int32)
    inner = ~is_leaf
    children = np.column_stack([place[left[inner]], place[right[inner]]])
    return Trees(
        feature[inner].astype(np.int32),
        _rounded_down(threshold[inner]),
        children.astype(np.int32),
        values.astype(np.float32),
        place[:1],
        np.array([0, 1], np.int32),
    )


def _rounded_down(threshold: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Round to float32 so that every float32 number stays on its side."""
    exact = threshold.astype(np.float64)
    found = exact.astype(np.float32)
    above = found > exact
    found[above] = np.nextafter(found[above], np.float32(-np.inf))
    return found


def _end_to_end(parts: Sequence[Trees]) -> Trees:
    nodes = np.cumsum([0, *(len(part.feature) for part in parts)])
    leaves = np.cumsum([0, *(len(part.values) for part in parts)])
    n_trees = np.cumsum([0, *(len(part.roots) for part in parts)])

    def moved(numbers: npt.NDArray[np.int32], i: int) -> npt.NDArray[np.int32]:
        return np.where(numbers < 0, numbers - leaves[i], numbers + nodes[i]).astype(np.int32)

    bounds = [part.bounds[1:] + n_trees[i] for i, part in enumerate(parts)]
    return Trees(
        np.concatenate([part.feature for part in parts]),
        np.concatenate([part.threshold for part in parts]),
        np.concatenate([moved(part.children, i) for i, part in enumerate(parts)]),
        np.concatenate([part.values for part in parts]),
        np.concatenate([moved(part.roots, i) for i, part in enumerate(parts)]),
        np.concatenate([[0], *bounds]).astype(np.int32),
    )
