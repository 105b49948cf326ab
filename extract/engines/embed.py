"""Batches of images in, embeddings out: device, precision, engine, batch size."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from data.common.errors import UserError
from extract.engines.build import build
from extract.engines.device import OutOfMemoryError, device_name, is_out_of_memory
from extract.engines.torch_settings import full_precision, using_threads
from extract.model.backbone import Backbone
from extract.model.preprocess import NetworkInput, Prepared, normalise, resize_batch

if TYPE_CHECKING:
    import torch

# Raw and equally large ones in an array; or raw ones of any sizes, and network inputs.
Images: TypeAlias = "npt.NDArray[np.uint8] | Sequence[Prepared]"


class HostGroup(NamedTuple):
    """Images of a batch that are treated alike, in the host's memory."""

    # int64, (k,): which rows of the batch they are; None for all of them, in order.
    rows: torch.Tensor | None
    pixels: npt.NDArray[np.uint8]  # (k, height, width, 3)
    raw: bool  # whether they are still to be resized and cropped


class Group(NamedTuple):
    """The same on the device: ``pixels`` is a tensor there."""

    rows: torch.Tensor | None
    pixels: torch.Tensor
    raw: bool


class Embedder:
    """A backbone on its device, fed with full batches only.

    Every batch has the same number of rows, the last one being padded, because the last bits of
    every engine depend on it. So rows do not depend on how many there are.
    """

    def __init__(
        self,
        backbone: Backbone,
        device: torch.device,
        precision: str,
        engine: str,
        batch_size: int,
    ) -> None:
        self.backbone = backbone
        self.device = device
        self.precision = precision
        self.engine = engine
        self.batch_size = batch_size
        try:
            with self._exact():
                self.network = build(engine, backbone, device, precision, batch_size)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            raise UserError(
                f"{backbone.name} does not fit into the memory of {device_name(device)}; "
                "give a smaller --model, or --device cpu"
            ) from error

    def embed(self, images: Images) -> npt.NDArray[np.float32]:
        """Embed up to one batch of images.

        Shapes: `images` uint8 (n, height, width, 3); returns float32 (n, width).
        """
        import torch

        with self.translated_errors(), torch.inference_mode():
            return self.forward(self._groups(images), len(images)).cpu().numpy()

    def levels(self, images: Images) -> torch.Tensor:
        """Resize images into a full batch: the part of `embed` before the network.

        Shapes: `images` uint8 (n, height, width, 3); returns float32 (batch_size, 3, height,
        width).
        """
        with self._exact():
            return self._levels(self._groups(images))

    def _exact(self) -> AbstractContextManager[None]:
        """Leave TF32 out, on a GPU, of what is computed in the block."""
        return full_precision if self.device.type == "cuda" else nullcontext()

    def _groups(self, images: Images) -> list[Group]:
        """Send images to the device, those that are treated alike together."""
        import torch

        return [
            Group(rows, torch.from_numpy(np.ascontiguousarray(pixels)).to(self.device), raw)
            for rows, pixels, raw in by_size(images)
        ]

    @contextmanager
    def translated_errors(self) -> Iterator[None]:
        """Compute without TF32; turn torch's errors into `OutOfMemoryError` and `UserError`."""
        try:
            with self._exact():
                yield
        except MemoryError as error:
            raise OutOfMemoryError(str(error)) from error
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise OutOfMemoryError(str(error)) from error
            if self.precision != "fp32" and "not implemented for" in str(error):
                raise UserError(
                    f"--precision {self.precision}: {device_name(self.device)} cannot run "
                    f"{self.backbone.name} in it ({str(error).splitlines()[0]}); give fp32"
                ) from error
            raise

    def forward(self, groups: Sequence[Group], count: int) -> torch.Tensor:
        """Resize what is raw, normalise and embed a batch that lies on the device.

        Shapes: returns float32 (count, width).
        """
        return self.network(self._normalised(groups))[:count].float()

    def _normalised(self, groups: Sequence[Group]) -> torch.Tensor:
        """Make what the network takes.

        For OpenVINO, where nothing is to be resized, in one thread: torch's other threads wait for
        their next share in a loop, and take the processors from OpenVINO's and from the processes
        that decode, for longer than the work takes.
        """
        others_compute = self.engine == "openvino" and not any(group.raw for group in groups)
        with using_threads(1) if others_compute else nullcontext():
            return normalise(self.backbone.preprocessing, self._levels(groups))

    def _levels(self, groups: Sequence[Group]) -> torch.Tensor:
        """Make network inputs of images, in a full batch; those that are such stay as they are."""
        import torch

        settings = self.backbone.preprocessing
        if len(groups) == 1 and len(groups[0].pixels) == self.batch_size:
            return self._levels_of(groups[0])
        levels = torch.zeros(self.batch_size, 3, *settings.size, device=self.device)
        for group in groups:
            if group.rows is None:
                levels[: len(group.pixels)] = self._levels_of(group)
            else:
                rows = group.rows.to(self.device, non_blocking=True)
                levels.index_copy_(0, rows, self._levels_of(group))
        return levels

    def _levels_of(self, group: Group) -> torch.Tensor:
        import torch

        settings = self.backbone.preprocessing
        if group.raw:
            return resize_batch(settings, group.pixels)
        if group.pixels.shape[1:3] != settings.size:
            raise ValueError(f"no input of this network: {tuple(group.pixels.shape)}")
        return group.pixels.permute(0, 3, 1, 2).to(torch.float32).contiguous()


def by_size(images: Images) -> list[HostGroup]:
    """Group the images of a batch by their size, and by whether they are raw."""
    import torch

    if isinstance(images, np.ndarray):
        return [HostGroup(None, images, True)]
    alike: dict[tuple[tuple[int, ...], bool], list[int]] = {}
    pixels = []
    for row, image in enumerate(images):
        raw = not isinstance(image, NetworkInput)
        alike.setdefault((image.shape, raw), []).append(row)
        pixels.append(image.pixels if isinstance(image, NetworkInput) else image)
    groups = []
    for (_, raw), rows in alike.items():
        numbers = None if len(alike) == 1 else torch.tensor(rows)
        groups.append(HostGroup(numbers, np.stack([pixels[row] for row in rows]), raw))
    return groups
