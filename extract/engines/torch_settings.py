"""Settings of torch that belong to the process: changed for a block, and put back after it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import nn


class _FullPrecision:
    """Turns TF32 off; of blocks that run at the same time the last one out puts it back."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._depth = 0
        self._undo: list[Callable[[], None]] = []

    def __enter__(self) -> None:
        with self._lock:
            if self._depth == 0:
                self._undo = [_exact_products(), _exact_convolutions()]
            self._depth += 1

    def __exit__(self, *exc: object) -> None:
        with self._lock:
            self._depth -= 1
            while self._depth == 0 and self._undo:
                self._undo.pop()()


def _exact_products() -> Callable[[], None]:
    """Turn TF32 off for matrix products, and return what puts the setting back."""
    import torch

    matmul = torch.backends.cuda.matmul
    if not hasattr(matmul, "fp32_precision"):  # torch before 2.9
        allowed, matmul.allow_tf32 = matmul.allow_tf32, False
        return lambda: setattr(matmul, "allow_tf32", allowed)
    try:
        general = torch.get_float32_matmul_precision()
    except RuntimeError:  # it was set in one of torch's other two ways
        general = "highest"
    saved = matmul.fp32_precision
    if general != "highest":  # torch's compiler reads this one
        torch.set_float32_matmul_precision("highest")
    matmul.fp32_precision = "ieee"

    def undo() -> None:
        if general != "highest":
            torch.set_float32_matmul_precision(general)
        matmul.fp32_precision = saved

    return undo


def _exact_convolutions() -> Callable[[], None]:
    """Turn TF32 off for convolutions, and return what puts the setting back."""
    import torch

    cudnn = torch.backends.cudnn
    # torch 2.9 has the setting in two forms, and refuses to read the old one after the new is set.
    named: list[Any] = [getattr(cudnn, name, None) for name in ("conv", "rnn")]
    parts = [part for part in named if hasattr(part, "fp32_precision")]
    saved = [part.fp32_precision for part in parts]
    try:
        allowed = cudnn.allow_tf32
        cudnn.allow_tf32 = False  # torch's compiler reads this one
    except RuntimeError:
        allowed = None
    if "tf32" in (part.fp32_precision for part in parts):
        for part in parts:
            part.fp32_precision = "ieee"

    def undo() -> None:
        if allowed is not None:
            cudnn.allow_tf32 = allowed
        for part, precision in zip(parts, saved, strict=True):
            part.fp32_precision = precision

    return undo


# Lower-precision products are asked for with --precision, not slipped in.
full_precision = _FullPrecision()


@contextmanager
def using_threads(count: int) -> Iterator[None]:
    """Let torch compute in so many threads, for a while."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def set_memory_format(module: nn.Module, memory_format: torch.memory_format) -> None:
    """Bring what has four axes into a memory format: there is none of these for other tensors.

    ``module.to(memory_format=...)`` fails for a network that has a convolution over volumes, too.
    """
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.ndim == 4:
            tensor.data = tensor.data.to(memory_format=memory_format)
