"""Loops in torch modules: Python's own, or operators of the graph while a module is exported.

An exported graph has a body once, however often it runs: ``torch.export`` keeps such loops, and
ONNX has ``Loop`` and ``Scan`` for them.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

State = tuple[torch.Tensor, ...]


def repeat_while(
    goes_on: Callable[..., torch.Tensor], step: Callable[..., State], state: State
) -> State:
    """Apply a step to a state for as long as a function of it is true.

    A step returns new tensors, in the types and shapes of those that it gets.
    """
    if torch.compiler.is_exporting():
        from torch._higher_order_ops.while_loop import while_loop

        found: State = while_loop(goes_on, step, state)
        return found
    while bool(goes_on(*state)):
        state = step(*state)
    return state


def scan(
    step: Callable[[State, State], tuple[State, State]], state: State, items: State
) -> tuple[State, State]:
    """Apply a step to a state and to one slice of the items after the other, along the first axis.

    A step returns the new state and what is to be stacked; neither may be what it got. There is
    one slice at least.
    """
    if torch.compiler.is_exporting():
        from torch._higher_order_ops.scan import scan as in_graph

        found: tuple[State, State] = in_graph(step, state, items)
        return found
    rows = []
    for slices in zip(*items, strict=True):
        state, row = step(state, slices)
        rows.append(row)
    return state, tuple(torch.stack(column) for column in zip(*rows, strict=True))
