"""Every kind of file gives the store that its arrays say, row by row and bit by bit."""

import hashlib
import json
import subprocess
import sys

import h5py
import numpy as np
import pandas as pd
import pytest
from features_for_tests import NAMES, D, M, N, call, content, made, refusal, store_of, whole

from data import open_features


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def npz(place):
    X, y, Xt, yt = made()
    np.savez("a.npz", X_train=X, y_train=NAMES[y], X_test=Xt, y_test=NAMES[yt])
    return ["a.npz"]


def npz_compressed_by_columns(place):
    X, y, split = whole()
    np.savez_compressed(
        "a.npz", features=np.asfortranarray(X), target=y, subset=split, class_names=NAMES
    )
    return ["a.npz"]


def npy(place):
    X, y, Xt, yt = made()
    arrays = {"X_train": X, "y_train": NAMES[y], "X_test": Xt, "y_test": NAMES[yt]}
    for name, array in arrays.items():
        np.save(f"{name}.npy", array)
    return ["X_train.npy", "y_train.npy", "X_test.npy", "y_test.npy"]


def table_of(suffix):
    def write(place):
        X, y, split = whole()
        np.save("clip_embeddings.npy", X)
        table = pd.DataFrame({"Label": NAMES[y], "Split": split})
        if suffix == "parquet":
            table.to_parquet("labels.parquet")
        elif suffix == "jsonl":
            table.to_json("labels.jsonl", orient="records", lines=True)
        else:
            table.to_csv(f"labels.{suffix}", sep="\t" if suffix == "tsv" else ",", index=False)
        return ["clip_embeddings.npy", f"labels.{suffix}"]

    return write


def splits_by_name(place):
    X, y, Xt, yt = made()
    np.savez("my_train.npz", X=X, y=NAMES[y])
    np.savez("my_test.npz", X=Xt, y=NAMES[yt])
    return ["my_train.npz", "my_test.npz"]


def tables_by_name(place):
    X, y, Xt, yt = made()
    np.save("train.npy", X)
    np.save("test.npy", Xt)
    pd.DataFrame({"class": NAMES[yt]}).to_csv("test.csv", index=False)
    pd.DataFrame({"class": NAMES[y]}).to_csv("train.csv", index=False)
    return ["train.npy", "test.npy", "test.csv", "train.csv"]


def parquet_lists(place):
    import pyarrow as pa
    import pyarrow.parquet as pq

    X, y, split = whole()
    table = pa.table({"category": NAMES[y], "vec": list(X), "split": split})
    pq.write_table(table, "a.parquet", row_group_size=7)
    return ["a.parquet"]


def parquet_fixed_lists(place):
    import pyarrow as pa
    import pyarrow.parquet as pq

    X, y, split = whole()
    lists = pa.FixedSizeListArray.from_arrays(pa.array(X.reshape(-1)), D)
    labels = pa.array(NAMES[y]).dictionary_encode()
    pq.write_table(pa.table({"label": labels, "embedding": lists, "split": split}), "a.parquet")
    return ["a.parquet"]


def parquet_wide(place):
    X, y, split = whole()
    table = pd.DataFrame(X, columns=[f"f{i}" for i in range(D)])
    table.assign(label=NAMES[y], split=split).to_parquet("a.parquet")
    return ["a.parquet"]


def csv_wide(place):
    X, y, split = whole()
    # In another order, which the numbers in the names put right.
    table = pd.DataFrame(X.astype(np.float64), columns=[f"x{i}" for i in range(D)])
    table = table[[f"x{i}" for i in reversed(range(D))]]
    table.assign(y=NAMES[y], split=split).to_csv("a.csv", index=False, sep=";")
    return ["a.csv"]


def jsonl_lists(place):
    X, y, split = whole()
    with open("a.jsonl", "w") as stream:
        for row in range(N + M):
            values = [float(value) for value in X[row]]
            line = {"label": NAMES[y[row]], "split": split[row], "embedding": values}
            stream.write(json.dumps(line) + "\n")
    return ["a.jsonl"]


def h5ad(place):
    import anndata

    X, y, split = whole()
    obs = pd.DataFrame({"cell_type": pd.Categorical(NAMES[y]), "split": split})
    obs.index = [f"cell {i}" for i in range(N + M)]
    anndata.AnnData(X=X, obs=obs).write_h5ad("a.h5ad")
    return ["a.h5ad", "--label-column", "cell_type"]


def h5ad_obsm(place):
    import anndata

    X, y, split = whole()
    obs = pd.DataFrame({"label": NAMES[y], "split": split}, index=[f"c{i}" for i in range(N + M)])
    cells = anndata.AnnData(X=np.zeros((N + M, 2), np.float32), obs=obs)
    cells.obsm["X_scvi"] = X
    cells.write_h5ad("a.h5ad")
    return ["a.h5ad", "--obsm", "X_scvi"]


def safetensors(place):
    from safetensors.numpy import save_file

    X, y, Xt, yt = made()
    arrays = {"train.features": X, "train.labels": y, "test.features": Xt, "test.labels": yt}
    save_file(arrays, "a.safetensors", metadata={"class_names": json.dumps(list(NAMES))})
    return ["a.safetensors"]


def torch_nested(place):
    import torch

    X, y, Xt, yt = made()
    content = {
        "train": {"features": torch.tensor(X), "labels": [str(n) for n in NAMES[y]]},
        "test": {"features": torch.tensor(Xt), "labels": [str(n) for n in NAMES[yt]]},
    }
    torch.save(content, "a.pt")
    return ["a.pt"]


def torch_pairs(place):
    import torch

    X, y, Xt, yt = made()
    torch.save((torch.tensor(X), torch.tensor(y)), "train.pt")
    torch.save((torch.tensor(Xt), torch.tensor(yt)), "test.pt")
    (place / "names.txt").write_text("\n".join(NAMES) + "\n")
    return ["train.pt", "test.pt", "--class-names", "names.txt"]


def torch_alone(place):
    import torch

    X, y, Xt, yt = made()
    for name, array in (("X_train", X), ("y_train", y), ("X_test", Xt), ("y_test", yt)):
        torch.save(torch.tensor(array), f"{name}.pt")
    (place / "names.json").write_text(json.dumps(list(NAMES)))
    files = [f"{name}.pt" for name in ("X_train", "y_train", "X_test", "y_test")]
    return [*files, "--class-names", "names.json"]


def hdf5_usual(place):
    X, y, Xt, yt = made()
    with h5py.File("a.hdf5", "w") as file:
        file["train/features"], file["test/features"] = X, Xt
        file["train/labels"] = NAMES[y].astype(object)
        file["test/labels"] = NAMES[yt].astype(object)
    return ["a.hdf5"]


def hdf5_paths(place):
    X, y, Xt, yt = made()
    with h5py.File("a.h5", "w") as file:
        file["deep/one"], file["other"] = X, Xt
        file["deep/two"] = NAMES[y].astype("S")
        file["b"] = NAMES[yt].astype("S")
    return ["a.h5", *paths("features", "/deep/one", "other"), *paths("labels", "deep/two", "/b")]


def paths(what, train, test):
    return [f"--{what}-path=train={train}", f"--{what}-path=test={test}"]


KINDS = [
    npz, npz_compressed_by_columns, npy, table_of("csv"), table_of("tsv"), table_of("jsonl"),
    table_of("parquet"), splits_by_name, tables_by_name, parquet_lists, parquet_fixed_lists,
    parquet_wide, csv_wide, jsonl_lists, h5ad, h5ad_obsm, safetensors, torch_nested, torch_pairs,
    torch_alone, hdf5_usual, hdf5_paths,
]  # fmt: skip


def name_of(kind):
    return kind.__name__ if kind.__name__ != "write" else f"table-{KINDS.index(kind)}"


@pytest.mark.parametrize("kind", KINDS, ids=name_of)
def test_the_rows_are_those_of_the_files(place, capsys, kind, warm_stage_one):
    X, y, Xt, yt = made()
    path = store_of(capsys, "import", *kind(place), "--name", "my set")
    assert path.startswith("features/my-set/imported-")
    found = content(path)
    assert found["classes"] == list(NAMES)
    for split, rows, labels in (("train", X, y), ("test", Xt, yt)):
        assert found[split]["features"].dtype == np.float32
        assert found[split]["features"].tobytes() == rows.tobytes()
        assert found[split]["labels"].tolist() == labels.tolist()
        assert len(set(found[split]["ids"])) == len(rows)
    open_features(path)  # every checksum is right


def test_the_same_files_are_found_again(place, capsys):
    words = ["import", *npz(place), "--name", "s"]
    first = store_of(capsys, *words)
    before = (place / first).stat().st_mtime_ns
    assert store_of(capsys, *words) == first
    (place / "elsewhere").mkdir()
    (place / "a.npz").rename(place / "elsewhere/a.npz")  # another place, the same content
    assert store_of(capsys, "import", "elsewhere/a.npz", "--name", "s") == first
    assert (place / first).stat().st_mtime_ns == before
    assert call(*words) == 2  # it is no longer there
    assert "does not exist" in capsys.readouterr().err
    X, y, Xt, yt = made(1)
    np.savez("a.npz", X_train=X, y_train=y, X_test=Xt, y_test=yt)
    assert store_of(capsys, *words) != first


def test_what_a_store_says_of_itself(place, capsys):
    path = store_of(capsys, "import", *npz(place), "--name", "s", "--model", "clip/b-32")
    assert path.startswith("features/s/clip-b-32-")
    spec = content(path)["spec"]
    digest = hashlib.sha256((place / "a.npz").read_bytes()).hexdigest()
    assert spec["imported"]["files"] == [{"name": "a.npz", "sha256": digest}]
    assert spec["model"]["name"] == "clip/b-32"
    assert spec["model"]["weights"]["source"] == "imported"
    assert content(path)["request"]["files"]["dataset"]["path"] == str(place / "a.npz")
    again = store_of(capsys, "import", "a.npz", "--name", "s", "--force")
    assert content(again)["spec"]["dataset"]["digest"] == spec["dataset"]["digest"]


def test_groups_weights_ids_and_rows_without_labels(place, capsys):
    X, y, _ = whole()
    labels = NAMES[y].astype(object)
    labels[[3, 45]] = None
    ids = [f"image {i}.png" for i in range(N + M)]
    patients = np.arange(N + M) // 4
    weights = np.linspace(0.5, 2, N + M)
    fold = np.array(["training"] * 30 + ["dev"] * (N - 30) + ["Testing"] * M)
    np.save("x.npy", X)
    pd.DataFrame(
        {
            "Target": labels, "fold": fold, "path": ids,
            "patient_id": patients, "sample_weight": weights,
        }
    ).to_csv("t.csv", index=False)  # fmt: skip
    found = content(store_of(capsys, "import", "x.npy", "t.csv", "--name", "s"))
    rows = {
        "train": [r for r in range(30) if r != 3],
        "validation": list(range(30, N)),
        "test": [r for r in range(N, N + M) if r != 45],
        "unlabelled": [3, 45],
    }
    for name, expected in rows.items():
        part = found[name]
        assert part["features"].tobytes() == X[expected].tobytes()
        assert part["ids"] == [ids[r] for r in expected]
        assert part["names"] == [labels[r] for r in expected]
        assert part["groups"] == [str(patients[r]) for r in expected]
        np.testing.assert_array_equal(part["weights"], weights[expected])
    assert any("2 rows have no label" in note for note in found["provenance"]["notes"])


def test_a_share_is_held_out_and_groups_stay_together(place, capsys):
    X, y, _ = whole()
    groups = np.repeat(np.arange(13), 4)
    np.savez("g.npz", X=X, y=y, groups=groups)
    np.savez("p.npz", X=X, y=y)
    words = ["--name", "s", "--test-fraction", "0.25"]
    found = content(store_of(capsys, "import", "g.npz", *words))
    train, test = (set(found[name]["groups"]) for name in ("train", "test"))
    assert test and not train & test
    assert sorted(found["train"]["ids"] + found["test"]["ids"]) == sorted(
        f"g.npz:{row}" for row in range(N + M)
    )
    plain = content(store_of(capsys, "import", "p.npz", *words))
    counts = np.bincount(plain["test"]["labels"])
    assert counts.tolist() == [3, 3, 3, 3]  # 13 rows a class, a quarter of each
    other = content(store_of(capsys, "import", "p.npz", *words, "--seed", "1"))
    assert other["test"]["ids"] != plain["test"]["ids"]
    assert "leave the option out" in refusal(capsys, "import", *npz(place), *words)


def test_classes_are_put_together_and_left_out(place, capsys):
    X, y, Xt, yt = made()
    words = ["--name", "s", "--merge-classes", "pet=ant,cow", "--drop-class", "dog"]
    found = content(store_of(capsys, "import", *npz(place), *words))
    assert found["classes"] == ["pet", "bee"]
    for split, rows, labels in (("train", X, y), ("test", Xt, yt)):
        kept = labels != 3
        assert found[split]["features"].tobytes() == rows[kept].tobytes()
        assert found[split]["labels"].tolist() == (labels[kept] == 1).astype(int).tolist()
        assert found[split]["ids"] == [f"a.npz:{split}:{row}" for row in np.flatnonzero(kept)]


def test_folds_are_splits_as_the_user_says(place, capsys):
    X, y, _ = whole()
    table = pd.DataFrame(X, columns=[f"feature_{i}" for i in range(D)])
    fold = np.arange(N + M) % 13 // 3
    table.assign(label=y, fold=fold).to_csv("f.csv", index=False)
    words = ["--name", "s", "--split-column", "fold:test=4,val=3"]
    found = content(store_of(capsys, "import", "f.csv", *words))
    for split, rows in (("train", fold < 3), ("validation", fold == 3), ("test", fold == 4)):
        np.testing.assert_array_equal(found[split]["features"], X[rows])


def test_types_and_notes(place, capsys):
    X, y, Xt, yt = made()
    np.savez("d.npz", X_train=X.astype(np.float64) + 1e-12, y_train=y, X_test=Xt, y_test=yt, z=y)
    path = store_of(capsys, "import", "d.npz", "--name", "s")
    notes = content(path)["provenance"]["notes"]
    assert "d.npz: features of float64 are stored as float32" in notes
    assert "d.npz: not read: z" in notes
    halves = [array.astype(np.float16) for array in (X, Xt)]
    np.savez("h.npz", X_train=halves[0], y_train=y, X_test=halves[1], y_test=yt)
    half = content(store_of(capsys, "import", "h.npz", "--name", "s"))
    assert half["train"]["features"].tobytes() == X.astype(np.float16).tobytes()
    wide = content(store_of(capsys, "import", "h.npz", "--name", "s", "--store-dtype", "float32"))
    assert wide["train"]["features"].dtype == np.float32
    whole_numbers = (X * 100).astype(np.int16)
    np.savez("i.npz", X_train=whole_numbers, y_train=y, X_test=whole_numbers[:12], y_test=yt)
    found = content(store_of(capsys, "import", "i.npz", "--name", "s"))
    np.testing.assert_array_equal(found["train"]["features"], whole_numbers)


def test_bfloat16_is_widened_exactly(place, capsys, warm_stage_one):
    import torch
    from safetensors.torch import save_file

    X, y, Xt, yt = made()
    rows = {"X_train": torch.tensor(X).bfloat16(), "X_test": torch.tensor(Xt).bfloat16()}
    rows |= {"y_train": torch.tensor(y), "y_test": torch.tensor(yt)}
    save_file(rows, "b.safetensors")
    torch.save(rows, "b.pt")
    expected = rows["X_train"].float().numpy().tobytes()
    for file in ("b.safetensors", "b.pt"):
        found = content(store_of(capsys, "import", file, "--name", "s"))
        assert found["train"]["features"].tobytes() == expected


@pytest.mark.parametrize("kind", ["csr", "csc"])
def test_sparse_features_are_made_dense(place, capsys, kind):
    import anndata
    import scipy.sparse

    X, y, split = whole()
    X = np.where(X > 0.5, X, 0).astype(np.float32)  # some rows are all zeros, which may be meant
    X[7] = 0
    obs = pd.DataFrame({"label": NAMES[y], "split": split}, index=[f"c{i}" for i in range(N + M)])
    table = getattr(scipy.sparse, f"{kind}_matrix")(X)
    anndata.AnnData(X=table, obs=obs).write_h5ad("a.h5ad")
    found = content(store_of(capsys, "import", "a.h5ad", "--name", "s"))
    np.testing.assert_array_equal(found["train"]["features"], X[:N])
    assert found["test"]["ids"] == [f"c{i}" for i in range(N, N + M)]


def test_blocks_are_smaller_than_the_files(place, capsys, monkeypatch):
    """Rows come out right where every way of reading is taken in many blocks."""
    from data.exchange import parquet, records

    monkeypatch.setattr(records, "BLOCK_BYTES", 5 * D * 4)
    monkeypatch.setattr(parquet, "_ROWS", 3)
    X, _, Xt, _ = made()
    kinds = [npz, npz_compressed_by_columns, npy, parquet_lists, parquet_wide, csv_wide]
    for number, kind in enumerate([*kinds, jsonl_lists, h5ad, safetensors, hdf5_paths]):
        words = ["import", *kind(place), "--name", f"s{number}"]
        found = content(store_of(capsys, *words))
        assert found["train"]["features"].tobytes() == X.tobytes(), kind
        assert found["test"]["features"].tobytes() == Xt.tobytes(), kind


@pytest.mark.parametrize("kind", ["npy", "npz"])
def test_a_large_file_is_not_read_whole(place, kind):
    """The peak of memory grows by some blocks of 8 MB, and the features take 131 MB."""
    rows = np.arange(64_000, dtype=np.float32)[:, None] + np.arange(512, dtype=np.float32)
    y, split = np.arange(64_000) % 3, np.where(np.arange(64_000) % 8, "train", "test")
    if kind == "npy":
        np.save("X.npy", rows)
        pd.DataFrame({"y": y, "split": split}).to_csv("y.csv", index=False)
        files = ["X.npy", "y.csv"]
    else:
        np.savez("X.npz", X=rows, y=y, split=split)
        files = ["X.npz"]
    code = (
        "import pandas, data.exchange.importing, data.exchange.text, data.exchange.npz\n"
        "from data.__main__ import main\n"
        "def peak(): return int(open('/proc/self/status').read().split('VmHWM:')[1].split()[0])\n"
        f"before = peak(); main(['import', *{files}, '--name', 's']); print(peak() - before)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    grown = int(done.stdout.split()[-1]) / 1024
    assert grown < 90, f"{grown:.0f} MiB"
