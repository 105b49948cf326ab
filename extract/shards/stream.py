"""Batches through a device without a gap: one is copied in, one computed, one copied back.

A GPU works on its own while the host goes on. So the host is kept two batches ahead: their pixels
go up through pinned memory on a stream of their own, or lie on the device already (`resident`);
vectors come back through pinned memory on a third one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from extract.engines.embed import Embedder, Group, Images, by_size

if TYPE_CHECKING:
    import torch

# Batches under way: one copied in, one computed, one copied back.
DEPTH = 3
# All images are put on the device where they take no more than this share of what is free there.
RESIDENT_SHARE = 0.25

# What comes with a batch, and is given back with its rows.
Tag = TypeVar("Tag")
# Images in the host's memory, or a slice of those on the device.
Batch: TypeAlias = "Images | torch.Tensor"


class Lanes(Protocol):
    """How bytes get to a device and back; all but `wait` return at once."""

    def buffer(self, size: int, dtype: torch.dtype) -> torch.Tensor:
        """Give memory of the host that the device can copy from and to."""

    def upload(self, host: torch.Tensor) -> torch.Tensor:
        """Begin to copy to the device; what is computed there next waits for it."""

    def download(self, rows: torch.Tensor, host: torch.Tensor) -> Any:
        """Begin to copy back when the rows are computed; returns what `wait` takes."""

    def wait(self, ticket: Any) -> None:
        """Wait until a download is complete."""


class CudaLanes:
    """The lanes of a GPU: a stream for each direction beside the one that computes."""

    def __init__(self, device: torch.device) -> None:
        import torch

        self._device = device
        self._compute = torch.cuda.current_stream(device)
        self._up, self._down = torch.cuda.Stream(device), torch.cuda.Stream(device)

    def buffer(self, size: int, dtype: torch.dtype) -> torch.Tensor:
        """Give pinned memory."""
        import torch

        return torch.empty(size, dtype=dtype, pin_memory=True)

    def upload(self, host: torch.Tensor) -> torch.Tensor:
        """Begin to copy to the device, on a stream of its own."""
        import torch

        with torch.cuda.stream(self._up):
            there = host.to(self._device, non_blocking=True)
        self._compute.wait_stream(self._up)
        there.record_stream(self._compute)
        return there

    def download(self, rows: torch.Tensor, host: torch.Tensor) -> torch.cuda.Event:
        """Begin to copy back, on a stream of its own."""
        import torch

        self._down.wait_stream(self._compute)
        with torch.cuda.stream(self._down):
            host.copy_(rows, non_blocking=True)
            rows.record_stream(self._down)
            return self._down.record_event()

    def wait(self, ticket: torch.cuda.Event) -> None:
        """Wait for the event behind a copy."""
        ticket.synchronize()


class _Slot:
    """The host's buffers of one batch under way; used again when its rows have come back."""

    def __init__(self, lanes: Lanes) -> None:
        self._lanes = lanes
        self._buffers: dict[str, torch.Tensor] = {}

    def take(self, name: str, size: int, dtype: torch.dtype) -> torch.Tensor:
        """Give a buffer of at least this size, cut to it."""
        kept = self._buffers.get(name)
        if kept is None or len(kept) < size:
            kept = self._buffers[name] = self._lanes.buffer(size, dtype)
        return kept[:size]


def embed_batches(
    embedder: Embedder, batches: Iterable[tuple[Tag, Batch]]
) -> Iterator[tuple[Tag, npt.NDArray[np.float32]]]:
    """Embed batch after batch; on a GPU with the host ahead of it.

    Shapes: yields float32 (n, width).
    """
    import torch

    if embedder.device.type == "cuda":
        yield from overlapped(embedder, batches, CudaLanes(embedder.device))
        return
    for tag, images in batches:
        assert not isinstance(images, torch.Tensor)  # `resident` puts them on GPUs alone
        yield tag, embedder.embed(images) if len(images) else _no_rows(embedder)


def _no_rows(embedder: Embedder) -> npt.NDArray[np.float32]:
    return np.zeros((0, embedder.backbone.width), dtype=np.float32)


def overlapped(
    embedder: Embedder, batches: Iterable[tuple[Tag, Batch]], lanes: Lanes
) -> Iterator[tuple[Tag, npt.NDArray[np.float32]]]:
    """Embed batches with up to `DEPTH` of them under way; see `embed_batches`."""
    import torch

    slots = [_Slot(lanes) for _ in range(DEPTH)]
    under_way: deque[tuple[Tag, torch.Tensor | None, Any]] = deque()

    def finished() -> tuple[Tag, npt.NDArray[np.float32]]:
        tag, host, ticket = under_way.popleft()
        if host is None:
            return tag, _no_rows(embedder)
        with embedder.translated_errors():
            lanes.wait(ticket)
        return tag, host.numpy().copy()

    for number, (tag, images) in enumerate(batches):
        if len(under_way) == DEPTH:
            yield finished()
        if not len(images):
            under_way.append((tag, None, None))
            continue
        slot = slots[number % DEPTH]
        with embedder.translated_errors(), torch.inference_mode():
            groups = _on_device(images, slot, lanes)
            rows = embedder.forward(groups, len(images))
            host = slot.take("rows", rows.numel(), torch.float32).view(rows.shape)
            under_way.append((tag, host, lanes.download(rows, host)))
    while under_way:
        yield finished()


def _on_device(images: Batch, slot: _Slot, lanes: Lanes) -> list[Group]:
    """Send the images of a batch to the device in one copy, whatever their sizes."""
    import torch

    if isinstance(images, torch.Tensor):
        return [Group(None, images, True)]
    groups = by_size(images)
    pixels = slot.take("pixels", sum(group.pixels.size for group in groups), torch.uint8)
    staged, start = pixels.numpy(), 0
    for group in groups:
        staged[start : start + group.pixels.size] = group.pixels.reshape(-1)
        start += group.pixels.size
    there = lanes.upload(pixels)
    found: list[Group] = []
    start = 0
    for group in groups:
        part = there[start : start + group.pixels.size].view(group.pixels.shape)
        start += group.pixels.size
        rows = group.rows
        if rows is not None:
            numbers = slot.take(f"numbers {len(found)}", len(rows), torch.int64)
            rows = numbers.copy_(rows)
        found.append(Group(rows, part, group.raw))
    return found


def resident(
    images: npt.NDArray[np.uint8], device: torch.device
) -> npt.NDArray[np.uint8] | torch.Tensor:
    """Put all images of a split on a GPU, where they leave enough room there.

    Shapes: `images` uint8 (n, height, width, 3).
    """
    import torch

    if device.type != "cuda":
        return images
    free, _ = torch.cuda.mem_get_info(device)
    if images.nbytes > RESIDENT_SHARE * free:
        return images
    try:
        return torch.from_numpy(np.ascontiguousarray(images)).to(device)
    except torch.cuda.OutOfMemoryError:  # free memory may be in pieces
        return images
