"""Networks without weights: their shapes, names and modules alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any


@contextmanager
def without_weights() -> Iterator[None]:
    """Let what is built in the block have shapes and types, and no numbers.

    On torch's meta device nothing is stored. Drawing first weights there goes through torch's
    formulas in Python, three quarters of the time for a transformer, so it is left out as well.
    """
    import torch

    with torch.device("meta"), _undrawn()():
        yield


@cache
def _undrawn() -> Callable[[], Any]:
    """Make the mode in which what fills a tensor in place leaves one on the meta device alone."""
    from torch import Tensor
    from torch.overrides import TorchFunctionMode

    names = "uniform_ normal_ fill_ zero_ mul_ add_ sub_ div_ erfinv_ clamp_ bernoulli_"
    filling = {getattr(Tensor, name) for name in names.split()}

    class Undrawn(TorchFunctionMode):
        def __torch_function__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            if func in filling and args and args[0].is_meta:
                return args[0]
            return func(*args, **(kwargs or {}))

    return Undrawn
