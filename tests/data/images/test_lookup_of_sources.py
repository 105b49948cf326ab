"""The images behind rows of other sources, for looking at: where they lie now, or why not."""

from __future__ import annotations

import shutil
from functools import partial

import numpy as np
import pytest
from same_images import files_of, write_folder, write_saved, write_tars

from data.common.errors import UserError
from data.dataset import finish, load_dataset
from data.images.decode import decode_image
from data.images.lookup import find_pictures
from data.images.sources import sequences
from data.images.sources.registry import SourceRequest

IDS = slice(1, 12, 3)


@pytest.fixture(scope="module")
def doors(tmp_path_factory):
    root = tmp_path_factory.mktemp("doors")
    folder = write_folder(root / "folder")
    write_saved(folder, root / "saved")
    write_tars(folder, root / "tars")
    return root


@pytest.mark.parametrize("word", ["hf:{0}/folder", "hf:{0}/saved", "wds:{0}/tars"])
def test_images_are_found_again(word, doors, tmp_path, monkeypatch):
    found = load_dataset(word.format(doors), data_dir=tmp_path)
    monkeypatch.chdir(tmp_path)
    ids = found.test.ids[IDS]
    pictures = find_pictures({}, ids, None, decode_image, found.origin)
    for picture, row in zip(pictures, range(1, 12, 3), strict=True):
        assert np.array_equal(picture, found.test.images.decode(row))
    # Thumbnails of files are decoded as small as they may be.
    small = partial(decode_image, wanted=lambda height, width: (height, width))
    assert len(find_pictures({}, ids, None, small, found.origin)) == 4
    for wrong in (
        "test/9999",
        "../x",
        "test-009.tar/000000.png",
        "test/ant/9.png",
        "test-000.tar/q",
    ):
        with pytest.raises(UserError, match=r"no image|no shard"):
            find_pictures({}, [wrong], None, decode_image, found.origin)


@pytest.mark.parametrize("kind", ["hf", "wds", "torchvision"])
def test_of_a_store_that_does_not_say_where(kind):
    for origin in ({"kind": kind}, {"kind": kind, "source": 1, "path": 2, "columns": 3, "root": 4}):
        with pytest.raises(UserError, match="does not say where its images came from"):
            find_pictures({}, ["test/0"], None, decode_image, origin)


def test_of_a_folder_that_moved(doors, tmp_path):
    shutil.copytree(doors / "folder", tmp_path / "there")
    found = load_dataset(f"hf:{tmp_path / 'there'}", data_dir=tmp_path)
    (tmp_path / "there").rename(tmp_path / "moved")
    with pytest.raises(UserError, match=r"there is no image test/ant/1.png in"):
        find_pictures({}, found.test.ids[1:2], None, decode_image, found.origin)
    ids = found.test.ids[1:2]
    assert find_pictures({}, ids, tmp_path / "moved", decode_image, found.origin)
    # Of what `save_to_disk` wrote, too, it is said.
    saved = load_dataset(f"hf:{doors / 'saved'}", data_dir=tmp_path)
    gone = {**saved.origin, "path": str(tmp_path / "gone"), "source": f"hf:{tmp_path / 'gone'}"}
    with pytest.raises(UserError, match=r"the folder .* is not there"):
        find_pictures({}, ["test/0"], None, decode_image, gone)


def test_of_a_name_of_the_hub_without_a_network(doors, tmp_path, monkeypatch):
    """What `datasets` keeps of a name is opened where it is, and nothing is asked of the hub."""
    datasets = pytest.importorskip("datasets")
    parts = datasets.load_from_disk(str(doors / "saved"))
    (tmp_path / "parquet").mkdir()
    for split, part in parts.items():
        part.to_parquet(str(tmp_path / "parquet" / f"{split}.parquet"))
    made = load_dataset(f"hf:{tmp_path / 'parquet'}", data_dir=tmp_path / "other")
    (info,) = (tmp_path / "other").rglob("dataset_info.json")
    kept = tmp_path / "raw" / "huggingface" / "owner___parquet" / "default" / "0.0.0"
    shutil.copytree(info.parent, kept / info.parent.name)

    def refuse(*_, **__):
        raise AssertionError("the network is asked")

    monkeypatch.setattr("socket.create_connection", refuse)
    monkeypatch.setattr("socket.socket.connect", refuse)
    path = str(tmp_path / "raw" / "huggingface")
    origin = {**made.origin, "source": "hf:owner/parquet", "path": path}
    (picture,) = find_pictures({}, ["test/5"], None, decode_image, origin)
    assert np.array_equal(picture, made.test.images.decode(5))
    # A store of it is made without one, too, where HF_HUB_OFFLINE is set.
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    found = load_dataset("hf:owner/parquet", data_dir=tmp_path / "raw")
    assert found.origin["content_sha256"] == made.origin["content_sha256"]
    assert found.origin["path"] == path


def test_of_torchvision(tmp_path, monkeypatch):
    import torchvision.datasets
    from PIL import Image

    class Made:
        def __init__(self, root, train=True, download=False):
            self.train = train
            if download:
                raise AssertionError("it is downloaded")

        def __len__(self):
            return 6

        def __getitem__(self, row):
            return Image.new("RGB", (5, 4), (40 * row, self.train, 0)), row % 2

    monkeypatch.setattr(torchvision.datasets, "USPS", Made)
    found = load_dataset("torchvision:USPS", data_dir=tmp_path)
    first, second = find_pictures({}, ["test/3", "test/0"], None, decode_image, found.origin)
    assert first[0, 0].tolist() == [120, 0, 0] and second[0, 0].tolist() == [0, 0, 0]
    for wrong in ("tset/0", "test/6"):
        with pytest.raises(UserError, match=f"has no image {wrong}"):
            find_pictures({}, [wrong], None, decode_image, found.origin)


def test_of_a_python_program(doors, tmp_path):
    files = {split: files_of(doors / "folder", split) for split in ("train", "test")}
    arrays = {s: [(decode_image(path), name) for path, name in rows] for s, rows in files.items()}
    found = []
    for parts in (files, arrays):
        asked = SourceRequest("python:made", tmp_path, given=sequences.Given.of(parts, None))
        found.append(finish(sequences.read(asked), None, tmp_path))
    (picture,) = find_pictures({}, found[0].test.ids[1:2], None, decode_image, found[0].origin)
    assert np.array_equal(picture, arrays["test"][1][0])
    with pytest.raises(UserError, match="the images are not files: python:made"):
        find_pictures({}, found[1].test.ids[1:2], None, decode_image, found[1].origin)
