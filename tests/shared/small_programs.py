"""Programs of small networks of random weights, with heads of random weights."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image

from classify.export.program_of import head_program
from classify.saved.heads import SavedHead
from classify.solver.codes import code_book
from data.format.programs import NetworkOrder
from extract.exporting.program import Program
from extract.model.backbone import BackboneRequest, embed_normalised, load_backbone
from extract.model.preprocess import normalise, resize_one


def backbone(model, size=32, **more):
    weights = "hub" if model == "pixels" else "random"  # it has none, whatever is asked for
    return load_backbone(BackboneRequest(model, weights, image_size=size, **more))


def saved_head(width, coding="multinomial", k=4, temperature=1.7, scale=1.0, **more):
    """Give a head with weights as large as make its probabilities neither equal nor certain."""
    draw = np.random.default_rng(3)
    code = code_book(k) if coding == "ecoc" and k > 2 else None
    n = {"multinomial": k, "ovr": k, "ovo": k * (k - 1) // 2}.get(coding)
    n = 1 if k == 2 else n if code is None else code.shape[1]
    return SavedHead(
        strategy=coding,
        coding=coding,
        class_names=tuple(f"class {i}" for i in range(k)),
        coef=(scale * draw.normal(size=(n, width))).astype(np.float32),
        intercept=draw.normal(size=n).astype(np.float32),
        spec={},
        store_key="0" * 64,
        C=1.0,
        temperature=temperature,
        code=code,
        **more,
    )


def program(head, *backbones):
    """Put a head beside its backbones, as stage one loads them from an order."""
    orders = tuple(NetworkOrder({"precision": "fp32"}, None, one.width) for one in backbones)
    versions = {"icebox": "0", "torch": "0", "timm": "0"}
    return Program(head_program(head), backbones, orders, head.store_key, versions)


def vectors(one, images):
    """Give a backbone's vectors of network inputs (n, 3, height, width), as NumPy has them."""
    with torch.inference_mode():
        return embed_normalised(one.module, images).numpy()


def pictures(folder, *sizes):
    """Write noise of so many colours that a wrong resize shows; gives paths of PNG files."""
    draw = np.random.default_rng(5)
    found = []
    for height, width in sizes:
        pixels = draw.integers(0, 256, (height // 4 + 1, width // 4 + 1, 3), dtype=np.uint8)
        found.append(folder / f"{height}x{width}.png")
        Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC).save(found[-1])
    return found


def inputs(one, paths):
    """Prepare image files as stage one does, bit for bit: (n, 3, height, width)."""
    settings = one.preprocessing
    levels = [resize_one(settings, np.asarray(Image.open(path))) for path in paths]
    stacked = torch.from_numpy(np.stack(levels)).permute(0, 3, 1, 2).float()
    return normalise(settings, stacked)
