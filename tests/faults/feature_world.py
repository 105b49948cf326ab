"""Files of features that cannot be imported, for the table of bad input; not a test."""

from __future__ import annotations

import os
import pickle

import numpy as np


class Evil:
    """Makes a file where it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return (os.mkdir, (self.path,))


def build_features(root, put):
    """Write them below a folder; returns the paths by the names that the table uses."""
    import h5py
    import pandas as pd
    import pyarrow as pa
    import pyarrow.parquet as pq
    import torch
    from safetensors.numpy import save_file

    folder = root / "own"
    folder.mkdir()
    at = {"own": folder}
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(20, 4)).astype(np.float32), np.arange(20) % 2
    split = np.array(["train"] * 14 + ["test"] * 6)

    def npz(name, **arrays):
        at[name] = folder / f"{name}.npz"
        np.savez(at[name], **arrays)

    npz("own_good", X=X, y=y, split=split)
    npz("no_split", X=X, y=y)
    npz("flat", X=X[:, 0], y=y, split=split)
    npz("images_npz", X=np.zeros((20, 3, 4, 4), np.float32), y=y, split=split)
    npz("short_y", X=X, y=y[:-1], split=split)
    npz("one_hot", X=X, y=np.eye(2)[y], split=split)
    npz("measured", X=X, y=rng.normal(size=20), split=split)
    npz("each_its_own", X=X, y=np.arange(20), split=np.array(["train"] * 20))
    npz("one_label", X=X, y=y * 0, split=split)
    npz("new_label", X=X, y=np.where(np.arange(20) == 19, 2, y), split=split)
    npz("odd_keys", X_trian=X, y_trian=y)
    npz("both_names", X=X, features=X, y=y)
    npz("two_kinds", X=X, X_train=X, y=y, y_train=y)
    npz("no_labels", X=X, split=split)
    npz("odd_split", X=X, y=y, split=np.where(split == "test", "holdout", split))
    npz("only_test_rows", X=X, y=y, split=np.array(["test"] * 20))
    npz("few_names", X=X, y=y + 5, split=split, class_names=np.array(["a", "b"]))
    npz("texts_npz", X=X.astype(str), y=y, split=split)
    npz("twice_ids", X=X, y=y, split=split, ids=np.array(["a"] * 20))
    npz("minus", X=X, y=y, split=split, weights=np.where(y, 1.0, -1.0))
    npz("lone_groups", X=X, y=y, split=split, groups=np.where(y, 1.0, np.nan))
    npz("same_group", X=X, y=y, groups=y * 0)
    bad = X.copy()
    bad[3, 1], bad[5, 2] = np.nan, np.inf
    npz("own_nan", X=bad, y=y, split=split)
    npz("too_large", X=X.astype(np.float64) * 1e300, y=y, split=split)
    at["pickled_npz"] = folder / "pickled_npz.npz"
    mark = folder / "was_run"
    np.savez(at["pickled_npz"], X=np.array([Evil(mark)] * 20, object), y=y)
    at["evil_npy"] = folder / "evil.npy"
    np.save(at["evil_npy"], np.array([Evil(mark)] * 20, object), allow_pickle=True)
    put("own/bare.npy", pickle.dumps(Evil(mark)))
    torch.save({"X": torch.ones(3, 2), "y": Evil(mark)}, folder / "evil.pt")
    at["evil_pt"] = folder / "evil.pt"
    at["mark"] = mark
    # Features and tables beside them.
    at["own_feats"] = folder / "feats.npy"
    np.save(at["own_feats"], X)

    def csv(name, **columns):
        at[name] = folder / f"{name}.csv"
        pd.DataFrame(columns).to_csv(at[name], index=False)

    csv("own_table", label=y, split=split, patient=np.arange(20), note="x")
    csv("short_table", label=y[:-1], split=split[:-1])
    csv("no_columns", one=y, other=y)
    csv("regression", label=rng.normal(size=20), split=split)
    features = {f"feature_{n}": X[:, n] for n in range(4)}
    csv("folds", **features, label=y, fold=np.arange(20) % 5 + 1)
    csv("two_label_columns", **features, label=y, **{"class": y}, split=split)
    csv("no_label_column", **features, kind=y, split=split)
    csv("word_csv", feature_0=["a"] * 20, feature_1=X[:, 0], label=y, split=split)
    pq.write_table(
        pa.table({"embedding": [list(row[: 4 - (n == 7)]) for n, row in enumerate(X)], "label": y}),
        folder / "ragged.parquet",
    )
    at["ragged"] = folder / "ragged.parquet"
    pq.write_table(pa.table({"a": list(X), "b": list(X), "label": y}), folder / "lists.parquet")
    at["two_lists"] = folder / "lists.parquet"
    save_file({"X": X, "y": y}, folder / "own_good.safetensors")
    pq.write_table(pa.table({"x": list(X), "y": y}), folder / "own_good.parquet")
    with h5py.File(folder / "other.h5", "w") as file:
        file["a/one"], file["a/two"] = X, y
    at["other_h5"] = folder / "other.h5"
    # Cut in the middle.
    for name in ("own_good.npz", "feats.npy", "own_good.safetensors", "own_good.parquet"):
        raw = (folder / name).read_bytes()
        put(f"own/cut_{name}", raw[: len(raw) * 2 // 3])
    raw = at["other_h5"].read_bytes()
    put("own/cut_other.h5", raw[: len(raw) // 2])
    put("own/zero.npz", b"")
    put("own/text.parquet", b"PAR1 no table")
    put("own/text.h5ad", b"no HDF5")
    put("own/text.pt", b"no archive")
    put("own/some.xyz", b"1 2 3")
    put("own/empty_names.txt", b"")
    at["good_files"] = f"{at['own_good']}"
    return {name: str(path) for name, path in at.items()}
