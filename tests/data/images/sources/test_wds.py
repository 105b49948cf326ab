"""Shards of WebDataset: which there are, their splits and labels, what is refused."""

from __future__ import annotations

import gzip
import io
import sys
import tarfile

import numpy as np
import pytest
from same_images import CLASSES, add_member, files_of, write_folder, write_tars

from data.common.errors import UserError
from data.dataset import dataset_name, load_dataset, source_fingerprint
from data.images.sources import tars, wds
from data.images.sources.registry import SourceRequest


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("images") / "folder")


@pytest.fixture
def shards(folder, tmp_path):
    return write_tars(folder, tmp_path / "tars")


def png(value=0):
    from PIL import Image

    content = io.BytesIO()
    Image.new("RGB", (4, 4), (value, 0, 0)).save(content, "png")
    return content.getvalue()


def write_tar(path, members):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in members:
            add_member(archive, name, content)
    return path


def read(word, **asked):
    return wds.read(SourceRequest(f"wds:{word}", asked.pop("data_dir", None), **asked))


def test_images_are_those_of_the_files(folder, shards):
    found = load_dataset(f"wds:{shards}/{{train,test}}-00{{0..1}}.tar", data_dir=shards)
    assert found.name == "tars" and found.class_names == CLASSES
    for name, split in found.splits.items():
        expected = files_of(folder, name)
        assert len(split) == len(expected)
        for row, (path, label) in enumerate(expected):
            assert split.images.records.read(int(split.images.rows[row])) == path.read_bytes()
            assert CLASSES[split.labels[row]] == label
    assert found.train.ids[:2] == ("train-000.tar/000000.jpg", "train-000.tar/000001.png")
    assert found.train.images.name(0) == f"{shards}/train-000.tar: 000000.jpg"


@pytest.mark.parametrize(
    "pattern",
    [
        "{shards}",
        "{shards}/*.tar",
        "{shards}/train-{{000..001}}.tar::{shards}/test-*.tar",
        "{shards}/{{train,test}}-{{000,001}}.tar",
    ],
)
def test_patterns_that_name_the_same_shards(pattern, shards):
    found = wds.find_shards("wds:" + pattern.format(shards=shards))
    assert sorted(path.name for path in found) == [
        f"{split}-00{i}.tar" for split in ("test", "train") for i in range(2)
    ]
    assert dataset_name("wds:" + pattern.format(shards=shards)) == "tars"


@pytest.mark.parametrize(
    ("names", "splits"),
    [
        (["imagenet-train-000.tar", "imagenet-val-000.tar"], ["train", "validation"]),
        (["train/0.tar", "Testing/0.tar"], ["train", "test"]),
        (["x_training_0.tar", "x_dev_0.tar", "x_test_0.tar"], ["train", "validation", "test"]),
        (["0.tar", "1.tar"], ["train", "train"]),
        (["web/test/latest-0.tar", "web/train/latest-1.tar"], ["test", "train"]),
    ],
)
def test_a_shard_is_of_the_split_that_its_name_or_folder_says(names, splits, tmp_path):
    shards = [tmp_path / name for name in names]
    root = wds._root(shards)
    found = wds._splits("wds:x", shards, root)
    assert {path: split for split, paths in found.items() for path in paths} == dict(
        zip(shards, splits, strict=True)
    )


@pytest.mark.parametrize(
    ("members", "labels", "columns"),
    [
        ([("a.cls", b"3"), ("b.cls", b"12\n")], ("3", "12"), {}),  # ordered as numbers
        ([("a.json", b'{"Label": "x"}'), ("b.json", b'{"Label": "y"}')], ("x", "y"), {}),
        ([("a.json", b"1"), ("b.json", b"0")], ("0", "1"), {}),
        ([("a.json", b'{"kind": 1.0}'), ("b.json", b'{"kind": 0}')], ("0", "1"), {"label": "kind"}),
        ([("a.txt", b"x"), ("b.txt", b"y")], ("x", "y"), {"label": "txt"}),
    ],
)
def test_labels(members, labels, columns, tmp_path):
    by_key = dict((name[0], (name, content)) for name, content in members)
    shard = [entry for key in "ab" for entry in ((f"{key}.PNG", png()), by_key[key])]
    write_tar(tmp_path / "train-0.tar", shard)
    write_tar(tmp_path / "test-0.tar", shard)
    assert read(tmp_path, columns=columns).class_names == labels


def test_groups_and_weights_are_fields(tmp_path):
    shard = []
    for i, key in enumerate("abcd"):
        fields = f'{{"label": {i % 2}, "patient": "p{i // 2}", "w": {i + 0.5}}}'
        shard += [(f"{key}.png", png(i)), (f"{key}.json", fields.encode())]
    write_tar(tmp_path / "train.tar", shard)
    write_tar(tmp_path / "test.tar", shard[:4])
    found = read(tmp_path, columns={"group": "patient", "weight": "w"})
    assert found.group_names == ("p0", "p1")
    assert found.train.groups.tolist() == [0, 0, 1, 1]
    assert found.train.weights.tolist() == [0.5, 1.5, 2.5, 3.5]
    assert found.test.groups.tolist() == [0, 0]


def test_one_of_several_images_is_named(tmp_path):
    shard = [
        entry
        for key in "ab"
        for entry in ((f"{key}.png", png(1)), (f"{key}.mask.png", png(2)), (f"{key}.cls", b"0"))
    ]
    shard[-1] = ("b.cls", b"1")
    write_tar(tmp_path / "train.tar", shard)
    write_tar(tmp_path / "test.tar", shard)
    with pytest.raises(UserError, match=r"the sample a has 2 images.*--image-column png"):
        read(tmp_path)
    found = read(tmp_path, columns={"image": "mask.png"})
    assert found.train.images.decode(0)[0, 0, 0] == 2


def test_a_fingerprint_sees_a_new_shard(shards, monkeypatch):
    before = source_fingerprint(f"wds:{shards}", data_dir=shards)
    assert before["path"] == str(shards)
    write_tar(shards / "train-002.tar", [("a.png", png()), ("a.cls", b"ant")])
    assert source_fingerprint(f"wds:{shards}", data_dir=shards) != before
    assert len(load_dataset(f"wds:{shards}", data_dir=shards).train) == 19


def test_nothing_is_unpacked_and_little_is_held(shards, tmp_path):
    before = sorted(path.name for path in tmp_path.rglob("*"))
    found = load_dataset(f"wds:{shards}", data_dir=tmp_path)
    found.train.images.decode(0)
    assert sorted(path.name for path in tmp_path.rglob("*")) == before
    held = found.train.images.records
    assert held.offset.nbytes + held.size.nbytes + held.shard.nbytes == 20 * len(held.members)


@pytest.mark.parametrize("cut", [100, 513, 3000, -1100])
def test_a_shard_that_is_cut_off(cut, shards):
    path = shards / "train-000.tar"
    path.write_bytes(path.read_bytes()[:cut] if cut > 0 else path.read_bytes()[: 9 * 1024])
    with pytest.raises(UserError, match=f"{path} is cut off or damaged, or is not a tar file"):
        read(shards)


def test_a_header_that_is_damaged(shards):
    """`tarfile` would end there, as if there were no more members."""
    path = shards / "train-000.tar"
    content = bytearray(path.read_bytes())
    with tarfile.open(path) as archive:
        third = archive.getmembers()[2]
    content[third.offset + 10] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(UserError, match=f"no header of a member at byte {third.offset:,}"):
        read(shards)


def test_a_shard_that_changes_later_is_noticed(shards):
    found = load_dataset(f"wds:{shards}", data_dir=shards)
    path = shards / "train-000.tar"
    content = bytearray(path.read_bytes())
    place = found.train.images.records.offset[0]
    content[place + 30] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(UserError, match="has changed since the dataset was read"):
        found.train.images.decode(0)
    path.write_bytes(content[: place + 30])
    with pytest.raises(UserError, match=f"{path} is cut off in 000000.jpg; get the shard again"):
        found.train.images.decode(0)


@pytest.mark.parametrize(
    ("members", "says"),
    [
        ([("a.cls", b"0")], r"the sample a has no image, only \.cls"),
        ([("a.png", b"")], r"the sample a has no label: neither \.cls nor \.json"),
        ([("a.png", b""), ("a.json", b"{}")], r"no label in its \.json: the fields are none"),
        ([("a.png", b""), ("a.json", b"{")], r"a \.json that cannot be read"),
        ([("a.png", b""), ("a.cls", b"\xff\xfe")], r"a \.cls that is not UTF-8 text"),
        ([("a.png", b""), ("a.cls", b"x" * 2_000_000)], r"\.cls of 2,000,000 bytes, too many"),
        ([("a.png", b""), ("a.cls", b"0"), ("a.png", b"")], "a.png: duplicate file name; write"),
        ([("README", b"")], "holds no sample"),
    ],
)
def test_samples_that_are_refused(members, says, tmp_path):
    path = write_tar(tmp_path / "train-0.tar", members)
    write_tar(tmp_path / "test-0.tar", [("a.png", png()), ("a.cls", b"0")])
    with pytest.raises(UserError, match=says) as refused:
        read(tmp_path)
    assert str(path) in str(refused.value)


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("{root}/none-{{000..009}}.tar", "it matches no file: .*none-000.tar.* and 7 more"),
        ("{root}/train-{{000..005}}.tar", "4 of its shards are missing"),
        ("{root}/train-{{000..", "the braces are not closed"),
        ("{root}/{{0..99999999}}.tar", "names more than 1,000,000 shards"),
        ("http://host/train-{{0..9}}.tar", "read from the disk, not from http:; fetch them first"),
        ("pipe:cat x.tar", "read from the disk, not from pipe:"),
        ("", "names no shards"),
        ("{root}/*", "the shard other.tar says no split, and others do"),
    ],
)
def test_patterns_that_are_refused(word, says, shards):
    write_tar(shards / "other.tar", [("a.png", png()), ("a.cls", b"0")])
    with pytest.raises(UserError, match=says):
        read(word.format(root=shards))


def test_a_compressed_shard(shards):
    path = shards / "train-000.tar"
    path.write_bytes(gzip.compress(path.read_bytes()))
    with pytest.raises(UserError, match=r"compressed as a whole .gzip.*gunzip train-000.tar"):
        read(shards)


def test_without_the_package(shards, monkeypatch):
    monkeypatch.setattr(wds, "package_folder", lambda name: None)
    with pytest.raises(UserError, match=r"needs the package webdataset.*pip install '.*\[wds"):
        read(shards)
    monkeypatch.setitem(sys.modules, "braceexpand", None)
    with pytest.raises(UserError, match=r"needs the package webdataset.*pip install '.*\[wds"):
        source_fingerprint(f"wds:{shards}", data_dir=shards)


def test_rows_of_a_large_member_are_read_whole(tmp_path, monkeypatch):
    """The system may give fewer bytes than asked for."""
    path = tmp_path / "x"
    path.write_bytes(bytes(range(256)) * 40)
    real = tars.os.pread
    monkeypatch.setattr(
        tars.os, "pread", lambda fd, size, offset: real(fd, min(size, 1000), offset)
    )
    found = tars.Shards((str(path),), *np.array([[0], [7], [9000]]), ("x",))
    assert found.read(0) == path.read_bytes()[7:9007]
