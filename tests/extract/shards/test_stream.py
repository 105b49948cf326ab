"""Batches that overlap on a device: the same rows, in order, and never too far ahead."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from extract.engines.build import default_engine
from extract.engines.device import OutOfMemoryError
from extract.engines.embed import Embedder
from extract.model.backbone import BackboneRequest, load_backbone
from extract.model.preprocess import NetworkInput
from extract.shards import stream

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def embedder():
    backbone = load_backbone(BackboneRequest("test_efficientnet", "random", image_size=32))
    return Embedder(backbone, CPU, "fp32", "channels-last", 4)


class HostLanes:
    """The lanes of a device that is the host itself: copies, made at once."""

    def buffer(self, size, dtype):
        return torch.empty(size, dtype=dtype)

    def upload(self, host):
        return host.clone()

    def download(self, rows, host):
        host.copy_(rows)

    def wait(self, ticket):
        pass


class LateLanes(HostLanes):
    """A device that copies only when it is waited for, and keeps its buffers until then."""

    def __init__(self):
        self.under_way = {}
        self.made = 0

    def buffer(self, size, dtype):
        self.made += 1
        return torch.full((size,), 77, dtype=dtype)

    def download(self, rows, host):
        assert host.data_ptr() not in self.under_way, "a buffer that another batch still needs"
        self.under_way[host.data_ptr()] = (rows, host)
        assert len(self.under_way) <= stream.DEPTH
        return host.data_ptr()

    def wait(self, ticket):
        rows, host = self.under_way.pop(ticket)
        host.numpy()[:] = rows.numpy()


def pictures(n, height=20, width=24, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (n, height, width, 3), dtype=np.uint8)


def batches():
    """Full and short ones, of one size and of several, and one that is empty."""
    mixed = [*pictures(2, seed=1), *pictures(1, 31, 17, seed=2), *pictures(1, seed=3)]
    yield "array", pictures(4)
    yield "mixed", mixed
    cropped = [NetworkInput(image) for image in pictures(2, 32, 32, seed=5)]
    yield "cropped", [cropped[0], *pictures(1, 32, 32, seed=6), cropped[1]]
    yield "nothing", []
    yield "one size", list(pictures(3, 9, 9))
    yield "tensor", torch.from_numpy(pictures(4, seed=4))
    for number in range(4):
        yield number, pictures(2, seed=10 + number)


def alone(embedder, images):
    if not len(images):
        return np.zeros((0, embedder.backbone.width), dtype=np.float32)
    return embedder.embed(images.numpy() if isinstance(images, torch.Tensor) else images)


@pytest.mark.parametrize("lanes", [HostLanes, LateLanes])
def test_overlapped_batches_give_the_same_bits_in_order(embedder, lanes):
    made = lanes()
    found = list(stream.overlapped(embedder, batches(), made))
    assert [tag for tag, _ in found] == [tag for tag, _ in batches()]
    for (_, rows), (_, images) in zip(found, batches(), strict=True):
        assert rows.dtype == np.float32
        assert np.array_equal(rows, alone(embedder, images))
    if lanes is LateLanes:
        # Buffers are used again: pixels and rows of each slot, larger ones, and row numbers.
        assert made.made <= 4 * stream.DEPTH


def test_no_more_than_a_few_batches_are_taken_ahead(embedder):
    taken = []

    def counted():
        for number in range(9):
            taken.append(number)
            yield number, pictures(4)

    for number, _ in stream.overlapped(embedder, counted(), HostLanes()):
        assert len(taken) <= number + stream.DEPTH + 1


def test_on_a_cpu_batches_are_embedded_one_by_one(embedder):
    plain = [(tag, images) for tag, images in batches() if tag != "tensor"]
    for (_, rows), (_, images) in zip(stream.embed_batches(embedder, plain), plain, strict=True):
        assert np.array_equal(rows, alone(embedder, images))
    images = pictures(3)
    assert stream.resident(images, CPU) is images


def test_memory_that_runs_out_on_the_way(embedder):
    class Full(HostLanes):
        def upload(self, host):
            raise torch.cuda.OutOfMemoryError("CUDA out of memory.")

    with pytest.raises(OutOfMemoryError):
        list(stream.overlapped(embedder, batches(), Full()))


@pytest.mark.gpu
@pytest.mark.parametrize("share", [0.0, stream.RESIDENT_SHARE])
def test_cuda_gives_the_rows_of_single_batches(monkeypatch, share):
    monkeypatch.setattr(stream, "RESIDENT_SHARE", share)
    device = torch.device("cuda", torch.cuda.current_device())
    backbone = load_backbone(BackboneRequest("test_efficientnet", "random", image_size=32))
    made = Embedder(backbone, device, "fp32", default_engine(backbone), 4)
    images = pictures(37)
    pixels = stream.resident(images, device)
    assert isinstance(pixels, torch.Tensor) == (share > 0)
    spans = [slice(start, start + 4) for start in range(0, 37, 4)]
    found = stream.embed_batches(made, ((span, pixels[span]) for span in spans))
    for span, rows in found:
        assert np.array_equal(rows, made.embed(images[span]))
    several = [(tag, images) for tag, images in batches() if tag != "tensor"]
    for (_, rows), (_, images) in zip(stream.embed_batches(made, several), several, strict=True):
        assert np.array_equal(rows, alone(made, images))
