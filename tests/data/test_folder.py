"""Folders of images: every layout, name, link and order that people have."""

from __future__ import annotations

import os
import pickle
import shutil

import numpy as np
import pytest
from PIL import Image

from data import folder as module
from data.dataset import FileImages, load_dataset, source_fingerprint, source_sha256
from data.errors import UserError
from data.folder import hash_files


def picture(path, value=0, size=(5, 4)):
    """Write one image whose pixels tell it apart."""
    path.parent.mkdir(parents=True, exist_ok=True)
    array = np.full((size[1], size[0], 3), value % 256, np.uint8)
    Image.fromarray(array).save(path)
    return path


@pytest.fixture
def root(tmp_path):
    """Two splits, three classes, four and two images of each."""
    root = tmp_path / "pets"
    for split, count in (("train", 4), ("test", 2)):
        for value, label in enumerate(("cats", "dogs", "newts")):
            for index in range(count):
                picture(root / split / label / f"{index:04}.png", 50 * value + index)
    return root


def load(root, **options):
    return load_dataset(str(root), data_dir=root, **options)


def test_train_and_test_folders(root, capsys):
    pets = load(root)
    assert pets.class_names == ("cats", "dogs", "newts")
    assert pets.train.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert pets.train.labels.dtype == np.int64
    assert pets.test.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert pets.train.ids[:5] == (*(f"cats/000{n}.png" for n in range(4)), "dogs/0000.png")
    assert pets.test.ids[-1] == "newts/0001.png"
    assert pets.train.images.decode(5).tolist() == np.full((4, 5, 3), 51).tolist()
    assert pets.name == "pets"
    assert capsys.readouterr().err == ""
    assert pets.origin["layout"] == "train/test"
    assert pets.origin["n_files"] == 18
    assert pets.origin["verified"] is False


def test_val_is_the_test_split_where_there_is_no_test(root, capsys):
    with_test = load(root)
    (root / "test").rename(root / "val")
    pets = load(root)
    assert capsys.readouterr().err.count("val is the test split") == 1
    assert pets.digest == with_test.digest
    picture(root / "test" / "cats" / "x.png")
    assert len(load(root).test) == 1
    assert "val is not used" in capsys.readouterr().err


def test_only_train_says_how_to_go_on(root):
    shutil.rmtree(root / "test")
    with pytest.raises(UserError, match=r"--dataset .*train --test-fraction 0\.2"):
        load(root)
    assert len(load(root / "train", test_fraction=0.25).test) == 3


def test_only_test(root):
    shutil.rmtree(root / "train")
    with pytest.raises(UserError, match="folder test but no folder train"):
        load(root, test_fraction=0.2)


def test_classes_without_splits(root, tmp_path):
    classes = root / "train"
    with pytest.raises(UserError, match=r"add --test-fraction 0\.2"):
        load(classes)
    pets = load(classes, test_fraction=0.3)
    assert (len(pets.train), len(pets.test)) == (9, 3)
    assert np.bincount(pets.test.labels).tolist() == [1, 1, 1]
    assert set(pets.train.ids).isdisjoint(pets.test.ids)
    assert len(set(pets.train.ids + pets.test.ids)) == 12
    assert load(classes, test_fraction=0.3).digest == pets.digest
    assert load(classes, test_fraction=0.3, seed=1).digest != pets.digest
    assert load(classes, test_fraction=0.6).digest != pets.digest
    assert pets.origin["test_fraction"] == 0.3
    shutil.copytree(classes, tmp_path / "elsewhere")
    assert load(tmp_path / "elsewhere", test_fraction=0.3).digest == pets.digest


def test_test_fraction_beside_a_test_split(root):
    with pytest.raises(UserError, match="leave --test-fraction out"):
        load(root, test_fraction=0.2)


def test_a_class_may_be_called_train(tmp_path):
    for label in ("bus", "train"):
        for index in range(3):
            picture(tmp_path / "vehicles" / label / f"{index}.png", index)
    assert load(tmp_path / "vehicles", test_fraction=0.3).class_names == ("bus", "train")


def test_listing_order_and_locale_do_not_matter(root, monkeypatch):
    picture(root / "train" / "cats" / "deep" / "Z.PNG", 7)
    picture(root / "train" / "cats" / "ä.png", 8)
    picture(root / "train" / "cats b" / "1.png", 9)
    picture(root / "train" / "cats" / "deep.png", 10)
    outside = picture(root.parent / "outside" / "x.png", 11).parent
    for link in ("link 1", "link 2"):  # two ways to one folder: the first name is the one
        (root / "train" / "dogs" / link).symlink_to(outside)
    expected = load(root)
    assert "dogs/link 1/x.png" in expected.train.ids
    cats = [name for name in expected.train.ids if name.startswith("cats/")]
    assert cats == sorted(cats)
    assert cats[-3:] == ["cats/deep.png", "cats/deep/Z.PNG", "cats/ä.png"]
    listing = os.scandir

    class Backwards:
        def __init__(self, path):
            with listing(path) as entries:
                self.entries = sorted(entries, key=lambda entry: entry.name, reverse=True)

        def __enter__(self):
            return iter(self.entries)

        def __exit__(self, *error):
            return None

    monkeypatch.setattr(module.os, "scandir", Backwards)
    backwards = load(root)
    assert backwards.train.ids == expected.train.ids
    assert backwards.digest == expected.digest


def test_suffixes_decide_and_hidden_files_do_not_count(root):
    cats = root / "train" / "cats"
    kept = load(root).train.ids
    for name in (".hidden.png", "notes.txt", "noise.gif", "Thumbs.db", "png"):
        shutil.copy(cats / "0000.png", cats / name)
    picture(root / "train" / ".cache" / "x.png")
    picture(cats / ".deep" / "x.png")
    assert load(root).train.ids == kept
    for name in ("a.JPG", "b.Jpeg", "c.WEBP", "d.BmP", "e.PNG"):
        picture(cats / name)
    assert len(load(root).train) == len(kept) + 5


def test_images_without_a_class_are_said(root, capsys):
    picture(root / "train" / "stray.png")
    load(root)
    assert "1 images directly in" in capsys.readouterr().err


def test_class_folder_without_images(root, capsys):
    birds = root / "train" / "birds"
    birds.mkdir()
    with pytest.raises(UserError, match=r"birds holds no JPEG, PNG, WebP or BMP image; add"):
        load(root)
    (birds / "1.tiff").write_bytes(b"x")
    (birds / "2.tiff").write_bytes(b"x")
    with pytest.raises(UserError, match=r"but 2 \.tiff"):
        load(root)
    shutil.rmtree(birds)
    shutil.rmtree(root / "test" / "newts")
    (root / "test" / "newts").mkdir()
    assert set(load(root).test.labels) == {0, 1}
    assert "no test image of newts" in capsys.readouterr().err


def test_classes_of_the_two_splits(root):
    shutil.rmtree(root / "test" / "newts")
    assert load(root).class_names == ("cats", "dogs", "newts")  # a class may lack test images
    picture(root / "test" / "owls" / "1.png")
    with pytest.raises(UserError, match=r"classes that .*train has not: owls"):
        load(root)


def test_single_class_and_empty_folders(tmp_path):
    with pytest.raises(UserError, match="holds no class folders"):
        load(tmp_path, test_fraction=0.2)
    picture(tmp_path / "cats" / "1.png")
    picture(tmp_path / "cats" / "2.png")
    with pytest.raises(UserError, match=r"holds 1 class \(cats\)"):
        load(tmp_path, test_fraction=0.2)
    one = tmp_path / "one-each"
    picture(one / "a" / "1.png")
    picture(one / "b" / "1.png")
    with pytest.raises(UserError, match=r"the test split of .* is empty"):
        load(one, test_fraction=0.2)
    (tmp_path / "s" / "train").mkdir(parents=True)
    (tmp_path / "s" / "test").mkdir(parents=True)
    with pytest.raises(UserError, match="holds no class folders"):
        load(tmp_path / "s")


def test_symbolic_links_are_followed_and_circles_end(root):
    plain = load(root)
    cats = root / "train" / "cats"
    (cats / "up").symlink_to(root)
    (cats / "self").symlink_to(cats)
    (cats / "deep").mkdir()
    (cats / "deep" / "back").symlink_to(cats)
    (cats / "loop").symlink_to(cats / "loop")
    assert load(root).train.ids == plain.train.ids
    elsewhere = picture(root.parent / "photos" / "x.png", 99)
    (cats / "linked.png").symlink_to(elsewhere)
    (root / "train" / "dogs" / "more").symlink_to(elsewhere.parent)
    linked = load(root)
    assert set(linked.train.ids) - set(plain.train.ids) == {"cats/linked.png", "dogs/more/x.png"}


def test_broken_link_to_an_image_is_not_passed_over(root):
    broken = root / "train" / "cats" / "gone.png"
    broken.symlink_to(root / "nowhere.png")
    with pytest.raises(UserError, match=r"cannot read the image .*gone\.png: No such file"):
        load(root)


def test_pipes_are_not_images(root):
    os.mkfifo(root / "train" / "cats" / "pipe.png")
    assert "cats/pipe.png" not in load(root).train.ids


@pytest.mark.parametrize("place", ["train/cats/b\udcff.png", "train/b\udcff/x.png"])
def test_names_that_are_not_utf8(root, place):
    path = root / place
    try:
        picture(root / "x.png")
        path.parent.mkdir(exist_ok=True)
        shutil.move(root / "x.png", path)
    except OSError:
        pytest.skip("this file system takes only UTF-8 names")
    with pytest.raises(UserError, match=r"not valid UTF-8: b'b\\xff"):
        load(root)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may list everything")
def test_folder_without_permission(root):
    (root / "train" / "cats").chmod(0)
    try:
        with pytest.raises(UserError, match="cannot list the folder"):
            load(root)
    finally:
        (root / "train" / "cats").chmod(0o755)


def test_digest_follows_bytes_names_and_labels(root):
    digests = {load(root).digest}

    def changed():
        digest = load(root).digest
        new = digest not in digests
        digests.add(digest)
        return new

    cats = root / "train" / "cats"
    os.utime(cats / "0000.png", (1, 1))
    assert not changed()  # times are not content
    raw = bytearray((cats / "0000.png").read_bytes())
    raw[-20] ^= 1
    (cats / "0000.png").write_bytes(raw)
    assert changed()
    (cats / "0000.png").rename(cats / "renamed.png")
    assert changed()
    (cats / "renamed.png").rename(root / "train" / "dogs" / "renamed.png")
    assert changed()
    cats.rename(root / "train" / "lions")
    (root / "test" / "cats").rename(root / "test" / "lions")
    assert changed()
    shutil.copy(root / "test" / "dogs" / "0000.png", root / "test" / "dogs" / "0001.png")
    assert changed()


def test_limit_reads_only_the_chosen_files(root, monkeypatch):
    asked = []
    real = module.hash_files
    monkeypatch.setattr(
        module, "hash_files", lambda root, names: asked.extend(names) or real(root, names)
    )
    pets = load(root, limit=6)
    assert np.bincount(pets.train.labels).tolist() == [2, 2, 2]
    assert np.bincount(pets.test.labels).tolist() == [1, 1, 1]
    assert asked == list(pets.train.ids + pets.test.ids)
    assert pets.train.images.names == pets.train.ids


def test_hashing_in_blocks_with_a_bar(root, monkeypatch, capsys):
    images = load(root).train.images
    expected = hash_files(images.root, images.names)
    assert len(expected) == 32 * len(images)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(module, "HASH_BLOCK", 5)
    monkeypatch.setattr(module, "READ_BYTES", 7)
    monkeypatch.setattr(module, "BAR_FROM", 2)
    assert hash_files(images.root, images.names) == expected
    assert "reading train" in capsys.readouterr().err


def test_images_are_cheap_to_send_to_a_process(root, monkeypatch, tmp_path):
    monkeypatch.chdir(root.parent)
    images = load("pets").train.images
    sent = pickle.loads(pickle.dumps(images))
    monkeypatch.chdir(tmp_path / "pets")  # a worker may stand elsewhere
    assert isinstance(sent, FileImages)
    np.testing.assert_array_equal(sent.decode(0), images.decode(0))


def test_fingerprint_follows_the_images(root):
    first = source_fingerprint(str(root), data_dir=root)
    assert first["path"] == str(root)
    assert source_sha256(str(root), data_dir=root) is None
    (root / "readme.txt").write_text("not an image")
    assert source_fingerprint(str(root), data_dir=root) == first
    stats = [first["stat"]]
    for change in (
        lambda: os.utime(root / "test" / "dogs" / "0000.png", ns=(1, 1)),
        lambda: picture(root / "train" / "cats" / "new.png"),
        lambda: (root / "train" / "cats" / "new.png").unlink(),
        lambda: (root / "train" / "cats2").symlink_to(root / "train" / "cats"),
        lambda: (root / "train" / "cats" / "0000.png").rename(root / "train" / "dogs" / "n.png"),
    ):
        change()
        stats.append(source_fingerprint(str(root), data_dir=root)["stat"])
    # Adding an image and taking it away again is the only way back.
    assert len(set(stats)) == len(stats) - 1
    assert stats[3] == stats[1]
