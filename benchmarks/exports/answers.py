"""Run one exported form on image files, in a process of its own; see `benchmarks.exports`.

``python -m benchmarks.exports.answers FORM PATH LIST.json OUT.npz``: what was written is loaded and
run once before the clock starts; decoding the files and preparing the images is inside.
"""

from __future__ import annotations

import importlib.util
import json
import sys
import time
from collections.abc import Callable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

BATCH = 64
Answers = tuple[Any, Any]  # probabilities (n, n_classes) and labels (n,)


def _decoded(name: str) -> Image.Image:
    with Image.open(name) as image:
        return image.convert("RGB")


def _batches(names: list[str]) -> Iterator[list[Image.Image]]:
    """Decode files, and put neighbours of one size together."""
    images = map(_decoded, names)
    for _, alike in groupby(images, key=lambda image: image.size):
        batch: list[Image.Image] = []
        for image in alike:
            batch.append(image)
            if len(batch) == BATCH:
                yield batch
                batch = []
        if batch:
            yield batch


def _onnx(path: Path) -> Callable[[list[Image.Image]], Answers]:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def answer(batch: list[Image.Image]) -> Answers:
        probabilities, labels = session.run(
            None, {"images": np.stack(list(map(np.asarray, batch)))}
        )
        return probabilities, labels

    return answer


def _program(path: Path) -> Callable[[list[Image.Image]], Answers]:
    import torch

    module = torch.export.load(path / "program.pt2").module()

    def answer(batch: list[Image.Image]) -> Answers:
        with torch.inference_mode():
            images = torch.from_numpy(np.stack(list(map(np.asarray, batch))))
            return tuple(found.numpy() for found in module(images))

    return answer


def _transformed(model: Any, transform: Any, logits: bool) -> Callable[..., Answers]:
    import torch

    def answer(batch: list[Image.Image]) -> Answers:
        with torch.inference_mode():
            found = model(torch.stack([transform(image) for image in batch]))
            found = torch.softmax(found, dim=1) if logits else found
        return found.numpy(), found.argmax(dim=1).numpy()

    return answer


def _loader(path: Path) -> Callable[[list[Image.Image]], Answers]:
    spec = importlib.util.spec_from_file_location("load", path / "load.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    model, transform, _ = module.load(str(path))
    return _transformed(model, transform, logits=False)


def _timm(path: Path) -> Callable[[list[Image.Image]], Answers]:
    import timm

    model = timm.create_model(f"local-dir:{path}", pretrained=True).eval()
    config = timm.data.resolve_model_data_config(model)
    return _transformed(model, timm.data.create_transform(**config), logits=True)


FORMS = {"onnx": _onnx, "program.pt2": _program, "load.py": _loader, "timm": _timm}


def main() -> None:
    """Load, run once, and time."""
    form, path, listing, out = sys.argv[1:]
    names = json.loads(Path(listing).read_text(encoding="utf-8"))
    answer = FORMS[form](Path(path))
    answer(next(_batches(names[:BATCH])))
    clock, cpu = time.perf_counter(), time.process_time()
    found = [answer(batch) for batch in _batches(names)]
    seconds, cpu = time.perf_counter() - clock, time.process_time() - cpu
    np.savez(
        out,
        probabilities=np.concatenate([one[0] for one in found]),
        labels=np.concatenate([one[1] for one in found]),
        seconds=seconds,
        cpu=cpu,
    )


if __name__ == "__main__":
    main()
