"""A CUDA device that is pretended: tensors with a device and a shape and no numbers.

torch's fake tensors refuse what mixes devices, as the device itself would, and need none. Numbers
that the host asks for are made up.
"""

from __future__ import annotations

from contextlib import contextmanager

import numpy as np
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import _disable_current_modes


class _MadeUp:
    """What ``tensor.cpu()`` gives: small numbers of its shape."""

    def __init__(self, tensor):
        self._tensor = tensor

    def numpy(self):
        dtype = np.dtype(str(self._tensor.dtype).removeprefix("torch."))
        rng = np.random.default_rng(0)
        return (1e-3 * rng.random(tuple(self._tensor.shape))).astype(dtype)


@contextmanager
def pretended_device(monkeypatch):
    """Give what turns a tensor into one on the device; arrays are sent there by the code itself."""
    mode, from_numpy = FakeTensorMode(), torch.from_numpy
    monkeypatch.setattr(torch, "from_numpy", lambda array: mode.from_tensor(from_numpy(array)))
    monkeypatch.setattr(torch.Tensor, "cpu", lambda self: _MadeUp(self))
    # Of made-up numbers: no factor has failed, and a sum of weights is some rows.
    monkeypatch.setattr(torch.Tensor, "__bool__", lambda self: False)
    monkeypatch.setattr(torch.Tensor, "__float__", lambda self: 100.0)
    monkeypatch.setattr(torch.Tensor, "__int__", lambda self: 0)

    def send(tensor):
        with _disable_current_modes():
            tensor = tensor.detach().clone()
        return mode.from_tensor(tensor).to(torch.device("cuda", 0))

    with mode:
        yield send
