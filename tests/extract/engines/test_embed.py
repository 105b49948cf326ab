"""Batches in, embeddings out: padding, groups of sizes, precision, memory."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from data.common.errors import UserError
from extract.engines.build import default_engine
from extract.engines.device import (
    OutOfMemoryError,
    choose_device,
    choose_precision,
    is_out_of_memory,
)
from extract.engines.embed import Embedder
from extract.model.backbone import BackboneRequest, load_backbone
from extract.model.preprocess import NetworkInput

CPU = torch.device("cpu")


def embedder(model="test_efficientnet", size=32, batch=8, precision="fp32", engine=None):
    backbone = load_backbone(BackboneRequest(model, "random", image_size=size))
    return Embedder(backbone, CPU, precision, engine or default_engine(backbone), batch)


def pictures(n, height=20, width=24):
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (n, height, width, 3), dtype=np.uint8)


def relative(a, b):
    return np.abs(a - b).max() / np.abs(b).max()


def test_what_is_cropped_already_is_not_resized_again():
    made = embedder()
    image = pictures(1, 32, 32)[0]
    settings = made.backbone.preprocessing
    assert settings.crop_pct < 1
    levels = made.levels([NetworkInput(image), image])
    assert np.array_equal(levels[0].numpy(), image.transpose(2, 0, 1))
    assert not np.array_equal(levels[1].numpy(), image.transpose(2, 0, 1))
    with pytest.raises(ValueError, match="no input of this network"):
        made.embed([NetworkInput(image[:30])])


@pytest.mark.parametrize("model", ["test_efficientnet", "test_vit", "resnet18"])
def test_rows_do_not_depend_on_the_batch_size(model):
    images = pictures(11)
    rows = {}
    for batch in (1, 4, 16):
        made = embedder(model, batch=batch)
        rows[batch] = np.concatenate(
            [made.embed(images[i : i + batch]) for i in range(0, len(images), batch)]
        )
        assert rows[batch].shape == (11, made.backbone.width)
        assert rows[batch].dtype == np.float32
    assert relative(rows[1], rows[16]) < 1e-5
    assert relative(rows[4], rows[16]) < 1e-5


def test_a_padded_batch_gives_the_same_bits():
    images = pictures(8)
    made = embedder(batch=8)
    assert np.array_equal(made.embed(images[:3]), made.embed(images)[:3])


def test_images_of_several_sizes_come_back_in_order():
    made = embedder()
    small, large = pictures(3), pictures(3, 31, 17)
    mixed = [small[0], large[0], small[1], large[1], large[2], small[2]]
    together = made.embed(mixed)
    alone = np.concatenate([made.embed(image[None]) for image in mixed])
    assert np.array_equal(together, alone)
    assert len(np.unique(together.round(4), axis=0)) == 6


def test_memory_formats_agree():
    images = pictures(5)
    last, first = (embedder(engine=e).embed(images) for e in ("channels-last", "torch"))
    assert relative(last, first) < 1e-5
    assert default_engine(embedder("resnet18").backbone) == "channels-last"
    assert default_engine(embedder("test_vit").backbone) == "torch"


def test_bf16_is_close_but_not_the_same():
    images = pictures(6)
    full, half = embedder().embed(images), embedder(precision="bf16").embed(images)
    assert half.dtype == np.float32
    assert not np.array_equal(full, half)
    cosine = (full * half).sum(1) / np.linalg.norm(full, axis=1) / np.linalg.norm(half, axis=1)
    assert cosine.min() > 0.98


def test_precision_that_the_device_has_no_kernel_for(monkeypatch):
    made = embedder(precision="fp16")

    def refuse(levels):
        raise RuntimeError("\"slow_conv2d_cpu\" not implemented for 'Half'")

    monkeypatch.setattr(made, "_normalised", refuse)
    with pytest.raises(UserError, match=r"--precision fp16.*test_efficientnet.*give fp32"):
        made.embed(pictures(2))


def test_choices():
    assert choose_precision("auto", CPU) == "fp32"
    assert choose_precision("bf16", CPU) == "bf16"
    assert choose_device("cpu") == CPU


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_there():
    assert choose_device("auto") == CPU
    with pytest.raises(UserError, match=r"--device cuda.*--device cpu"):
        choose_device("cuda")


def test_out_of_memory_is_told_from_other_errors(monkeypatch):
    cpu = RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory")
    assert is_out_of_memory(cpu)
    assert is_out_of_memory(torch.cuda.OutOfMemoryError("CUDA out of memory."))
    cudnn = "GET was unable to find an engine to execute this computation"
    assert is_out_of_memory(RuntimeError(cudnn))
    for status in ("CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED"):
        assert is_out_of_memory(RuntimeError(f"CUDA error: {status} when calling `f(handle)`"))
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    made = embedder()

    def fail(levels):
        raise cpu

    monkeypatch.setattr(made, "_normalised", fail)
    with pytest.raises(OutOfMemoryError):
        made.embed(pictures(2))


@pytest.mark.gpu
@pytest.mark.parametrize("model", ["test_efficientnet", "test_vit"])
def test_cuda_gives_the_same_rows(model):
    images = pictures(9)
    on_cpu = embedder(model).embed(images[:8])
    backbone = load_backbone(BackboneRequest(model, "random", image_size=32))
    device = choose_device("cuda")
    on_cuda = Embedder(backbone, device, "fp32", default_engine(backbone), 8)
    assert relative(on_cuda.embed(images[:8]), on_cpu) < 1e-4
    half = Embedder(backbone, device, choose_precision("auto", device), "torch", 8)
    assert relative(half.embed(images[:8]), on_cpu) < 0.1
