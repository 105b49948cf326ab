"""The same images give the same rows and the same key of content, whatever door they come by."""

from __future__ import annotations

import numpy as np
import pytest
from same_images import CLASSES, files_of, write_folder, write_saved, write_tars

from data import open_features
from extract import embed

SETTINGS = {
    "model": "test_efficientnet",
    "weights": "random",
    "image_size": 32,
    "batch_size": 16,
    "engine": "channels-last",
}
WORDS = [f"--{name.replace('_', '-')}={value}" for name, value in SETTINGS.items()]


@pytest.fixture(scope="module")
def doors(tmp_path_factory):
    """The same images as a folder, as what `datasets` saves, as Parquet, and as tars."""
    import datasets

    root = tmp_path_factory.mktemp("doors")
    folder = write_folder(root / "folder")
    saved = write_saved(folder, root / "saved")
    (root / "parquet").mkdir()
    for split, part in datasets.load_from_disk(str(saved)).items():
        part.to_parquet(str(root / "parquet" / f"{split}-00000-of-00001.parquet"))
    write_tars(folder, root / "tars")
    return root


@pytest.fixture
def embedded(call, tmp_path):
    """Embed what a word names, and open the store; nothing is taken over from another word's."""
    words = []

    def run(word, *more):
        if word not in words:
            words.append(word)
        done = call(
            *WORDS,
            f"--dataset={word}",
            f"--features-dir={tmp_path / 'features' / str(words.index(word))}",
            f"--data-dir={tmp_path / 'raw'}",
            "--jobs=2",
            *more,
        )
        assert done.code == 0, done.err
        return open_features(done.path)

    return run


def rows_of(store):
    """Give split, class and row of each image: in the same order, whatever the ids are."""
    return {
        name: [
            (store.class_names[label], row.tobytes())
            for label, row in zip(split.labels, np.asarray(split.features), strict=True)
        ]
        for name, split in store.splits.items()
    }


def content(store):
    return store.provenance["dataset"]["content_sha256"]


def test_doors_of_the_command_line_give_the_same_rows(doors, embedded):
    expected = embedded(doors / "folder")
    assert len(expected.train.labels) == 18 and len(expected.test.labels) == 12
    words = [
        f"hf:{doors / 'folder'}",
        f"hf:{doors / 'saved'}",
        f"hf:{doors / 'parquet'}",
        f"wds:{doors}/tars/{{train,test}}-{{000..001}}.tar",
        f"wds:{doors / 'tars'}",
    ]
    keys = {expected.path.name}
    for word in words:
        store = embedded(word)
        assert rows_of(store) == rows_of(expected), word
        assert content(store) == content(expected), word
        assert store.class_names == CLASSES
        assert embedded(word).path == store.path  # found, without reading it again
        keys.add(store.path.name)
    # Other ids are another data set to a store; the two words for the same shards are not.
    assert len(keys) == len(words)


def test_embed_gives_the_rows_of_files(doors, embedded, tmp_path):
    from PIL import Image

    expected = embedded(doors / "folder")
    settings = {**SETTINGS, "jobs": 2}
    files = {split: files_of(doors / "folder", split) for split in ("train", "test")}
    paths = embed(
        files["train"], test=files["test"], name="paths", features_dir=tmp_path / "1", **settings
    )
    coded = {
        split: [(path.read_bytes(), CLASSES.index(name)) for path, name in rows]
        for split, rows in files.items()
    }
    settings["class_names"] = CLASSES
    bytes_ = embed(coded, name="bytes", features_dir=tmp_path / "2", **settings)
    for store in (paths, bytes_):
        assert rows_of(store) == rows_of(expected)
        assert content(store) == content(expected)

    class Opened:
        """A data set as torch wants it, which opens its images."""

        def __init__(self, rows, form):
            self.rows, self.form = rows, form

        def __len__(self):
            return len(self.rows)

        def __getitem__(self, row):
            path, name = self.rows[row]
            return self.form(Image.open(path)), np.int64(CLASSES.index(name))

    for form in (lambda image: image, np.asarray):
        opened = {split: Opened(rows, form) for split, rows in files.items()}
        folder = tmp_path / f"of {form.__name__}"
        store = embed(opened, name="opened", features_dir=folder, **settings)
        assert rows_of(store) == rows_of(expected)
        assert content(store) != content(expected)  # the bytes of the files are not known
        assert store.class_names == CLASSES


def test_workers_of_a_cluster_read_them_too(doors, embedded, monkeypatch):
    """What stands for the images is sent to another process, as pickle."""
    import pickle

    from data.dataset import load_dataset

    for word in (f"hf:{doors / 'saved'}", f"wds:{doors / 'tars'}"):
        train = load_dataset(word, data_dir=doors / "raw").train
        sent = pickle.dumps(train.images.take(np.array([3, 1])).to_send())
        assert len(sent) < 5_000, word
        there = pickle.loads(sent)
        assert there.name(0) == train.images.name(3)
        for i, row in enumerate((3, 1)):
            assert np.array_equal(there.decode(i), train.images.decode(row))


@pytest.fixture
def stops_after_a_shard(monkeypatch):
    """Have Ctrl-C come while the second shard of 16 rows is written, once."""
    from extract.shards import fill, plan

    monkeypatch.setattr(plan, "SHARD_ROWS", 16)
    real, calls = fill.write_shard, []

    def write(*words, **more):
        calls.append(words)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*words, **more)

    monkeypatch.setattr(fill, "write_shard", write)


@pytest.mark.parametrize("kind", ["hf", "wds", "embed"])
def test_an_interrupted_run_goes_on(kind, doors, call, tmp_path, capsys, stops_after_a_shard):
    settings = {**SETTINGS, "features_dir": tmp_path, "jobs": 2}
    if kind == "embed":
        files = {split: files_of(doors / "folder", split) for split in ("train", "test")}
        parts = {name: [(p.read_bytes(), c) for p, c in rows] for name, rows in files.items()}
        with pytest.raises(KeyboardInterrupt, match="of 30 images are kept"):
            embed(parts, name="parts", **settings)
        store = embed(parts, name="parts", **settings)
        said = capsys.readouterr().err
    else:
        word = f"hf:{doors / 'saved'}" if kind == "hf" else f"wds:{doors / 'tars'}"
        words = [*WORDS, f"--dataset={word}", f"--features-dir={tmp_path}", "--jobs=2"]
        words.append(f"--data-dir={tmp_path / 'raw'}")
        done = call(*words)
        assert done.code == 130 and "of 30 images are kept" in done.err
        done = call(*words)
        store, said = open_features(done.path), done.err
    assert "going on: 16 of 30 images are done" in said
    whole = call(
        *WORDS, f"--dataset={doors / 'folder'}", f"--features-dir={tmp_path / 'whole'}", "--jobs=1"
    )
    assert rows_of(store) == rows_of(open_features(whole.path))


@pytest.mark.slow
@pytest.mark.skipif("not __import__('os').environ.get('ICEBOX_FAULTS')", reason="make faults")
@pytest.mark.parametrize("kind", ["hf", "wds"])
def test_a_killed_run_goes_on(kind, doors, call, tmp_path):
    """SIGKILL of a process of its own, in the middle of embedding."""
    import signal
    import subprocess
    import sys
    from pathlib import Path

    word = f"hf:{doors / 'saved'}" if kind == "hf" else f"wds:{doors / 'tars'}"
    words = [*WORDS, f"--dataset={word}", f"--features-dir={tmp_path}", "--jobs=2"]
    words.append(f"--data-dir={tmp_path / 'raw'}")
    halting = Path(__file__).parents[1] / "faults" / "halting.py"
    step = "extract.engines.embed.Embedder.embed@2"
    killed = subprocess.run(
        [sys.executable, str(halting), "kill", step, "--", "extract", *words],
        env={**__import__("os").environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
    )
    assert killed.returncode == -signal.SIGKILL
    assert list(tmp_path.glob(".work/*/plan.json"))
    store = open_features(call(*words).path)
    whole = call(*WORDS, f"--dataset={doors / 'folder'}", f"--features-dir={tmp_path / 'whole'}")
    assert rows_of(store) == rows_of(open_features(whole.path))
