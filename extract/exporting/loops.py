"""Loops in torch modules: Python's own, or operators of the graph while a module is exported.

An exported graph has a body once, however often it runs: ``torch.export`` keeps such loops, and
ONNX has ``Loop`` for them.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

State = tuple[torch.Tensor, ...]
# An older torch tells only whether something is compiled, which an export is too.
_exporting: Callable[[], bool] = getattr(
    torch.compiler, "is_exporting", torch.compiler.is_compiling
)


def repeat_while(
    goes_on: Callable[..., torch.Tensor], step: Callable[..., State], state: State
) -> State:
    """Apply a step to a state for as long as a function of it is true.

    A step returns new tensors, in the types and shapes of those that it gets.
    """
    if _exporting():
        from torch._higher_order_ops.while_loop import while_loop

        found: State = while_loop(goes_on, step, state)
        return found
    while bool(goes_on(*state)):
        state = step(*state)
    return state
