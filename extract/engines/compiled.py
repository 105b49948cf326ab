"""Networks compiled by ``torch.compile``: faster, once tens of seconds have been spent on it."""

from __future__ import annotations

import copy
import os
import shutil
from collections.abc import Callable
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from extract.engines.device import EngineError, OutOfMemoryError, is_out_of_memory
from extract.engines.torch_settings import set_memory_format
from extract.model.backbone import Backbone
from extract.model.features.network import vector_function
from extract.model.silence import silenced

if TYPE_CHECKING:
    import torch

_COMPILERS = ("g++", "clang++", "c++")


def missing_tool(device: torch.device) -> str | None:
    """Say what torch's compiler lacks on this machine; None where it lacks nothing."""
    if device.type == "cuda" and find_spec("triton") is None:
        return "torch.compile needs the package triton, which is not installed"
    if not any(map(shutil.which, (os.environ.get("CXX") or _COMPILERS[0], *_COMPILERS))):
        return "torch.compile needs a C++ compiler, and none is installed (such as g++)"
    return None


def compiled_function(
    backbone: Backbone,
    device: torch.device,
    memory_format: torch.memory_format,
    example: Callable[[Callable[[torch.Tensor], torch.Tensor]], object],
    name: str,
) -> Callable[[torch.Tensor], torch.Tensor]:
    """Compile a network for one batch size, or give what was compiled before."""
    import torch

    if name in backbone.prepared:
        return backbone.prepared[name]
    module: Any = backbone.module
    options: dict[str, Any] = {}
    if device.type == "cpu":
        # A copy: other engines change the memory format of the module itself.
        module, options = copy.deepcopy(module), {"freezing": True}
        set_memory_format(module, memory_format)
    compiled = torch.compile(vector_function(module), dynamic=False, options=options or None)
    try:
        with silenced("torch"):
            example(compiled)
    # Compilers raise whatever the network's own code and the system's compiler make them raise.
    except Exception as error:
        if isinstance(error, RuntimeError) and is_out_of_memory(error):
            raise OutOfMemoryError(str(error)) from error  # of its first batch: a smaller may do
        raise EngineError(f"the network cannot be compiled ({_reason(error)})") from error
    backbone.prepared[name] = compiled
    return compiled


def _reason(error: Exception) -> str:
    """Shorten a compiler's message to its first line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:200]
