"""The feature store: what is written is what is read, and anything else is refused by name."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from data import UserError, open_features
from data.format.records import SplitSource, StoreError
from data.format.spec import canonical_json, find_stores, spec_key, store_path, work_dir
from data.format.text_heaps import DamagedTextError, check_references
from data.reading import iter_blocks, read_header, verify_store
from data.writing import join

ROOT = Path(__file__).parents[2]
NAMES = ("cat", "dog", "käse")


def make_spec(dtype="float32", **model):
    return {
        "dataset": {"name": "cifar10", "digest": "d" * 64, "limit": None},
        "model": {"name": "hf-hub:timm/tiny", **model},
        "preprocessing": {"image_size": 128},
        "store_dtype": dtype,
    }


def source(features, labels, ids, ok=None, block=7):
    ok = np.ones(len(features), bool) if ok is None else ok
    cuts = range(0, len(features), block)
    blocks = [(features[c : c + block], ok[c : c + block]) for c in cuts]
    return SplitSource(labels, ids, blocks)


def make_rows(n, width, dtype=np.float32, seed=0):
    return np.random.default_rng(seed).normal(size=(n, width)).astype(dtype)


def make(path, n_train=40, n_test=10, width=4, dtype="float32", **changes):
    """Write a small store; `changes` replace arguments of `join`."""
    splits = {
        name: source(
            make_rows(n, width, dtype, seed),
            np.arange(n) % len(NAMES),
            [f"{name}/{i:03d}.png" for i in range(n)],
        )
        for seed, (name, n) in enumerate((("train", n_train), ("test", n_test)))
    }
    arguments = {
        "spec": make_spec(dtype),
        "request": {"options": {"model": "tiny"}},
        "provenance": {"seconds": 1.5, "skipped_images": []},
        "class_names": NAMES,
        "splits": splits,
        **changes,
    }
    return join(path, **arguments)


def refusal(path, **options):
    """The message with which a file is refused: one that names it, of at most five lines."""
    for reader in (lambda: open_features(path, **options), lambda: verify_store(path)):
        with pytest.raises(StoreError) as caught:
            reader()
    message = str(caught.value)
    assert str(path) in message
    assert len(message.splitlines()) <= 5
    assert isinstance(caught.value, UserError)
    return message


@pytest.fixture
def store(tmp_path):
    path = tmp_path / "store.h5"
    make(path)
    return path


# -- round trips ------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("verify", [True, False])
def test_what_is_written_is_read(tmp_path, dtype, verify):
    path = tmp_path / "new" / "store.h5"
    report = make(path, dtype=dtype)
    found = open_features(path, verify=verify)
    assert found.path == report.header.path == path
    assert found.schema_version == 1
    assert found.spec == make_spec(dtype)
    assert found.key == spec_key(found.spec)
    assert found.request == {"options": {"model": "tiny"}}
    assert found.provenance == {"seconds": 1.5, "skipped_images": []}
    assert found.class_names == NAMES
    assert (found.n_train, found.n_test, found.n_features) == (40, 10, 4)
    for seed, (name, n) in enumerate((("train", 40), ("test", 10))):
        split = getattr(found, name)
        assert len(split) == n
        assert split.features.dtype == dtype == found.dtype
        np.testing.assert_array_equal(split.features, make_rows(n, 4, dtype, seed))
        np.testing.assert_array_equal(split.labels, np.arange(n) % 3)
        assert split.labels.dtype == np.int64
        assert split.ids == [f"{name}/{i:03d}.png" for i in range(n)]
        assert not split.features.flags.writeable
        assert not split.labels.flags.writeable
    assert repr(found) == f"<Features store.h5: 40 train + 10 test rows x 4 {dtype}, 3 classes>"
    assert repr(found.train) == f"<FeatureSplit 40 x 4 {dtype}>"
    assert list(path.parent.iterdir()) == [path]


names = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
counts = st.integers(0, 12)


@settings(max_examples=40, deadline=None)
@given(data=st.data(), n_test=counts, width=st.integers(1, 9), block=st.integers(1, 5))
def test_any_rows_come_back(data, n_test, width, block):
    n_train = data.draw(st.integers(1, 12))
    dtype = data.draw(st.sampled_from(["float32", "float16"]))
    class_names = data.draw(st.lists(names, min_size=1, max_size=5))
    splits, wanted = {}, {}
    for name, n in (("train", n_train), ("test", n_test)):
        values = st.floats(-60000, 60000, width=16).filter(bool)
        features = data.draw(npst.arrays(dtype, (n, width), elements=values))
        labels = data.draw(npst.arrays(np.int64, n, elements=st.integers(0, len(class_names) - 1)))
        ids = data.draw(st.lists(names, min_size=n, max_size=n, unique=True))
        ok = data.draw(npst.arrays(bool, n))
        if name == "train" and not ok.any():
            ok[data.draw(st.integers(0, n - 1))] = True
        features[~ok] = np.nan  # what stands in a row without an embedding does not matter
        splits[name] = source(features, labels, ids, ok, block)
        wanted[name] = features[ok], labels[ok], list(itertools.compress(ids, ok))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.h5"
        make(path, spec=make_spec(dtype), class_names=class_names, splits=splits)
        found = open_features(path)
        with h5py.File(path) as file:  # a reader that knows only HDF5 sees the same
            for name, (features, labels, ids) in wanted.items():
                split = getattr(found, name)
                np.testing.assert_array_equal(split.features, features)
                np.testing.assert_array_equal(split.labels, labels)
                assert split.ids == ids
                np.testing.assert_array_equal(file[name]["features"], features)
                assert [i.decode() for i in file[name]["ids"][()]] == ids
                digest = hashlib.sha256(b"".join(i.encode() + b"\0" for i in ids)).hexdigest()
                assert file[name]["ids"].attrs["sha256"] == digest
            assert json.loads(file.attrs["class_names"]) == class_names


def test_the_file_follows_the_documented_schema(store):
    with h5py.File(store) as file:
        assert file.attrs["schema_version"] == 1
        assert file.attrs["key"] == hashlib.sha256(file.attrs["spec"].encode()).hexdigest()
        for name in ("spec", "provenance", "request", "class_names"):
            json.loads(file.attrs[name])
        named = []
        file.visititems(lambda n, o: named.append(n) if isinstance(o, h5py.Dataset) else None)
        numbers = [name for name in named if not name.endswith("ids")]
        assert len(numbers) == len(named) - 2 == 4
        for name in numbers:
            assert file[name].id.get_create_plist().get_layout() == h5py.h5d.CONTIGUOUS
            digest = hashlib.sha256(file[name][()].tobytes()).hexdigest()
            assert file[name].attrs["sha256"] == digest
            # mapped into memory without HDF5, as the documentation promises
            at = file[name].id.get_offset()
            mapped = np.memmap(store, file[name].dtype, "r", at, file[name].shape)
            np.testing.assert_array_equal(mapped, file[name][()])
    report = verify_store(store)
    assert report.sealed
    assert report.size == store.stat().st_size
    assert {f"/{name}" for name in named} == {d.name for d in report.datasets}


def test_the_same_rows_give_the_same_bytes(tmp_path):
    make(tmp_path / "a.h5")
    time.sleep(1.1)  # HDF5 would keep times, in seconds, in each group
    make(tmp_path / "b.h5")
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()


def test_header_alone(store):
    header, whole = read_header(store), open_features(store)
    for name in ("key", "spec", "provenance", "request", "class_names", "n_train", "dtype"):
        assert getattr(header, name) == getattr(whole, name)


@pytest.mark.parametrize("rows", [1, 7, 40, 4096])
def test_blocks_make_up_the_split(store, rows):
    blocks = list(iter_blocks(store, "train", rows))
    whole = open_features(store).train
    assert {len(block) for block, _ in blocks[:-1]} <= {rows}
    np.testing.assert_array_equal(np.concatenate([b for b, _ in blocks]), whole.features)
    np.testing.assert_array_equal(np.concatenate([b for _, b in blocks]), whole.labels)


def test_blocks_are_verified(store):
    with h5py.File(store, "r+") as file:
        file["train/features"][39, 0] += 1
    with pytest.raises(StoreError, match=r"damaged: /train/features"):
        list(iter_blocks(store, "train", 8))
    assert len(list(iter_blocks(store, "train", 8, verify=False))) == 5
    with h5py.File(store, "r+") as file:
        file["train/features"][17, 0] = np.nan
    with pytest.raises(StoreError, match="first in row 17"):
        list(iter_blocks(store, "train", 8))
    with pytest.raises(ValueError, match="no split"):
        next(iter_blocks(store, "validation"))


def test_reading_needs_nothing_heavy_until_asked():
    code = (
        "import sys, data; a = {'h5py', 'numpy'} & set(sys.modules); "
        "from data import open_features; "
        "b = {'torch', 'timm', 'sklearn', 'scipy'} & set(sys.modules); print(a, b)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout == "set() set()\n"


# -- keys and names ---------------------------------------------------------------------------


def test_canonical_json_does_not_depend_on_order_or_kind_of_list():
    assert canonical_json({"b": (1, 2), "a": None}) == '{"a":null,"b":[1,2]}'
    assert canonical_json({"a": "ä\udc80"}) == '{"a":"\\u00e4\\udc80"}'
    with pytest.raises(ValueError, match="JSON"):
        canonical_json({"a": float("nan")})
    with pytest.raises(TypeError, match="names must be text"):
        canonical_json([{1: 2}])


def changed(value):
    if isinstance(value, dict):
        for name in value:
            yield {k: v for k, v in value.items() if k != name}
            for inner in changed(value[name]):
                yield {**value, name: inner}
    elif value is None:
        yield from (0, "", False)
    else:
        yield f"{value}x"
        yield None


def test_any_change_of_the_spec_changes_the_key():
    spec = make_spec(args={"pad_type": "same"}, seed=0)
    keys = [spec_key(other) for other in changed(spec)]
    assert spec_key(spec) not in keys
    assert len(set(keys)) == len(keys) > 20


def test_paths(tmp_path):
    spec = make_spec()
    key = spec_key(spec)
    expected = tmp_path / "cifar10" / f"hf-hub-timm-tiny-128px-{key[:8]}.h5"
    assert store_path(tmp_path, spec) == expected
    assert work_dir(tmp_path, key) == tmp_path / ".work" / key
    for name in ("../../etc", "..", "/", "a/b", ".hidden", "x" * 500, "k\udc80se"):
        path = store_path(tmp_path, {**spec, "dataset": {"name": name}, "model": {"name": name}})
        assert path.parent.parent == tmp_path
        assert path.parent.name[0] != "."
        assert len(path.name) < 200
    for size, text in (([128, 128], "128px"), ((64, 32), "64x32px")):
        path = store_path(tmp_path, {**spec, "preprocessing": {"image_size": size}})
        assert f"-{text}-" in path.name


def test_only_finished_stores_are_found(tmp_path):
    wanted = [tmp_path / "a" / "x.h5", tmp_path / "b" / "y.h5"]
    for path in [
        *wanted,
        tmp_path / "a" / ".tmp-1-00.h5",
        tmp_path / ".work" / "shard.h5",
        tmp_path / ".work" / "key" / "shard.h5",
        tmp_path / "top.h5",
        tmp_path / "a" / "notes.txt",
    ]:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    assert find_stores(tmp_path) == wanted
    assert find_stores(tmp_path / "nowhere") == []


# -- refused when read ------------------------------------------------------------------------


def test_missing(tmp_path):
    assert "does not exist" in refusal(tmp_path / "no.h5")
    assert "directory" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty"),
        (b"<!DOCTYPE html><html>", "not an HDF5 file: it begins with b'<!DOCTYP'"),
        (b"\x89HDF\r\n\x1a\n", "damaged"),
        (b"\x89HDF\r\n\x1a\n" + bytes(4000), "damaged"),
        (b"\x89HDF\r\n\x1a\n" + b"\xff" * 4000, "damaged"),
        (b"\x89HDF\r\n\x1a\n\x03\x08\x08" + b"\xff" * 4000, "truncated"),
    ],
)
def test_not_hdf5(tmp_path, content, words):
    (tmp_path / "a.h5").write_bytes(content)
    assert words in refusal(tmp_path / "a.h5")


def test_truncated_anywhere(store):
    content = store.read_bytes()
    end = content.rindex(b"\n", 0, -1)  # the seal alone may be gone: all else is whole then
    for size in {*range(0, len(content), 61), *range(end - 3, len(content))} - {end}:
        store.write_bytes(content[:size])
        message = refusal(store)
        assert any(word in message for word in ("truncated", "empty", "not an HDF5", "damaged"))
    store.write_bytes(content + b"more")
    assert "last line" in refusal(store)


def test_every_flipped_byte_is_found(tmp_path):
    """Every byte of the file, not a sample: HDF5 itself would miss half of them, or hang."""
    path = tmp_path / "a.h5"
    make(path, n_train=9, n_test=2, width=2)
    content = bytearray(path.read_bytes())
    assert len(content) < 10000
    with path.open("r+b", buffering=0) as file:
        for position, byte in enumerate(content):
            os.pwrite(file.fileno(), bytes([byte ^ (0x01, 0x80, 0xFF)[position % 3]]), position)
            with pytest.raises(StoreError):
                open_features(path)
            os.pwrite(file.fileno(), bytes([byte]), position)
    open_features(path)


def test_the_header_notices_all_but_the_arrays(store):
    content = store.read_bytes()
    at = content.index(b'"skipped_images"')
    store.write_bytes(content.replace(b'"skipped_images"', b'"skipped_imagez"'))
    assert store.read_bytes()[at:] != content[at:]
    with pytest.raises(StoreError, match="bytes outside its datasets"):
        read_header(store)


def set_attribute(name, value):
    def change(file):
        file.attrs[name] = value

    return change


def replace_dataset(name, **options):
    def change(file):
        old = {**file[name].attrs}
        data = options.pop("data", None)
        data = file[name][()] if data is None else data
        del file[name]
        file.create_dataset(name, data=data, **options).attrs.update(old)

    return change


def remove(name):
    def change(file):
        del file[name]

    return change


def remove_attribute(name, of="/"):
    def change(file):
        del file[of].attrs[name]

    return change


def put_value(name, index, value, *, signed=True):
    """Change a value; `signed` sets its digest, as a careful forger or a broken writer would."""

    def change(file):
        file[name][index] = value
        if signed:
            digest = hashlib.sha256(file[name][()].tobytes()).hexdigest()
            file[name].attrs["sha256"] = digest

    return change


def link_out(file):
    del file["train/features"]
    file["train/features"] = h5py.ExternalLink("/etc/other.h5", "/secret")


def link_group_out(file):
    del file["test"]
    file["test"] = h5py.ExternalLink("/etc/other.h5", "/secret")


def link_soft(file):
    del file["train/labels"]
    file["train/labels"] = h5py.SoftLink("/test/labels")


def store_outside(file):
    del file["train/features"]
    made = file.create_dataset(
        "train/features", (40, 4), "f4", external=[("/etc/passwd", 0, 40 * 4 * 4)]
    )
    made.attrs["sha256"] = "0" * 64


def virtual(file):
    layout = h5py.VirtualLayout((40, 4), "f4")
    layout[:] = h5py.VirtualSource("/etc/other.h5", "x", (40, 4))
    del file["train/features"]
    file.create_virtual_dataset("train/features", layout).attrs["sha256"] = "0" * 64


def huge(file):
    del file["test/features"]
    made = file.create_dataset("test/features", (1 << 40, 4), "f4")  # claims 16 TiB
    made.attrs["sha256"] = "0" * 64


BAD = {
    "newer schema": (set_attribute("schema_version", 2), ["schema 2", "upgrade Icebox"]),
    "schema of the future": (set_attribute("schema_version", 10**6), ["upgrade Icebox"]),
    "schema 0": (set_attribute("schema_version", 0), ["schema 0", "never existed"]),
    "schema text": (set_attribute("schema_version", "1"), ["schema_version"]),
    "no schema": (remove_attribute("schema_version"), ["not a feature store"]),
    "no key": (remove_attribute("key"), ["'key'"]),
    "no digest": (remove_attribute("sha256", "/test/ids"), ["/test/ids", "'sha256'"]),
    "key of another spec": (set_attribute("key", "0" * 64), ["its key is not the digest"]),
    "another spec": (set_attribute("spec", "{}"), ["its key is not the digest"]),
    "spec with NaN": (set_attribute("spec", '{"a":NaN}'), ["its key is not the digest"]),
    "spec not JSON": (set_attribute("spec", "{"), ["spec is not JSON"]),
    "deep JSON": (set_attribute("request", "[" * 200000), ["request is not JSON"]),
    "provenance a list": (set_attribute("provenance", "[]"), ["provenance is not a JSON dict"]),
    "large JSON": (set_attribute("request", " " * (17 << 20)), ["'request'", "more than"]),
    "number for text": (set_attribute("request", 5), ["'request'", "not text"]),
    "array for text": (set_attribute("request", ["a", "b"]), ["'request'", "not text"]),
    "no classes": (set_attribute("class_names", "[]"), ["class_names"]),
    "classes not text": (set_attribute("class_names", "[1,2,3]"), ["class_names"]),
    "no labels": (remove("test/labels"), ["no /test/labels"]),
    "no test": (remove("test"), ["no /test/features"]),
    "float64": (replace_dataset("train/features", dtype="f8"), ["float64", "expected float32"]),
    "mixed types": (replace_dataset("test/features", dtype="f2"), ["/test/features", "float16"]),
    "big-endian": (replace_dataset("train/features", dtype=">f4"), ["/train/features", ">f4"]),
    "int32 labels": (replace_dataset("train/labels", dtype="i4"), ["int32", "expected int64"]),
    "fixed ids": (
        replace_dataset("test/ids", data=np.array([b"a"] * 10)),
        ["/test/ids", "expected text"],
    ),
    "chunked": (replace_dataset("train/features", chunks=(5, 4)), ["contiguous"]),
    "compressed": (replace_dataset("train/features", compression="gzip"), ["contiguous"]),
    "fewer labels": (
        replace_dataset("train/labels", data=np.zeros(39, "i8")),
        ["/train/labels", "(39,)", "(40,)"],
    ),
    "other width": (
        replace_dataset("test/features", data=np.ones((10, 5), "f4")),
        ["(40, 4)", "(10, 5)", "width"],
    ),
    "flat": (replace_dataset("train/features", data=np.ones(160, "f4")), ["(160,)"]),
    "NaN": (
        put_value("train/features", (3, 1), np.nan),
        ["/train/features", "NaN or infinite values in 1 row (train/003.png)", "--precision"],
    ),
    "many infinite": (
        put_value("test/features", (slice(2, 9), 0), np.inf),
        ["7 rows (test/002.png, test/003.png, test/004.png, test/005.png, test/006.png, ...)"],
    ),
    "NaN unsigned": (
        put_value("train/features", (3, 1), np.nan, signed=False),
        ["damaged: /train/features", "NaN or infinite values in 1 rows (first: row 3)"],
    ),
    "value": (put_value("test/features", (0, 0), 5, signed=False), ["damaged: /test/features"]),
    "id": (put_value("test/ids", 0, "other", signed=False), ["damaged: /test/ids"]),
    "label too large": (put_value("train/labels", 5, 3), ["1 labels outside 0..2 (row 5: 3)"]),
    "negative label": (put_value("test/labels", 0, -1), ["outside 0..2 (row 0: -1)"]),
    "external link": (link_out, ["/train/features", "link"]),
    "external link to a group": (link_group_out, ["/test", "link"]),
    "soft link": (link_soft, ["/train/labels", "link"]),
    "external storage": (store_outside, ["/train/features", "other files"]),
    "virtual": (virtual, ["/train/features", "other files"]),
    "group for a dataset": (
        lambda file: (remove("test/labels")(file), file.create_group("test/labels")),
        ["/test/labels", "not a dataset"],
    ),
    "huge claim": (huge, ["/test/features", "17,592,186,044,416 bytes"]),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_content(store, case):
    change, words = BAD[case]
    with h5py.File(store, "r+", libver=("v110", "v110")) as file:
        change(file)
    message = refusal(store)
    for word in words:
        assert word in message
    if not case.startswith(("NaN", "many", "value", "id")):
        assert refusal(store, verify=False) == message


def test_a_store_from_another_program_is_read_and_said_not_to_be_sealed(store):
    """Written by plain h5py, in its default format, to the documented schema."""
    known = open_features(store)
    with h5py.File(store) as old, h5py.File(store.with_name("b.h5"), "w") as new:
        for split in ("train", "test"):
            for name in ("features", "labels", "ids"):
                made = new.create_dataset(f"{split}/{name}", data=old[split][name][()])
                made.attrs["sha256"] = old[split][name].attrs["sha256"]
        for name, value in old.attrs.items():
            new.attrs[name] = value
    found = open_features(store.with_name("b.h5"))
    np.testing.assert_array_equal(found.train.features, known.train.features)
    assert found.test.ids == known.test.ids
    assert not verify_store(store.with_name("b.h5")).sealed


def test_damaged_references_to_text_do_not_hang_the_reader(store):
    """HDF5 2.0 loops for ever on some of these, so Icebox follows the references itself."""
    with h5py.File(store, "r+") as file:  # which removes the seal
        at, count = file["train/ids"].id.get_offset(), file["train/ids"].size
    content = store.read_bytes()
    heap = int.from_bytes(content[at + 4 : at + 12], "little")
    assert content[heap : heap + 4] == b"GCOL"
    code = (
        "import sys; from data.reading import open_features; from data.store import StoreError\n"
        "for line in sys.stdin:\n"
        "  try: open_features(line.strip()); print('unnoticed', flush=True)\n"
        "  except StoreError as e: print(str(e)[-80:], flush=True)\n"
    )
    reader = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    changes = {p: 0xFF for p in [*range(at, at + 32), at + 16 * count - 1, *range(heap, heap + 16)]}
    for position, mask in changes.items():
        if heap + 5 <= position < heap + 8:  # reserved bytes, which nobody reads
            continue
        damaged = bytearray(content)
        damaged[position] ^= mask
        store.write_bytes(damaged)
        reader.stdin.write(f"{store}\n")
        reader.stdin.flush()
        assert reader.stdout.readline() not in ("", "unnoticed\n"), position - at
    reader.communicate(timeout=10)


def heap(*texts, length=None):
    """A text heap as HDF5 writes it."""
    content = b""
    for index, text in enumerate(texts, start=1):
        padded = text + bytes(-len(text) % 8)
        content += struct.pack("<HH4xQ", index, 1, len(text)) + padded
    content += bytes(16)
    return struct.pack("<4sB3xQ", b"GCOL", 1, length or len(content) + 16) + content


@pytest.mark.parametrize(
    ("reference", "heap_bytes", "words"),
    [
        ((3, 16, 1), heap(b"abc"), None),
        ((2, 16, 1), heap(b"abc"), None),
        ((0, 2**63, 9), heap(b"abc"), None),
        ((3, 15, 1), heap(b"abc"), "not a text heap"),
        ((3, 2**63, 1), heap(b"abc"), "beyond the end"),
        ((2**31, 16, 1), heap(b"abc"), "longer than the file"),
    ],
    ids=range(6),
)
def test_references_to_text_are_followed_only_inside_the_file(
    tmp_path, reference, heap_bytes, words
):
    content = struct.pack("<IQI", *reference) + heap_bytes
    (tmp_path / "a").write_bytes(content)
    with (tmp_path / "a").open("rb") as file:
        if words is None:
            check_references(file.fileno(), 0, 1, len(content))
            return
        with pytest.raises(DamagedTextError, match=words):
            check_references(file.fileno(), 0, 1, len(content))


def test_many_references_to_one_text_are_no_memory_bomb(tmp_path):
    content = struct.pack("<IQI", 9000, 1600, 1) * 100 + heap(b"x" * 9000)
    (tmp_path / "a").write_bytes(content)
    with (tmp_path / "a").open("rb") as file:
        with pytest.raises(DamagedTextError, match="longer than the file"):
            check_references(file.fileno(), 0, 100, len(content))
        check_references(file.fileno(), 0, 1, len(content))
        with pytest.raises(DamagedTextError, match="beyond the end"):
            check_references(file.fileno(), 0, 10**15, len(content))


def test_a_seal_of_another_version_excuses_nothing(store):
    store.write_bytes(store.read_bytes().replace(b'{"icebox_seal":1', b'{"icebox_seal":3'))
    assert "seal is of no version" in refusal(store)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_random_damage_never_gives_a_traceback_or_other_rows(data, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "damaged.h5"
    good = path.with_name("good.h5")
    if not good.exists():
        make(good)
    content = bytearray(good.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(content) - 1))
        junk = data.draw(st.binary(max_size=40))
        kind = data.draw(st.sampled_from(["overwrite", "insert", "delete"]))
        stop = start if kind == "insert" else start + max(1, len(junk))
        content[start:stop] = b"" if kind == "delete" else junk
    path.write_bytes(content)
    try:
        found = open_features(path)
    except StoreError:
        return
    assert bytes(content) == good.read_bytes()
    assert found.key == read_header(good).key


# -- refused when written ---------------------------------------------------------------------


def rows(values, ok=None, ids=None, labels=None):
    values = np.asarray(values, np.float32)
    ids = [f"i{n}" for n in range(len(values))] if ids is None else ids
    labels = np.zeros(len(ids), int) if labels is None else np.array(labels)
    return source(values, labels, ids, ok, block=2)


GOOD_TEST = rows([[1.0], [2.0]])
nan, inf = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("train", "words"),
    [
        (rows([[1], [nan], [2], [inf]]), ["train split", "2 rows (i1, i3)", "--precision fp32"]),
        (rows([[0]] * 9 + [[1]] * 8), ["train split", "zeros in 9 rows (i0, i1, i2, ", "weights"]),
        (rows([[1], [2]], ids=["a", "a"]), ["more than once: 1 row (a)"]),
        (rows([[1], [2]], ids=["a", "b\0"]), ["1 row ('b\\x00')"]),
        (rows([[1], [2]], ids=["a", "b\udcff"]), ["not valid UTF-8", "b\\udcff"]),
        (rows([[1], [2]], labels=[0, 3]), ["labels outside 0..2 in 1 row (i1)"]),
        (rows([[1], [2]], labels=[0, -1]), ["labels outside 0..2 in 1 row (i1)"]),
        (rows(np.empty((0, 1))), ["no training rows"]),
        (rows([[1], [2]], ok=np.zeros(2, bool)), ["no training row has an embedding"]),
    ],
)
def test_bad_rows_are_refused_and_the_old_file_stays(tmp_path, train, words):
    path = tmp_path / "a.h5"
    path.write_text("old")
    with pytest.raises(StoreError) as caught:
        make(path, splits={"train": train, "test": GOOD_TEST})
    for word in words:
        assert word in str(caught.value)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "splits",
    [
        {"train": rows([[1], [2]])},
        {"train": rows([[1], [2]]), "test": rows([[1, 2]])},
        {"train": rows([[1]], ids=["a", "b"], labels=[0, 0]), "test": GOOD_TEST},
        {"train": rows([[1], [2]], ids=["a"]), "test": GOOD_TEST},
        {"train": source(np.ones((2, 1)), np.zeros(2, int), ["a", "b"]), "test": GOOD_TEST},
    ],
)
def test_a_caller_who_contradicts_itself_is_told(tmp_path, splits):
    with pytest.raises(ValueError, match=r"split|row|ids|block|width"):
        make(tmp_path / "a.h5", splits=splits)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_interruption_leaves_no_file(tmp_path, error):
    def blocks():
        yield np.ones((1, 1), np.float32), np.ones(1, bool)
        raise error

    train = SplitSource(np.zeros(2, int), ["a", "b"], blocks())
    (tmp_path / "a.h5").write_text("old")
    with pytest.raises(error):
        make(tmp_path / "a.h5", splits={"train": train, "test": GOOD_TEST})
    assert [path.name for path in tmp_path.iterdir()] == ["a.h5"]
    assert (tmp_path / "a.h5").read_text() == "old"


def test_attributes_are_bounded(tmp_path):
    with pytest.raises(StoreError, match="provenance has more than"):
        make(tmp_path / "a.h5", provenance={"skipped_images": ["x" * 1000] * 20000})


def test_rows_without_embedding_are_left_out(tmp_path):
    """Including all of the test split, and rows that hold nonsense."""
    ok = np.arange(40) % 4 != 1
    values = make_rows(40, 5)
    values[~ok] = np.nan
    ids = [f"i{n}" for n in range(40)]
    train = source(values, np.arange(40) % 3, ids, ok)
    test = source(make_rows(4, 5), np.zeros(4, int), ids[:4], np.zeros(4, bool))
    seen = []
    make(tmp_path / "a.h5", splits={"train": train, "test": test}, on_rows=seen.append)
    found = open_features(tmp_path / "a.h5")
    np.testing.assert_array_equal(found.train.features, values[ok])
    np.testing.assert_array_equal(found.train.labels, (np.arange(40) % 3)[ok])
    assert found.train.ids == list(itertools.compress(ids, ok))
    assert found.test.features.shape == (0, 5)
    assert found.test.ids == []
    assert sum(seen) == 44


def test_features_whose_products_float32_cannot_hold_are_stored(tmp_path):
    values = make_rows(40, 4) * np.float32(1e25)
    train = source(values, np.arange(40) % 3, [f"i{n}" for n in range(40)])
    test = source(values[:3], np.zeros(3, int), ["a", "b", "c"])
    make(tmp_path / "a.h5", splits={"train": train, "test": test})
    found = open_features(tmp_path / "a.h5")
    np.testing.assert_array_equal(found.train.features, values)
    np.testing.assert_array_equal(found.test.features, values[:3])


def test_a_disk_that_gives_back_something_else_is_noticed(tmp_path, monkeypatch):
    import data.writing

    (tmp_path / "a.h5").write_text("old")
    real = data.writing.write_at

    def write_at(descriptor, offset, content):
        real(descriptor, offset, memoryview(bytes(content[:-1]) + b"\x07"))

    monkeypatch.setattr(data.writing, "write_at", write_at)
    with pytest.raises(StoreError, match="does not give back what was written"):
        make(tmp_path / "a.h5")
    assert (tmp_path / "a.h5").read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_store_replaces_an_older_one(store):
    make(store, provenance={"second": True})
    assert open_features(store).provenance == {"second": True}


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_large_rows_are_not_held_twice(tmp_path):
    """Peak memory of writing 64 MiB in blocks stays far below 64 MiB above the start."""
    code = """
import sys
import numpy as np
from data.writing import join
# Not ru_maxrss, which begins with the peak of the process that started this one.
peak = lambda: int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0])
from data.format.records import SplitSource
def rows(n):
    for start in range(0, n, 256):
        block = np.full((256, 1024), start + 1, np.float32)
        yield block, np.ones(256, bool)
def source(n):
    return SplitSource(np.zeros(n, int), [str(i) for i in range(n)], rows(n))
spec = {"store_dtype": "float32"}
def write(n):
    join(sys.argv[1], spec=spec, request={}, provenance={}, class_names=["a"],
         splits={"train": source(n), "test": source(256)})
import data.writing
data.writing._read_back = lambda path, temporary: None  # reading back loads the arrays once
write(256)
before = peak()
write(16384)
print(peak() - before)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "a.h5")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(done.stdout) < 48 << 10  # kB


HOLD = """
import sys, h5py
with h5py.File(sys.argv[1], sys.argv[2]):
    print("open", flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize(
    ("mode", "locking"), [("r+", "TRUE"), ("a", "FALSE"), ("r", "TRUE"), ("r", "FALSE")]
)
def test_a_store_that_another_program_holds_open(store, mode, locking):
    """For writing it is called that; for reading it is no hindrance."""
    content = store.read_bytes()
    environment = {**os.environ, "HDF5_USE_FILE_LOCKING": locking}
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(store), mode],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment,
    )  # fmt: skip
    with holder:
        assert holder.stdout.readline() == b"open\n"
        if mode == "r":
            assert verify_store(store).sealed
        else:
            message = refusal(store)
            assert "is open for writing in another program" in message
            assert "damaged" not in message
        holder.kill()  # it never closed the file: what it marked stays
    if mode != "r":
        assert "or one ended without closing it" in refusal(store)
    store.write_bytes(content)
    assert verify_store(store).sealed


@pytest.mark.parametrize("locale", [{"LC_ALL": "C.UTF-8"}, {"LC_ALL": "C", "PYTHONUTF8": "0"}])
@pytest.mark.parametrize("name", [b"caf\xe9.h5", "café.h5".encode()])
def test_a_name_that_the_locale_cannot_write(store, tmp_path, name, locale):
    """From the command line and from Python; in Latin-1 and in UTF-8 on the disk."""
    path = os.path.join(os.fsencode(tmp_path), name)
    os.replace(store, path)
    environment = {**os.environ, "PYTHONCOERCECLOCALE": "0", **locale}
    given = [[os.fsencode(sys.executable), b"-m", b"extract", b"verify", path, b"--rows", b"0"]]
    if name != b"caf\xe9.h5":
        code = "import sys; from data import open_features; open_features(ascii_name)"
        code = code.replace("ascii_name", ascii(path.decode()))
        given.append([os.fsencode(sys.executable), b"-c", code.encode()])
    for command in given:
        done = subprocess.run(command, capture_output=True, env=environment)
        assert done.returncode == 0, done.stderr
        assert done.stdout in (b"", path + b"\n")
