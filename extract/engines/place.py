"""Where the network runs: the device, its precision and the libraries, as they decide last bits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Place:
    """The device of a run, in this process or in a cluster's worker."""

    device: str  # as torch names it: ``cpu``, ``cuda:0``
    name: str  # what decides the last bits: the GPU's name, or the CPU's instruction set
    precision: str  # fp32, bf16 or fp16: of the network's products
    torch: str  # its version
    openvino: str | None  # its version, where it is installed
    threads: int  # torch's threads
    devices: int  # GPUs; 0 for a CPU

    @property
    def torch_device(self) -> Any:
        """The same as a ``torch.device``; it may be one that is not in this machine."""
        import torch

        return torch.device(self.device)


def find_place(device: str, precision: str, engine: str) -> Place:
    """Settle the device and the precision of a run in this process."""
    import torch

    from extract.engines.build import check_engine
    from extract.engines.device import (
        choose_device,
        choose_precision,
        device_name,
        openvino_version,
    )

    chosen = choose_device(device)
    settled = choose_precision(precision, chosen)
    check_engine(engine, chosen, settled)
    return Place(
        device=str(chosen),
        name=device_name(chosen),
        precision=settled,
        torch=torch.__version__,
        openvino=openvino_version(),
        threads=torch.get_num_threads(),
        devices=torch.cuda.device_count() if chosen.type == "cuda" else 0,
    )
