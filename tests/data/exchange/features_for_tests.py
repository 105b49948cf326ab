"""A small set of features with labels, and files of it in every format; not a test."""

from __future__ import annotations

import json

import h5py
import numpy as np

from data.__main__ import main
from data.common.cli import run

NAMES = np.array(["ant", "bee", "cow", "dog"])
N, M, D = 40, 12, 6


def made(seed=0):
    """Rows and labels of two splits, each class in both."""
    rng = np.random.default_rng(seed)
    y, yt = np.arange(N) % 4, np.arange(M) % 4
    X = rng.normal(size=(N, D)).astype(np.float32)
    Xt = rng.normal(size=(M, D)).astype(np.float32)
    return X, y, Xt, yt


def whole(seed=0):
    """The same in one table: features, labels, split."""
    X, y, Xt, yt = made(seed)
    return np.r_[X, Xt], np.r_[y, yt], np.array(["train"] * N + ["test"] * M)


def call(*words):
    """Run the command line in this process; returns its exit code."""
    return run(main, [str(word) for word in words])


def store_of(capsys, *words):
    """Run a command that must work; returns the path it printed."""
    capsys.readouterr()
    code = call(*words)
    out, err = capsys.readouterr()
    assert code == 0, err
    return out.strip().split("\n")[-1]


def refusal(capsys, *words):
    """Run a command that must be refused; returns its message."""
    capsys.readouterr()
    code = call(*words)
    out, err = capsys.readouterr()
    assert code == 2, (code, out, err)
    assert out == "" and "Traceback" not in err
    return err


def content(path):
    """Read a store with h5py alone: names of classes and groups, and every column of a split."""
    with h5py.File(path) as file:
        found = {"classes": json.loads(file.attrs["class_names"])}
        groups = json.loads(file.attrs.get("group_names", "[]"))
        for split in file:
            part = {name: file[split][name][()] for name in file[split]}
            part["ids"] = [text.decode() for text in part["ids"]]
            part["names"] = [found["classes"][i] if i >= 0 else None for i in part["labels"]]
            if "groups" in part:
                part["groups"] = [groups[i] for i in part["groups"]]
            found[split] = part
        found["spec"] = json.loads(file.attrs["spec"])
        found["request"] = json.loads(file.attrs["request"])
        found["provenance"] = json.loads(file.attrs["provenance"])
    return found
