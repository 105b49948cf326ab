"""Where the network runs: the device, its precision and the libraries, as they decide last bits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from extract.engines.build import check_engine
from extract.engines.device import (
    choose_device,
    choose_precision,
    device_name,
    openvino_version,
)


@dataclass(frozen=True)
class Device:
    """Where a run takes place, in this process or in a cluster's worker."""

    address: str  # as torch names it: ``cpu``, ``cuda:0``
    name: str  # what decides the last bits: the GPU's name, or the CPU's instruction set
    precision: str  # fp32, bf16 or fp16: of the network's products
    torch: str  # its version
    openvino: str | None  # its version, where it is installed
    threads: int  # torch's threads
    count: int  # GPUs; 0 for a CPU

    @property
    def kind(self) -> str:
        """``cpu`` or ``cuda``."""
        return self.address.partition(":")[0]

    @property
    def torch_device(self) -> Any:
        """The same as a ``torch.device``; it may be one that is not in this machine."""
        import torch

        return torch.device(self.address)


def find_device(option: str, precision: str, engine: str) -> Device:
    """Settle device and precision of a run in this process; the engine must run there."""
    import torch

    chosen = choose_device(option)
    settled = choose_precision(precision, chosen)
    check_engine(engine, chosen, settled)
    return Device(
        address=str(chosen),
        name=device_name(chosen),
        precision=settled,
        torch=torch.__version__,
        openvino=openvino_version(),
        threads=torch.get_num_threads(),
        count=torch.cuda.device_count() if chosen.type == "cuda" else 0,
    )
