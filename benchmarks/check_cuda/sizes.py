"""How much each part does: on a device, and in a rehearsal on the CPU."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Network:
    """A network of stage one; its weights are random."""

    name: str  # timm's
    size: int  # side of its input
    images: int  # that its rate is measured with


@dataclass(frozen=True)
class Sizes:
    """Everything that is smaller in a rehearsal."""

    networks: tuple[Network, ...]
    precision: str  # the one that a run on the device chooses
    engine: str  # that is compared with the network alone
    dataset: str  # whose images are embedded for a rate: made ones of CIFAR's size, or ``digits``
    rows: int  # images whose rows are compared
    batches: tuple[int, ...]
    rate_batch: int
    features: tuple[int, int, int]  # rows, columns and classes
    many: tuple[int, int, int]  # the same, of ImageNet's shape
    grid: tuple[float, ...] | None  # of the path of C; None for the usual one
    repeats: int
    jpegs: int
    fault_network: Network
    fault_memory: int  # bytes in which a batch of that network does not fit, but one image does
    killed_network: Network
    faults: tuple[str, ...]
    tests: tuple[str, ...] | None = None  # files of tests; None for all those with marked ones
    marker: str = "gpu"


NETWORKS = (
    Network("resnet50", 224, 40_000),
    Network("vit_small_patch14_reg4_dinov2", 224, 40_000),
    Network("vit_base_patch16_224", 224, 20_000),
    Network("tf_efficientnet_lite0", 224, 60_000),
)
FULL = Sizes(
    networks=NETWORKS,
    precision="bf16",
    engine="compiled",
    dataset="made",
    rows=128,
    batches=(1, 7, 64, 256),
    rate_batch=256,
    features=(50_000, 1280, 10),
    many=(1_281_167, 768, 1000),
    grid=None,
    repeats=3,
    jpegs=512,
    fault_network=NETWORKS[0],
    fault_memory=1_000_000_000,
    killed_network=NETWORKS[2],
    faults=("batch", "memory", "killed"),
)
SMALL = Network("test_efficientnet", 32, 200)
TINY = Sizes(
    networks=(SMALL,),
    precision="fp32",
    engine="channels-last",
    dataset="digits",
    rows=24,
    batches=(1, 3, 8),
    rate_batch=8,
    features=(600, 12, 4),
    many=(900, 8, 12),
    grid=(1e-3, 1e-1),
    repeats=1,
    jpegs=4,
    fault_network=SMALL,
    fault_memory=1_000_000,
    killed_network=SMALL,
    faults=("killed",),  # the memory of a CPU has no limit of its own
    tests=("tests/benchmarks/check_cuda/test_judge.py",),
    marker="",
)
