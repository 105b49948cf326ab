"""``--to onnx``: one file, from images of any size to probabilities, for onnxruntime."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from data.common.cli import log
from data.common.errors import UserError
from data.common.packages import install_extra

if TYPE_CHECKING:
    from onnxscript import ir

    from extract.exporting.program import Program

# The oldest that has all operators; onnxruntime runs it since version 1.14.
OPSET = 18
OUTPUTS = ("probabilities", "label")
PACKAGES = ("onnx", "onnxscript", "onnxruntime")
FORM_OF_INPUT = "uint8 (n, height, width, 3): RGB, upright, from 0 to 255, all of one size"
# Files of protobuf end at 2 GiB; what is not weights is far below the rest.
_LARGEST = 2**31 - 2**25
_ADVICE = "Give --to torch, or export a head of another network"


def write(program: Program, out: Path) -> None:
    """Write a backbone and its head as one ONNX file."""
    check_installed()
    _check_size(program)
    import torch

    from extract.exporting.tracing import INPUT, name_of, traced

    log(f"tracing {name_of(program)}, which takes a minute for a large network")
    with _plain_attention(program):
        graph = traced(program)
    with _refused(name_of(program)):
        written = torch.onnx.export(
            graph,
            dynamo=True,
            input_names=[INPUT],
            output_names=list(OUTPUTS),
            opset_version=OPSET,
            verbose=False,
        )
    assert written is not None
    model = written.model
    _tidy(model)
    model.metadata_props.update(metadata(program))
    model.producer_name, model.producer_version = "icebox", program.versions["icebox"]
    written.save(out, external_data=False)


def answers(
    path: Path, images: Sequence[str]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Run a file on image files, one after another, with onnxruntime and Pillow alone."""
    from PIL import Image, ImageOps

    check_installed()
    session = _session(path)
    probabilities, labels = [], []
    for name in images:
        with Image.open(name) as picture:
            pixels = np.asarray(ImageOps.exif_transpose(picture).convert("RGB"))
        found = session.run(list(OUTPUTS), {session.get_inputs()[0].name: pixels[None]})
        probabilities.append(found[0])
        labels.append(found[1])
    return np.concatenate(probabilities), np.concatenate(labels)


def check_installed() -> None:
    """Say what to type where a package is missing."""
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if missing:
        raise UserError(
            f"--to onnx: {' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} not "
            f"installed; {install_extra('onnx')} installs what is missing"
        )


def metadata(program: Program) -> dict[str, str]:
    """Describe a program in words that go into the file; lists have an entry a network."""
    networks = program.networks
    content: dict[str, Any] = {
        "class_names": list(program.head.class_names),
        "strategy": program.head.name,
        "temperature": program.head.temperature,
        "input": FORM_OF_INPUT,
        "preprocessing": [one.preprocessing.to_spec() for one in networks],
        "model": [one.name for one in networks],
        "features": [one.features for one in networks],
        "weights_digest": [one.digest for one in networks],
        "weights_license": [one.source.license for one in networks],
        "store_key": program.store_key,
        "icebox_version": program.versions["icebox"],
        "versions": dict(program.versions),
    }
    return {
        name: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        for name, value in content.items()
    }


@contextmanager
def _plain_attention(program: Program) -> Iterator[None]:
    """Have timm's attention write out its products: the fused one has an ONNX form for four axes.

    Hiera's and Twins' have five.
    """
    fused: list[Any] = [
        module
        for network in program.networks
        for module in network.module.modules()
        if getattr(module, "fused_attn", None) is True
    ]
    for module in fused:
        module.fused_attn = False
    try:
        yield
    finally:
        for module in fused:
            module.fused_attn = True


def _check_size(program: Program) -> None:
    tensors = [
        tensor
        for network in program.networks
        for tensor in (*network.module.parameters(), *network.module.buffers())
    ]
    size = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    size += sum(array.nbytes for array in program.head.arrays.values())
    if size > _LARGEST:
        raise UserError(
            f"--to onnx: the weights are {size / 1e9:.1f} GB, and one ONNX file holds 2.1 GB; give "
            "--to torch"
        )


def _tidy(model: ir.Model) -> None:
    """Name the sizes of the input, and take out where on this machine each operation came from."""
    from onnxscript import ir

    from extract.exporting.tracing import AXES

    model.graph.inputs[0].shape = ir.Shape([*AXES, 3])
    for output in model.graph.outputs:
        if output.shape is not None:
            output.shape = ir.Shape([AXES[0], *output.shape[1:]])
    for node in model.graph.all_nodes():
        node.metadata_props.clear()
        node.doc_string = None


@contextmanager
def _refused(name: str) -> Iterator[None]:
    """Turn what the exporter says of an operator into one message, and silence the rest."""
    from torch.onnx.errors import OnnxExporterError

    from extract.exporting.tracing import without_logs

    with without_logs():
        try:
            yield
        except OnnxExporterError as error:
            raise UserError(
                f"{name} cannot be written as ONNX: {_reason(error)}\n{_ADVICE}"
            ) from error


def _reason(error: BaseException) -> str:
    """Find the operator that an error is about, in it or in what caused it."""
    from extract.exporting.tracing import first_line

    said = []
    cause: BaseException | None = error
    while cause is not None:
        said.append(str(cause))
        cause = cause.__cause__
    for pattern in (
        r"No ONNX function found for <OpOverload\(op='([^']+)'",
        r"OpOverload\(op='([^']+)'",
        r"\b((?:aten|torchvision|timm|prims)[.:]+[\w.]+)",
    ):
        for text in reversed(said):
            found = re.search(pattern, text)
            if found:
                return f"there is no ONNX form of the operator {found.group(1)}"
    return first_line(error)


def _session(path: Path) -> Any:
    """Open a file; a `UserError` names the operator that onnxruntime does not have."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's classes have no common one
        found = re.search(r"implementation for (\w+)\(", str(error))
        reason = (
            f"onnxruntime has no kernel for the operator {found.group(1)}" if found else str(error)
        )
        raise UserError(f"onnxruntime cannot run what was written: {reason}\n{_ADVICE}") from error
