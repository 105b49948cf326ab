"""The loop that people write: timm, a DataLoader of files, ``inference_mode``, large batches.

``python -m benchmarks.usual_loop MODEL SIZE BATCH FOLDER OUT.json``: embeds every image below the
folder, in plain float32, keeps the vectors with ``np.save``, and writes down how long that took. A
process of its own, with the allocator as it is: nothing of Icebox is imported.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any


def main(model: str, size: int, batch: int, folder: Path, out: Path) -> None:
    """Run the loop once, after one small batch that is not counted."""
    import numpy as np
    import timm
    import torch
    from PIL import Image
    from timm.data import create_transform, resolve_data_config
    from torch.utils.data import DataLoader, Dataset

    network = timm.create_model(model, pretrained=False, num_classes=0).eval()
    config = resolve_data_config({"img_size": size}, model=network)
    transform = create_transform(**config, is_training=False)
    files = sorted(path for path in folder.rglob("*") if path.is_file())

    class Images(Dataset):
        def __len__(self) -> int:
            return len(files)

        def __getitem__(self, row: int) -> Any:
            return transform(Image.open(files[row]).convert("RGB"))

    workers = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 2
    loader = DataLoader(Images(), batch_size=batch, num_workers=workers)
    with torch.inference_mode():
        network(torch.zeros(4, 3, size, size))
        start = time.perf_counter()
        vectors = [network(images) for images in loader]
    np.save(out.with_suffix(".npy"), torch.cat(vectors).numpy())
    seconds = time.perf_counter() - start
    out.write_text(json.dumps({"images": len(files), "seconds": seconds}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]), Path(sys.argv[5]))
