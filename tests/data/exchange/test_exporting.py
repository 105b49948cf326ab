"""What is exported is the store, and comes back as it was; nothing else is kept."""

import numpy as np
import pandas as pd
import pytest
from features_for_tests import NAMES, M, N, call, content, refusal, store_of, whole

from data.exchange import registry
from data.exchange.registry import KINDS


@pytest.fixture
def store(tmp_path, monkeypatch, capsys, request):
    """A store of every split, with groups, weights, odd names and odd values."""
    monkeypatch.chdir(tmp_path)
    X, y, split = whole()
    X[0, :4] = [-0.0, 1e-45, np.finfo(np.float32).max, np.float32(0.1)]
    labels = np.array(['ä, "b"', "NA", "10", "9"], dtype=object)[y]
    labels[[5, 41]] = None
    split[20:26] = "val"
    table = {
        "label": labels, "split": split, "id": [f"a/ü {i},x.png" for i in range(N + M)],
        "group": [f"g{i // 3}" for i in range(N + M)], "weight": np.arange(N + M) / 3,
    }  # fmt: skip
    np.save("x.npy", X)
    pd.DataFrame(table).to_csv("t.csv", index=False)
    return store_of(capsys, "import", "x.npy", "t.csv", "--name", "s")


@pytest.mark.parametrize("to", KINDS)
def test_round_trip(store, capsys, to, tmp_path):
    path = store_of(capsys, "export", store, "--to", to)
    assert path == str(store).removesuffix(".h5") + KINDS[to].suffix
    again = store_of(capsys, "import", path, "--name", "back")
    a, b = content(store), content(again)
    # The order of the names is that of the store where the format has a place for it.
    assert sorted(a["classes"]) == sorted(b["classes"])
    assert a["classes"] == b["classes"] or to == "csv"
    for split in ("train", "test", "validation", "unlabelled"):
        assert a[split]["features"].tobytes() == b[split]["features"].tobytes()
        for column in ("ids", "names", "groups"):
            assert a[split][column] == b[split][column]
        np.testing.assert_array_equal(a[split]["weights"], b[split]["weights"])


@pytest.mark.parametrize("to", KINDS)
def test_round_trip_of_halves(tmp_path, monkeypatch, capsys, to):
    monkeypatch.chdir(tmp_path)
    X, y, split = whole()
    np.savez("h.npz", X=X.astype(np.float16), y=NAMES[y], split=split)
    store = store_of(capsys, "import", "h.npz", "--name", "s")
    assert content(store)["train"]["features"].dtype == np.float16
    path = store_of(capsys, "export", store, "--to", to, "--out", tmp_path)
    words = ["--store-dtype", "float16"] if to == "csv" else []
    again = store_of(capsys, "import", path, "--name", "back", *words)
    for name in ("train", "test"):
        one, other = content(store)[name]["features"], content(again)[name]["features"]
        assert one.dtype == other.dtype and one.tobytes() == other.tobytes()


def test_other_programs_read_them(store, capsys):
    """Each format as its own library reads it, without a line of ours."""
    import anndata
    from safetensors.numpy import load_file

    files = {to: store_of(capsys, "export", store, "--to", to) for to in KINDS}
    expected = content(store)
    table = pd.read_parquet(files["parquet"])
    rows = table[table.split == "train"]
    np.testing.assert_array_equal(np.stack(rows.features), expected["train"]["features"])
    assert rows.label.tolist() == expected["train"]["names"]
    with np.load(files["npz"], allow_pickle=False) as arrays:
        np.testing.assert_array_equal(arrays["X_val"], expected["validation"]["features"])
        assert arrays["y_test"].tolist() == expected["test"]["names"]
        assert arrays["ids_unlabelled"].tolist() == expected["unlabelled"]["ids"]
    cells = anndata.read_h5ad(files["anndata"])
    assert cells.shape == (N + M, 6)
    test = cells[cells.obs.split == "test"]
    np.testing.assert_array_equal(test.X, expected["test"]["features"])
    assert test.obs.group.tolist() == expected["test"]["groups"]
    tensors = load_file(files["safetensors"])
    np.testing.assert_array_equal(tensors["X_train"], expected["train"]["features"])
    assert tensors["y_train"].tolist() == expected["train"]["labels"].tolist()
    text = pd.read_csv(files["csv"], keep_default_na=False)
    assert text.id.tolist()[:3] == expected["train"]["ids"][:3]
    columns = [name for name in text if name.startswith("feature_")]
    got = text[text.split == "test"][columns].to_numpy(np.float64).astype(np.float32)
    np.testing.assert_array_equal(got, expected["test"]["features"])


def test_files_are_for_whom_other_files_are_for(store, capsys, tmp_path):
    (tmp_path / "plain").write_text("")
    for to in KINDS:
        path = tmp_path / store_of(capsys, "export", store, "--to", to)
        assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode, to


def test_a_file_that_is_there_stays(store, capsys, tmp_path):
    (tmp_path / "a.csv").write_text("mine")
    said = refusal(capsys, "export", store, "--to", "csv", "--out", "a.csv")
    assert "a.csv exists already" in said and "--force" in said
    assert (tmp_path / "a.csv").read_text() == "mine"
    store_of(capsys, "export", store, "--to", "csv", "--out", "a.csv", "--force")
    assert (tmp_path / "a.csv").read_text().startswith("id,split,label,group,weight,feature_0,")


@pytest.mark.parametrize("to", KINDS)
def test_what_does_not_come_back_is_not_kept(store, capsys, to, tmp_path, monkeypatch):
    """A writer that gets one value wrong leaves no file, and an older one as it was."""
    good = registry.write

    def wrong(kind, path, out):
        first = out.splits[0]
        right = first.features
        features = right.read(0, first.n_rows)
        features[2, 3] += 1
        object.__setattr__(first, "features", features)
        good(kind, path, out)
        object.__setattr__(first, "features", right)

    monkeypatch.setattr("data.exchange.exporting.write", wrong)
    before = sorted(path.name for path in tmp_path.rglob("*"))
    said = refusal(capsys, "export", store, "--to", to)
    assert "the table of features of train is not what was written" in said
    assert sorted(path.name for path in tmp_path.rglob("*")) == before


def test_ids_and_labels_that_do_not_come_back(store, capsys, monkeypatch):
    good = registry.write

    def wrong(kind, path, out):
        names = out.splits[1].ids
        names[0], names[1] = names[1], names[0]
        good(kind, path, out)
        names[0], names[1] = names[1], names[0]

    monkeypatch.setattr("data.exchange.exporting.write", wrong)
    assert "the list of ids of test" in refusal(capsys, "export", store, "--to", "npz")


def test_equal_stores_give_equal_files(store, capsys, tmp_path):
    for to in ("npz", "parquet", "csv", "safetensors"):
        one = store_of(capsys, "export", store, "--to", to, "--out", f"1{KINDS[to].suffix}")
        other = store_of(capsys, "export", store, "--to", to, "--out", f"2{KINDS[to].suffix}")
        assert (tmp_path / one).read_bytes() == (tmp_path / other).read_bytes(), to


def test_a_damaged_store_is_not_exported(store, capsys, tmp_path):
    content = bytearray((tmp_path / store).read_bytes())
    content[4096 + 100] ^= 1
    (tmp_path / store).write_bytes(content)
    assert "damaged" in refusal(capsys, "export", store, "--to", "npz")


def test_memory_that_does_not_suffice(store, capsys, monkeypatch):
    monkeypatch.setattr("data.exchange.exporting.free_memory", lambda: 100)
    said = refusal(capsys, "export", store, "--to", "anndata")
    assert "written in blocks" in said
    assert call("export", store, "--to", "npz") == 0
