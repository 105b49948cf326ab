"""Read a table of images in a process of its own: ``python -m benchmarks.read_table TABLE``."""

import sys
import time
from pathlib import Path

from data.dataset import source_fingerprint
from data.images.sources import table
from data.images.sources.registry import SourceRequest

if __name__ == "__main__":
    path, fast = Path(sys.argv[1]), sys.argv[2:] == ["fast"]
    start = time.perf_counter()
    if fast:
        source_fingerprint(str(path), data_dir=path.parent)
    else:
        raw = table.read(SourceRequest(str(path), path.parent))
        print(sum(map(len, raw.splits.values())), len(raw.class_names), len(raw.group_names))
    print(f"{time.perf_counter() - start:.3f}")
