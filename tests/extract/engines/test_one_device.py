"""A batch is prepared, embedded and cut where the network is."""

import numpy as np
import pytest
import torch
from pretended_device import pretended_device

from extract.engines import embed
from extract.model import preprocess
from extract.model.backbone import BackboneRequest, load_backbone
from extract.model.preprocess import NetworkInput


@pytest.fixture(autouse=True)
def nothing_kept():
    """Weights of resizing are kept for each device, and this one is pretended."""
    kept = preprocess._device_weights, preprocess.scale_and_shift, preprocess._device_fill
    for cache in kept:
        cache.cache_clear()
    yield
    for cache in kept:
        cache.cache_clear()


@pytest.mark.filterwarnings("ignore:.*CUDA is not available")
@pytest.mark.parametrize("model", ["test_efficientnet", "test_vit"])
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_batch_keeps_to_its_device(model, precision, monkeypatch):
    backbone = load_backbone(BackboneRequest(model, "random", image_size=32))
    rng = np.random.default_rng(0)
    raw = rng.integers(0, 256, (4, 20, 20, 3), dtype=np.uint8)
    ready = [NetworkInput(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8))] * 3
    with pretended_device(monkeypatch) as send:
        for part in backbone.module.modules():
            for table in (part._parameters, part._buffers):
                table.update({name: send(t) for name, t in table.items() if t is not None})
        monkeypatch.setattr(torch.nn.Module, "to", lambda self, *_, **__: self)
        for engine in ("torch", "channels-last"):
            device = torch.device("cuda", 0)
            embedder = embed.Embedder(backbone, device, precision, engine, 4)
            for images in (raw, raw[:3], ready):
                assert embedder.embed(images).shape == (len(images), backbone.width)
