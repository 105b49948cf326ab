"""The files that the fault tests point the command lines at; not a test."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path

import bad_tables
import numpy as np
from feature_world import build_features
from PIL import Image

ROOT = Path(__file__).parents[2]
TINY = [
    "--model=test_efficientnet",
    "--weights=random",
    "--image-size=32",
    "--batch-size=16",
    "--jobs=1",
]
DIGITS = ["--dataset=digits", "--limit=40", *TINY]


@dataclass
class Done:
    """How a command line ended."""

    code: int
    out: str
    err: str


def call(words, stdin=""):
    """Run ``extract ...``, ``classify ...`` or ``data ...`` in this process."""
    import classify.__main__
    import data.__main__
    import extract.__main__
    from data.common.cli import run

    programs = {"extract": extract, "classify": classify, "data": data}
    program = programs[words[0]].__main__.main
    out, err = io.StringIO(), io.StringIO()
    before, sys.stdin = sys.stdin, io.StringIO(stdin)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = run(program, words[1:])
    except SystemExit as leaving:
        code = leaving.code
    finally:
        sys.stdin = before
    return Done(code, out.getvalue(), err.getvalue())


def call_process(words, stdin="", **environment):
    """Run the same in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", *words],
        cwd=ROOT,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
    )
    return Done(done.returncode, done.stdout, done.stderr)


def digests(root):
    """Digest every file below a folder."""
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(Path(root).rglob("*"))
        if path.is_file()
    }


def save_image(path, value=0, size=(20, 20)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((*size, 3), value, np.uint8)).save(path)


def write_store(
    path, labels, test_labels, names, X=None, X_test=None, d=4, dtype="float32", *,
    validation=None, groups=None, weights=None,
):  # fmt: skip
    """Write a store of these labels; random features if none are given.

    `groups` and `weights` are the training rows'; `validation` is that split's labels.
    """
    from data.format.records import SplitSource
    from data.writing import join

    rng = np.random.default_rng(0)

    def source(split, y, rows):
        rows = rng.normal(size=(len(y), d)) if rows is None else rows
        rows = np.asarray(rows, dtype)
        ids = [f"{split}:{i}" for i in range(len(y))]
        blocks = [(rows, np.ones(len(y), bool))]
        mine = {"groups": groups, "weights": weights} if split == "train" else {}
        return SplitSource(np.asarray(y, np.int64), ids, blocks, **mine)

    more = {} if validation is None else {"validation": source("validation", validation, None)}
    spec = {
        "dataset": {"name": "made", "digest": "0" * 64, "limit": None},
        "model": {"name": "m", "args": {}, "weights": {"source": "random", "digest": "1" * 64}},
        "preprocessing": {"image_size": 8},
        "pool": "default", "precision": "fp32", "store_dtype": dtype, "seed": 0,
    }  # fmt: skip
    join(
        path,
        spec=spec,
        request={},
        provenance={},
        class_names=list(names),
        splits={
            "train": source("train", labels, X),
            "test": source("test", test_labels, X_test),
            **more,
        },
        group_names=() if groups is None else [f"g{i}" for i in range(max(groups) + 1)],
    )
    return path


def forge(path, **attributes):
    """Write a store, and change attributes of it with another program."""
    import h5py

    write_store(path, [0, 1] * 6, [0, 1], ["a", "b"])
    with h5py.File(path, "r+") as file:
        file.attrs.update(attributes)
    return path


def build(root):
    """Make the world; returns the paths by the names that the table uses."""
    from safetensors.numpy import load_file, save_file

    from data.format.spec import canonical_json, spec_key

    at = {"root": root}

    def put(name, content):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        at[Path(name).name.replace(".", "_").replace("-", "_")] = path
        return path

    bad_tables.build(root, at)

    # A real store, and a real run on it.
    done = call(["extract", *DIGITS, f"--features-dir={root}/features"])
    assert done.code == 0, done.err
    at["features"], at["store"] = root / "features", Path(done.out.split()[-1])
    words = ["fit", str(at["store"]), "--c=1", "--jobs=1", f"--reports-dir={root}/reports"]
    done = call(["classify", *words])
    assert done.code == 0, done.err
    at["run"] = Path(done.out.split()[-1]).parent
    at["head"] = at["run"] / "heads" / "ovr.safetensors"

    # Broken stores.
    whole = at["store"].read_bytes()
    put("stores/truncated.h5", whole[: len(whole) // 2])
    put("stores/flipped.h5", whole[:9000] + bytes([whole[9000] ^ 1]) + whole[9001:])
    put("stores/empty.h5", b"")
    put("stores/text.h5", b"not HDF5 at all")
    for name, labels, test in (
        ("one_class", [0] * 6, [0, 0]),
        ("no_test", [0, 1] * 6, []),
        ("one_row", [0, 1, 2], [0, 1, 2]),
    ):
        at[name] = write_store(root / "stores" / f"{name}.h5", labels, test, ["a", "b", "c"])
    at["twins"] = write_store(root / "stores" / "twins.h5", [0, 1] * 6, [0, 1], ["a", "a"])
    some = [0, 1, 2] * 4
    for name, more in (
        ("whole_groups", {"groups": np.array(some)}),
        ("one_validated", {"validation": [1, 1]}),
        ("only_validated", {"labels": [0, 1] * 6, "validation": [0, 2]}),
        ("no_weight", {"weights": np.array(some) * 1.0}),
    ):
        labels = more.pop("labels", some)
        path = root / "stores" / f"{name}.h5"
        at[name] = write_store(path, labels, [0, 1, 2], ["a", "b", "c"], **more)
    put("class_weights/text.json", '{"a": 1')
    put("class_weights/wide.csv", "a,1,2\n")
    put("class_weights/other.csv", "a,1\nb,1\nd,1\n")
    put("class_weights/part.csv", "a,1\nb,1\n")
    put("class_weights/below.csv", "a,1\nb,-1\nc,1\n")
    put("class_weights/endless.json", '{"a": 1, "b": 1e999, "c": 1}')
    at["class_weights"] = root / "class_weights"
    spec = {"model": "a name where an object should be"}
    forged = {"spec": canonical_json(spec), "key": spec_key(spec)}
    at["odd_h5"] = forge(root / "stores" / "odd.h5", **forged)
    at["newer_h5"] = forge(root / "stores" / "newer.h5", schema_version=9)
    # A file cut by something else under the very name that a run's store would have.
    taken = root / "taken" / "digits" / at["store"].name
    taken.parent.mkdir(parents=True)
    taken.write_bytes(whole[: len(whole) // 2])
    at["taken"] = root / "taken"
    at["wide"] = write_store(
        root / "stores" / "wide.h5", np.arange(400) % 2, [0, 1], ["a", "b"], d=500
    )

    # Where one class has many rows, fits of few rows cannot spare the memory.
    many = np.append(np.arange(240) % 120, np.zeros(70, dtype=np.int64))
    names = [f"class {i}" for i in range(120)]
    at["many"] = write_store(root / "stores" / "many.h5", many, many[:120], names, d=64)

    # Weights, real and not.
    state = {"some.weight": np.ones((2, 3), np.float32)}
    save_file(state, put("weights/other.safetensors", b""))
    good = (root / "weights/other.safetensors").read_bytes()
    put("weights/short.safetensors", good[:-5])
    put("weights/page.safetensors", b"<!doctype html><title>Sign in</title>")
    put("weights/huge_header.safetensors", (1 << 62).to_bytes(8, "little") + b"{}" * 50)
    put("weights/pickle.pth", b"\x80\x04K\x01.")
    put("weights/none.safetensors", (2).to_bytes(8, "little") + b"{}")

    # Heads.
    tensors = load_file(at["head"])
    from safetensors import safe_open

    with safe_open(at["head"], framework="numpy") as stored:
        metadata = stored.metadata()

    def head(name, metadata=metadata, **changed):
        save_file({**tensors, **changed}, put(f"heads/{name}.safetensors", b""), metadata=metadata)
        at[name] = root / "heads" / f"{name}.safetensors"

    head("newer_head", {**metadata, "format_version": "9"})
    head("nan_head", coef=np.full_like(tensors["coef"], np.nan))
    head("odd_head", intercept=tensors["intercept"][:-1])
    head("no_names_head", {k: v for k, v in metadata.items() if k != "class_names"})
    head("cold_head", {**metadata, "temperature": "0"})
    spec = json.loads(metadata["spec"])
    head("foreign_head", {**metadata, "spec": json.dumps({**spec, "model": 7})})
    other = {**spec["model"], "weights": {"source": "random", "digest": "0" * 64}}
    head("other_weights_head", {**metadata, "spec": json.dumps({**spec, "model": other})})
    source = {**spec["model"], "weights": {"source": "file", "digest": "0" * 64}}
    gone = {"spec": json.dumps({**spec, "model": source}), "weights_file": "/gone.safetensors"}
    head("file_head", {**metadata, **gone})

    pickled = {**spec["model"], "args": {"checkpoint_path": str(at["pickle_pth"])}}
    head("pickle_head", {**metadata, "spec": json.dumps({**spec, "model": pickled})})

    import skops.io
    from sklearn.linear_model import Ridge

    for name, content in {
        "newer_model": {"format": "icebox-head", "format_version": 9},
        "other_model": {"format": "something"},
        "strange_model": {"format": "icebox-head", "format_version": 1, "state": Ridge()},
    }.items():
        at[name] = put(f"heads/{name}.skops", skops.io.dumps(content))
    at["cut_model"] = put("heads/cut.skops", at["newer_model"].read_bytes()[:-40])

    # Images.
    save_image(root / "images/good.png")
    at["good"] = root / "images/good.png"
    raw = at["good"].read_bytes()
    put("images/cut.png", raw[: len(raw) // 2])
    put("images/page.jpg", "<html>not found</html>")
    put("images/empty.jpg", b"")
    (root / "no_images").mkdir()
    at["no_images"] = root / "no_images"

    # Datasets in folders.
    def dataset(name, *files, bad=()):
        for number, file in enumerate(files):
            save_image(root / name / file, number)
        for file in bad:
            (root / name / file).parent.mkdir(parents=True, exist_ok=True)
            (root / name / file).write_bytes(b"no image")
        at[name] = root / name

    splits = [f"{s}/{c}/{i}.png" for s in ("train", "test") for c in "ab" for i in (0, 1)]
    dataset("good_images", *splits)
    dataset("bad_image", *splits, bad=["train/a/2.png"])
    dataset("only_train", *[name for name in splits if name.startswith("train")])
    dataset("only_test", *[name for name in splits if name.startswith("test")])
    dataset("one_class_images", "train/a/0.png", "test/a/0.png")
    dataset("new_class", *splits, "test/c/0.png")
    dataset("classes", "a/0.png", "a/1.png", "b/0.png", "b/1.png")
    dataset("one_each", "a/0.png", "b/0.png")
    dataset("empty_class", *splits, bad=["train/c/notes.txt"])
    (root / "nothing").mkdir()
    at["nothing"] = root / "nothing"

    # Archives.
    put("raw/cifar-10-binary.tar.gz", b"\x1f\x8b not the archive")
    put("page/cifar-10-binary.tar.gz", b"<!DOCTYPE html>\n<html>")
    (root / "unpacked/cifar-10-batches-bin").mkdir(parents=True)
    put("unpacked/cifar-10-batches-bin/test_batch.bin", b"short")
    at["raw"], at["page"], at["unpacked"] = root / "raw", root / "page", root / "unpacked"

    # Shards and data sets of other libraries.
    for name, members in (
        (
            "shards/train-0.tar",
            {
                f"{i}.{end}": raw if end == "png" else b"01"[i % 2 : i % 2 + 1]
                for i in range(4)
                for end in ("png", "cls")
            },
        ),
        ("shards/test-0.tar", {"a.png": raw, "a.cls": b"0"}),
        ("no_label/train-0.tar", {"a.png": raw}),
        ("no_image/train-0.tar", {"a.cls": b"0"}),
    ):
        with tarfile.open(put(name, b""), "w") as archive:
            for member, content in members.items():
                info = tarfile.TarInfo(member)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    put("cut_shard/train-0.tar", (root / "shards/train-0.tar").read_bytes()[:700])
    put("texts/train.csv", "text,label\nred,0\nblue,1\n")
    for name in ("shards", "no_label", "no_image", "cut_shard", "texts"):
        at[name] = root / name

    # Runs.
    results = json.loads((at["run"] / "results.json").read_text())
    put("runs/text/results.json", "{")
    put("runs/newer/results.json", json.dumps({**results, "schema_version": 2}))
    put("runs/part/results.json", json.dumps({**results, "strategies": {"ovr": {}}}))
    odd_store = {**results["store"], "spec": {**results["store"]["spec"], "model": "text"}}
    put("runs/odd/results.json", json.dumps({**results, "store": odd_store}))
    at["runs"] = root / "runs"

    # Specs and lists for `extract images`.
    put("specs/text.json", "{")
    put("specs/part.json", '{"spec": {"model": 1}}')
    put("specs/odd.json", json.dumps({"spec": {**spec, "model": 7}}))
    put("specs/pickle.json", json.dumps({"spec": {**spec, "model": pickled}}))
    odd_mean = {**spec["preprocessing"], "mean": ["red", 0, 0]}
    put("specs/odd_mean.json", json.dumps({"spec": {**spec, "preprocessing": odd_mean}}))
    put("specs/spec.json", json.dumps({"spec": spec, "weights_file": None}))
    put("specs/empty_list.json", "[]")
    # Features that others made, and a head that was fitted on such.
    at |= build_features(root, put)
    done = call(["data", "import", at["own_good"], "--name=own", f"--features-dir={root}/imported"])
    assert done.code == 0, done.err
    at["own_store"] = done.out.split()[-1]
    words = [
        "--c=1",
        "--jobs=1",
        "--no-few-shot",
        "--strategy=ovr",
        f"--reports-dir={root}/own-runs",
    ]
    done = call(["classify", "fit", at["own_store"], *words])
    assert done.code == 0, done.err
    at["own_head"] = Path(done.out.split()[-1]).parent / "heads" / "ovr.safetensors"
    at["file"] = put("file", "a file where a folder should be")
    return {name: str(path) for name, path in at.items()}
