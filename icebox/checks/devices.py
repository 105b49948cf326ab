"""torch, OpenVINO, and the devices that they find."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data.common.packages import package_version
from icebox.checks.finding import FAILURE, NOTE, OK, WARNING, Finding
from icebox.checks.probes import OPENVINO, TORCH, Probe
from icebox.checks.requirements import Installation
from icebox.checks.what_to_type import install_all, install_extra
from icebox.inventory.words import count_words, size_words

OTHER_TORCH = "https://pytorch.org/get-started/locally says what installs another build"
# What NVIDIA's driver makes, whether torch finds the device or not.
DRIVER = Path("/dev/nvidiactl")


def start_probe(module: str, code: str) -> Probe | None:
    """Start asking a library; None where it is not installed."""
    try:
        found = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        found = None
    return None if found is None else Probe(code)


def start_torch() -> Probe | None:
    """Start importing torch in a process of its own."""
    return start_probe("torch", TORCH)


def start_openvino() -> Probe | None:
    """Start importing OpenVINO in a process of its own."""
    return start_probe("openvino", OPENVINO)


def check_torch(probe: Probe | None, installation: Installation) -> Iterator[Finding]:
    """Say which torch there is, and which devices it finds."""
    again = f"type: {install_all(installation)}"
    if probe is None:
        yield Finding(
            "torch", FAILURE, "not installed: stage one, predict and heads on a device need it",
            (again,), {"version": None},
        )  # fmt: skip
        return
    found, problem = probe.answer()
    if problem:
        version = package_version("torch")
        yield Finding(
            "torch", FAILURE, f"{version or ''} cannot be used: {problem}".lstrip(),
            (f"{again}, or another build ({OTHER_TORCH})",),
            {"version": version, "problem": problem},
        )  # fmt: skip
        return
    cuda, rocm = found["cuda_build"], found["rocm_build"]
    build = f"built for CUDA {cuda}" if cuda else f"built for ROCm {rocm}" if rocm else ""
    text = f"{found['version']}, {build or 'built for CPUs alone'}, "
    text += f"computes in {count_words(found['threads'], 'thread')}"
    if found["capability"]:
        text += f" ({found['capability']})"
    yield Finding(
        "torch",
        OK,
        text,
        values={"version": found["version"], "cuda_build": cuda, "threads": found["threads"]},
    )
    yield from _check_cuda(found, bool(build))
    if found["mps"]:
        text = "there, and not used by Icebox: networks run on the CPU"
        yield Finding("mps", NOTE, text, values={"available": True})


def _check_cuda(found: dict[str, Any], built: bool) -> Iterator[Finding]:
    driver = os.path.lexists(DRIVER)
    for number, device in enumerate(found["cuda"]):
        if "problem" in device:
            yield Finding(
                "cuda", WARNING, f"cuda:{number} {device['name']}: {device['problem']}",
                values=device,
            )  # fmt: skip
            continue
        room = f"{size_words(device['free'])} free of {size_words(device['total'])}"
        crowded = device["free"] < 0.2 * device["total"]
        yield Finding(
            "cuda",
            WARNING if crowded else OK,
            f"cuda:{number} {device['name']}, {room}",
            ("other programs hold the memory: nvidia-smi lists them",) if crowded else (),
            device,
        )
    if found["cuda"]:
        return
    problem = found.get("cuda_problem")
    if problem:
        yield Finding("cuda", WARNING, f"no device can be used: {problem}")
    elif driver and not built:
        yield Finding(
            "cuda", WARNING, "a driver is there, and this torch is built without CUDA",
            (OTHER_TORCH,),
        )  # fmt: skip
    elif driver:
        why = "CUDA_VISIBLE_DEVICES is " + repr(os.environ.get("CUDA_VISIBLE_DEVICES", ""))
        hint = why if "CUDA_VISIBLE_DEVICES" in os.environ else "nvidia-smi may say why"
        yield Finding("cuda", WARNING, f"a driver is there, and torch finds no device ({hint})")
    else:
        yield Finding("cuda", NOTE, "no device: networks run on the CPU", values={"devices": 0})


def check_openvino(
    probe: Probe | None, installation: Installation, gpu: bool = False
) -> Iterator[Finding]:
    """Say whether the fastest engine of most CPUs is there."""
    command = f"type: {install_extra(installation, 'cpu')}"
    if probe is None:
        yield Finding(
            "openvino", NOTE, "not installed; on most CPUs the fastest engine",
            () if gpu else (command,), {"version": None},
        )  # fmt: skip
        return
    found, problem = probe.answer()
    if problem:
        version = package_version("openvino")
        yield Finding(
            "openvino", WARNING, f"{version or ''} cannot be used: {problem}".lstrip(),
            (f"stage one runs on torch alone; {command}",),
            {"version": version, "problem": problem},
        )  # fmt: skip
        return
    version = str(found["version"]).partition("-")[0]
    devices = ", ".join(f"{one['name']} ({one['full_name']})" for one in found["devices"])
    yield Finding(
        "openvino",
        OK if devices else WARNING,
        f"{version}, {devices or 'finds no device'}",
        values={"version": version, "devices": found["devices"]},
    )
