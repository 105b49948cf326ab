"""Networks converted to OpenVINO, for CPUs; the package is the extra ``cpu``."""

from __future__ import annotations

import math
import sys
from typing import TYPE_CHECKING, Any

import numpy as np

from extract.engines.constants import OPENVINO_PART
from extract.engines.device import EngineError
from extract.model.backbone import Backbone, embed_normalised
from extract.model.silence import silenced

if TYPE_CHECKING:
    import torch

    from extract.engines.device import Network

_HINTS = {"fp32": "f32", "bf16": "bf16"}


def without_telemetry() -> Any:
    """Import OpenVINO with its own stand-in for the package that reports each use to its makers.

    That package asks for the home folder when OpenVINO is imported, and fails where there is none;
    and what a user computes is nobody else's business.
    """
    name = "openvino_telemetry"
    missing = object()
    before: Any = sys.modules.get(name, missing)
    if "openvino" not in sys.modules:
        sys.modules[name] = None  # type: ignore[assignment]  # an import of it fails
    try:
        import openvino
    finally:
        if before is missing:
            sys.modules.pop(name, None)
        else:
            sys.modules[name] = before
    return openvino


def computes_in(precision: str) -> bool:
    """Tell whether OpenVINO multiplies in this precision on this processor.

    Asked for another one it would go on in float32 without a word, and the store's key would
    name a precision that its rows do not have.
    """
    openvino = without_telemetry()
    if precision not in _HINTS:
        return False
    able = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return {"f32": "FP32", "bf16": "BF16"}[_HINTS[precision]] in able


def compile_network(backbone: Backbone, precision: str, batch_size: int) -> Network:
    """Convert a network, once, and compile it for one batch size.

    A batch is cut into parts of a few images, whose activations stay in a core's cache; the threads
    take parts, not shares of every layer, so that they do not wait for each other.
    """
    import torch

    if not backbone.n_parameters:
        # Its output of a mere change of shape is its input's memory, and reading that crashed.
        raise EngineError(f"{backbone.name} computes nothing")
    openvino = without_telemetry()
    size = backbone.preprocessing.size
    part, threads = math.gcd(batch_size, OPENVINO_PART), torch.get_num_threads()
    starts = range(0, batch_size, part)
    try:
        converted = _converted(backbone, part).clone()
        converted.reshape([part, 3, *size])
        compiled = openvino.Core().compile_model(
            converted,
            "CPU",
            {
                "INFERENCE_PRECISION_HINT": _HINTS[precision],
                "INFERENCE_NUM_THREADS": threads,
                "NUM_STREAMS": min(threads, len(starts)),
            },
        )
        requests = [compiled.create_infer_request() for _ in starts]
    # Exporters raise whatever the network's own code makes them raise.
    except Exception as error:
        raise EngineError(f"the network cannot be converted ({_reason(error)})") from error

    def run(images: torch.Tensor) -> torch.Tensor:
        whole = images.contiguous().numpy()
        for request, start in zip(requests, starts, strict=True):
            request.start_async([whole[start : start + part]], share_inputs=True)
        for request in requests:
            request.wait()
        return torch.from_numpy(
            np.concatenate([request.get_output_tensor().data for request in requests])
        )

    return run


def _reason(error: Exception) -> str:
    """Find the one line of an exporter's long message that names the trouble."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    named = [line.strip("- ") for line in lines if "No conversion rule" in line]
    return (named or lines)[0][:200]


def _converted(backbone: Backbone, batch_size: int) -> Any:
    """Convert for one number of images, once."""
    name = f"openvino-{batch_size}"
    if name not in backbone.prepared:
        backbone.prepared[name] = _convert(backbone, batch_size)
    return backbone.prepared[name]


def _convert(backbone: Backbone, batch_size: int) -> Any:
    """Record the network and convert it: by torch's tracer, or else by its exporter.

    Both give the same network. Of tf_efficientnet_lite0 the tracer's is converted in 1 second of
    a processor's time and the exporter's in 7, as long as 1,000 images take; but torch gives the
    tracer up one day, and it cannot follow every network.
    """
    import torch
    from torch import nn

    openvino = without_telemetry()

    class Embedding(nn.Module):
        """The network's vector as the output of ``forward``, which is what is recorded."""

        def __init__(self) -> None:
            super().__init__()
            self.network = backbone.module

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return embed_normalised(self.network, images)

    module = Embedding().eval()
    example = torch.zeros(batch_size, 3, *backbone.preprocessing.size)
    with silenced("torch", "openvino", "transformers"):
        try:
            with torch.no_grad():
                traced = torch.jit.trace(module, example, check_trace=False)
            return openvino.convert_model(traced, example_input=example)
        except Exception:  # whatever the network's own code makes them raise
            return openvino.convert_model(torch.export.export(module, (example,)))
