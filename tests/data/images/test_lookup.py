"""Images of stored rows, found again by their ids."""

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.common.errors import UserError
from data.dataset import load_dataset, source_fingerprint, source_sha256
from data.images.lookup import find_pictures
from data.images.sources import cifar


def request(dataset, data_dir=Path("nowhere"), **options):
    """What stage one writes into a store."""
    stamp = source_fingerprint(dataset, data_dir=data_dir, **options)
    stamp["sha256"] = source_sha256(dataset, data_dir=data_dir, **options)
    name = Path(dataset).name
    return {"options": {"dataset": name}, "files": {"dataset": stamp}}


def test_digits_come_from_scikit_learn():
    test = load_dataset("digits", data_dir=Path("nowhere")).test
    rows = [200, 3]
    found = find_pictures(request("digits"), [test.ids[row] for row in rows])
    for row, pixels in zip(rows, found, strict=True):
        assert np.array_equal(pixels, test.images.array[row])
    with pytest.raises(UserError, match="no test image digits:0"):
        find_pictures(request("digits"), ["digits:0"])


@pytest.mark.parametrize("kind", ["archive", "folder"])
def test_cifar_records_are_read_out_of_the_archive(tiny, tmp_path, monkeypatch, kind):
    if kind == "archive":
        tiny.pack(tmp_path / tiny.layout.archive)
        tiny.make_official(monkeypatch, tmp_path / tiny.layout.archive)
    else:
        tiny.unpack(tmp_path / tiny.layout.folder)
    test = load_dataset("cifar10", data_dir=tmp_path).test
    rows = [5, 0]
    ids = [test.ids[row] for row in rows]
    asked = request("cifar10", tmp_path)
    for place in (None, tmp_path):
        for row, pixels in zip(rows, find_pictures(asked, ids, place), strict=True):
            assert np.array_equal(pixels, test.images.array[row])
    for wrong in ("test_batch.bin:99999", "test_batch.bin:-1", "passwd", "batches.meta.txt:0"):
        with pytest.raises(UserError, match=f"has no image {wrong}"):
            find_pictures(asked, [wrong])
    asked["files"]["dataset"] |= {"stat": "0" * 64}
    assert len(find_pictures(asked, ids)) == 2  # a copy: the bytes decide
    asked["files"]["dataset"] |= {"sha256": "0" * 64}
    with pytest.raises(UserError, match="not the file that the features were made of"):
        find_pictures(asked, ids)
    with pytest.raises(UserError, match="there is no"):
        find_pictures(asked, ids, tmp_path / "elsewhere")


def test_an_archive_that_no_digest_proves_is_not_inflated_without_end(tiny, tmp_path, monkeypatch):
    """A store made from an unpacked folder says nothing of the bytes of an archive."""
    tiny.unpack(tmp_path / "a" / tiny.layout.folder)
    ids = load_dataset("cifar10", data_dir=tmp_path / "a").test.ids[:1]
    asked = request("cifar10", tmp_path / "a")
    monkeypatch.setattr(cifar, "SLACK_BYTES", 4 << 20)
    bomb = tarfile.TarInfo("bomb")
    bomb.size = 64 << 20
    (tmp_path / "b").mkdir()
    with tarfile.open(tmp_path / "b" / tiny.layout.archive, "w:gz") as archive:
        archive.addfile(bomb, io.BytesIO(bytes(bomb.size)))
    with pytest.raises(UserError, match="inflates to far more"):
        find_pictures(asked, ids, tmp_path / "b")


def test_images_of_a_folder_are_found_where_they_lie_now(tmp_path):
    rng = np.random.default_rng(0)
    root = tmp_path / "pets"
    for split in ("train", "test"):
        for name in ("cat", "dog"):
            folder = root / split / name
            folder.mkdir(parents=True)
            for i in range(2):
                pixels = rng.integers(0, 256, (5, 7, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{i}.png")
    test = load_dataset(str(root), data_dir=tmp_path).test
    asked = request(str(root), tmp_path)
    (pixels,) = find_pictures(asked, [test.ids[3]])
    assert np.array_equal(pixels, test.images.decode(3))
    moved = root.rename(tmp_path / "moved")
    with pytest.raises(UserError, match="is not there"):
        find_pictures(asked, [test.ids[3]])
    (again,) = find_pictures(asked, [test.ids[3]], moved)
    assert np.array_equal(again, pixels)
    for bad in ("cat/9.png", "../train/cat/0.png", str(moved / "test" / "cat" / "0.png")):
        with pytest.raises(UserError, match="there is no image"):
            find_pictures(asked, [bad], moved)


def test_a_store_that_does_not_say_is_told():
    with pytest.raises(UserError, match="does not say where"):
        find_pictures({}, ["a"])
