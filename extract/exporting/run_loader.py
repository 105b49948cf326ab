"""Run ``load.py`` of a folder on image files, as somebody without Icebox does.

A program of its own, for a process that imports nothing else of Icebox:
``python run_loader.py FOLDER IMAGES.json PROBABILITIES.npy``.
"""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

ICEBOX = ("data", "extract", "classify", "icebox")


def main(folder: str, images: str, out: str) -> None:
    """Write the probabilities (n, n_classes) of the images that a JSON file lists."""
    for name in ICEBOX:
        sys.modules[name] = None  # type: ignore[assignment] # an import of it fails
    load = runpy.run_path(str(Path(folder, "load.py")))["load"]
    model, transform, _ = load(folder)

    import torch  # as late as this: ``load.py`` says first what is wrong with it

    found: list[Any] = []
    with torch.inference_mode():
        for name in json.loads(Path(images).read_text(encoding="utf-8")):
            with Image.open(name) as opened:
                found.append(model(transform(opened.convert("RGB"))[None])[0].numpy())
    np.save(out, np.stack(found), allow_pickle=False)


if __name__ == "__main__":
    # Without this folder, whose files have names of other packages.
    sys.path[:] = [path for path in sys.path if Path(path) != Path(__file__).parent]
    main(*sys.argv[1:])
