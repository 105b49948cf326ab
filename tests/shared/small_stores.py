"""Small stores, shards and runs on the disk, made in milliseconds by the writers themselves."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from data.format.records import SplitSource
from data.format.spec import spec_key, store_path
from data.shards import write_shard
from data.writing import join

RESULTS = Path(__file__).parents[1] / "archives" / "results-1.json"
N_ROWS = {"train": 6, "test": 4}


def spec_of(model="mobilenetv2_100", dataset="toys", size=32, **more):
    return {
        "dataset": {"name": dataset, "digest": "0" * 64, "limit": None},
        "model": {"name": model, "args": {}, "weights": {"source": "hub", "digest": "1" * 64}},
        "preprocessing": {"image_size": size},
        "pool": "default",
        "precision": "fp32",
        "store_dtype": "float32",
        **more,
    }


def write_store(features_dir, spec=None, *, virtual=False, provenance=None):
    """Write a store under its own name."""
    spec = spec_of() if spec is None else spec
    rng, blocks, places = np.random.default_rng(0), {}, {}
    for split, count in N_ROWS.items():
        rows, ok = rng.normal(size=(count, 3)).astype("f4"), np.ones(count, bool)
        blocks[split] = [(rows, ok)]
        if virtual:
            places[split] = [(write_work(features_dir, spec, split, rows), 0, count)]
    path = store_path(features_dir, spec)
    join(
        path,
        spec=spec,
        request={},
        provenance=provenance or {"finished": "2026-01-02T03:04:05+00:00"},
        class_names=["a", "b"],
        splits={
            split: SplitSource(
                np.arange(count) % 2, [f"{split}{row}" for row in range(count)], blocks[split]
            )
            for split, count in N_ROWS.items()
        },
        shards=places if virtual else None,
    )
    return path


def write_work(features_dir, spec, split="train", rows=None):
    """Write a shard into the work folder of a store, as an interrupted run leaves it."""
    rows = np.ones((6, 3), "f4") if rows is None else rows
    key = spec_key(spec)
    path = Path(features_dir, ".work", key, f"shard-{split}-000000000.h5")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_shard(path, rows, np.ones(len(rows), bool), key=key, split=split, start=0)
    return path


def write_run(reports_dir, *keys, name="run", started="2026-03-01T00:00:00+00:00"):
    """Write the results of a run; of a sum, the keys of its parts follow its own."""
    results = json.loads(RESULTS.read_text("utf-8"))
    results["store"]["key"] = keys[0]
    if len(keys) > 1:
        results["store"]["provenance"]["parts"] = [
            {"path": f"{key}.h5", "key": key, "n_features": 3, "provenance": {}} for key in keys[1:]
        ]
    results["timings"]["started"] = started
    folder = Path(reports_dir, "store", name)
    folder.mkdir(parents=True)
    (folder / "results.json").write_text(json.dumps(results), "utf-8")
    return folder
