"""One architecture: built by us and by timm, the same image embedded by both."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

# Of a process that has loaded torch and timm, and of the activations of one image, in bytes.
LIBRARIES, ACTIVATIONS = 600_000_000, 400_000_000
# How far vectors and pixels may be from timm's: of the largest value, and of a pixel's unit.
LEAST_COSINE, MOST_DIFFERENCE, MOST_OFF = 0.99999, 1e-3, 1e-5
# Random weights make a few networks amplify the rounding of float32. Their vectors are compared in
# float64, from which ours may be so many times as far as timm's own in float32.
ROUNDINGS = 4.0
IMAGE = "photo.jpg"


class Outcome(NamedTuple):
    """What became of an architecture."""

    # works, differs (from timm), refused (with a message of ours), failed, or memory
    kind: str
    facts: dict[str, Any]


def write_image(folder: Path) -> Path:
    """Write a made photograph, larger than every network's input, so that Pillow resizes it."""
    from PIL import Image

    height, width = 900, 1200
    y, x = np.mgrid[:height, :width]
    waves = [127 + 120 * np.sin(x / a + y / b) for a, b in ((31, 57), (83, 19), (47, -71))]
    noise = np.random.default_rng(0).integers(-30, 31, (height, width, 3))
    path = folder / IMAGE
    levels = np.clip(np.stack(waves, axis=-1) + noise, 0, 255).astype(np.uint8)
    Image.fromarray(levels).save(path, quality=95)
    return path


def outlines(names: Sequence[str]) -> list[int]:
    """Find out the bytes of several backbones' numbers; 0 of one that cannot be built."""
    return [_outline(name) for name in names]


def _outline(name: str) -> int:
    import timm

    from extract.model.outline import without_weights

    try:
        with without_weights():
            module = timm.create_model(name, num_classes=0)
    except Exception:
        return 0
    tensors = [*module.parameters(), *module.buffers()]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def needed(weights: int) -> int:
    """Estimate the memory of a check from the bytes of the weights, of which there is one copy."""
    return weights + LIBRARIES + ACTIVATIONS


def check(name: str, image: Path) -> Outcome:
    """Embed an image with random weights, and compare vector and preprocessing with timm's."""
    from data.common.errors import UserError
    from data.common.memory import peak_memory_mb
    from extract.engines.device import OutOfMemoryError, is_out_of_memory

    start = time.perf_counter()
    try:
        facts = _compared(name, image)
        kind = "differs" if facts["differences"] else "works"
    except UserError as error:
        kind, facts = "refused", {"reason": str(error).splitlines()[0]}
    except (MemoryError, OutOfMemoryError):
        kind, facts = "memory", {}
    except Exception as error:
        kind, facts = "failed", {"reason": _sentence(error)}
        if isinstance(error, RuntimeError) and is_out_of_memory(error):
            kind, facts = "memory", {}
    facts |= {"seconds": round(time.perf_counter() - start, 2), "peak_mb": peak_memory_mb()}
    return Outcome(kind, facts)


def _sentence(error: Exception) -> str:
    first = (str(error).strip() or "no message").splitlines()[0]
    return f"{type(error).__name__}: {first}"


def _compared(name: str, image: Path) -> dict[str, Any]:
    import torch
    from PIL import Image
    from timm.data import create_transform, resolve_data_config

    from extract.model.backbone import BackboneRequest, load_backbone

    backbone = load_backbone(BackboneRequest(name, "random"))
    pixels, vector = _ours(backbone, image)
    # Its own weights would be a second copy.
    model = whole_model(name, backbone.module)
    config = resolve_data_config({}, model=model)
    with Image.open(image) as opened:
        expected = create_transform(**config, is_training=False)(opened.convert("RGB"))
    with torch.inference_mode():
        timms = by_timm(model, expected[None]).numpy()
    spec = backbone.preprocessing.to_spec()
    differences = [
        *_other_settings(spec, config),
        *_other_pixels(pixels, expected[None].numpy()),
        *_other_shape(vector, timms, backbone.width),
    ]
    distances = _distances(vector, timms)
    if _is_far(distances) and not differences:
        exact = _in_float64(model, expected[None])
        ours, distances["rounding"] = (_distances(v, exact)["relative"] for v in (vector, timms))
        if not (ours or 1.0) <= ROUNDINGS * (distances["rounding"] or 0.0):
            differences.append(
                f"a cosine of {distances['cosine']} with timm's vector, and {distances['relative']}"
                " of the largest value"
            )
    return {
        **spec,
        "width": backbone.width,
        "num_features": getattr(model, "num_features", None),
        **distances,
        "differences": differences,
    }


def _ours(backbone: Any, image: Path) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Give the normalised pixels, (1, 3, height, width), and the vector, (1, width)."""
    import torch

    from data.images.decode import decode_file
    from extract.engines.build import default_engine
    from extract.engines.embed import Embedder
    from extract.model.preprocess import normalise, prepared, wanted_of

    settings = backbone.preprocessing
    decoded = decode_file(image, wanted=wanted_of(settings))
    taken = [prepared(settings, decoded.picture, decoded.reduction)]
    engine = default_engine(backbone)
    embedder = Embedder(backbone, torch.device("cpu"), "fp32", engine, batch_size=1)
    return normalise(settings, embedder.levels(taken)).numpy(), embedder.embed(taken)


def whole_model(name: str, module: Any, **arguments: Any) -> Any:
    """Give timm's model with its classifier, holding the tensors of a backbone of ours."""
    import timm

    from extract.model.outline import without_weights

    with without_weights():
        model = timm.create_model(name, **arguments).eval()
    found = model.load_state_dict(module.state_dict(), strict=False, assign=True)
    if found.unexpected_keys:
        raise ValueError(f"timm's model has no {', '.join(found.unexpected_keys)}")
    # Tables of positions and the like, which are computed from the settings alone.
    theirs = dict(module.named_buffers())
    for key, buffer in list(model.named_buffers()):
        if buffer.is_meta and key in theirs:
            owner, _, last = key.rpartition(".")
            model.get_submodule(owner)._buffers[last] = theirs[key]
    return model


def by_timm(model: Any, images: Any) -> Any:
    """Give what the classifier of timm's whole model would see."""
    if hasattr(model, "forward_head"):
        output = model.forward_head(model.forward_features(images), pre_logits=True)
    else:
        model.reset_classifier(0)
        output = model(images)
    return output.flatten(1)


def _other_settings(spec: Mapping[str, Any], config: Mapping[str, Any]) -> list[str]:
    size = spec["image_size"]
    ours = {
        **{key: spec[key] for key in ("crop_pct", "crop_mode", "interpolation")},
        **{key: tuple(spec[key]) for key in ("mean", "std")},
        "input_size": (3, size, size) if isinstance(size, int) else (3, *size),
    }
    theirs = {key: config[key] for key in ours} | {
        key: tuple(config[key]) for key in ("mean", "std", "input_size")
    }
    return [f"{key} {ours[key]}, timm's {theirs[key]}" for key in ours if ours[key] != theirs[key]]


def _distances(
    ours: npt.NDArray[np.float32], theirs: npt.NDArray[np.float32]
) -> dict[str, float | None]:
    if ours.shape != theirs.shape or not np.isfinite(ours).all():
        return {"cosine": None, "max_abs": None, "relative": None}
    difference = float(np.abs(ours - theirs).max())
    largest = float(np.abs(theirs).max())
    a, b = ours.astype(np.float64).ravel(), theirs.astype(np.float64).ravel()
    lengths = float(np.linalg.norm(a) * np.linalg.norm(b))
    return {
        "cosine": float(a @ b) / lengths if lengths else None,
        "max_abs": difference,
        "relative": difference / largest if largest else None,
    }


def _is_far(distances: Mapping[str, float | None]) -> bool:
    cosine, relative = distances["cosine"], distances["relative"]
    return cosine is None or relative is None or cosine < LEAST_COSINE or relative > MOST_DIFFERENCE


def _in_float64(model: Any, images: Any) -> npt.NDArray[np.float32]:
    import torch

    with torch.inference_mode():
        return by_timm(model.double(), images.double()).numpy()


def _other_pixels(pixels: npt.NDArray[np.float32], expected: npt.NDArray[np.float32]) -> list[str]:
    if pixels.shape != expected.shape:
        return [f"an input of {pixels.shape}, timm's {expected.shape}"]
    most = float(np.abs(pixels - expected).max())
    return [f"pixels differ by {most:.1e}"] if most > MOST_OFF else []


def _other_shape(
    vector: npt.NDArray[np.float32], timms: npt.NDArray[np.float32], width: int
) -> list[str]:
    if not vector.shape == timms.shape == (1, width):
        return [f"a vector of {vector.shape}, said to be {width} wide; timm's {timms.shape}"]
    if not np.isfinite(vector).all():
        return ["values that are not finite"]
    return [] if vector.any() else ["a vector of zeros"]
