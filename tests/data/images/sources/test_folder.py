"""Folders of images: every layout, name, link and order that people have."""

from __future__ import annotations

import os
import pickle
import shutil

import numpy as np
import pytest
from PIL import Image

from data.common.errors import UserError
from data.dataset import load_dataset, source_fingerprint, source_sha256
from data.images import arrays, file_digests
from data.images.arrays import FileImages
from data.images.decode import SUFFIXES
from data.images.file_digests import hash_files
from data.images.lookup import find_pictures
from data.images.sources import folder as module

# Of the version before.
FROZEN = "1d3c0bed3a6b1216df71b57bf2bf20b0cc4d6ea1e5522bfc75efa3c423496269"


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
                shade = 50 * value + index + 20 * (split == "test")
                picture(root / split / label / f"{index:04}.png", shade)
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
    assert "val is the validation split, of 6 images" in capsys.readouterr().err


def test_val_stays_what_it_is_where_a_test_split_is_held_out(root, capsys):
    whole = load(root)
    (root / "test").rename(root / "val")
    pets = load(root, test_fraction=0.25)
    assert "val is the validation split: settings are chosen on it; the test split is held" in (
        capsys.readouterr().err
    )
    assert pets.validation.ids == whole.test.ids
    assert sorted(pets.train.ids + pets.test.ids) == sorted(whole.train.ids)
    assert np.bincount(pets.test.labels).tolist() == [1, 1, 1]
    # As without the validation split.
    shutil.copytree(root / "train", root.parent / "only")
    assert load(root.parent / "only", test_fraction=0.25).test.ids == pets.test.ids
    assert pets.origin["splits"]["train"]["n_images"] == 12
    # A report finds the images.
    request = {
        "options": {"dataset": "pets", "test_fraction": 0.25},
        "files": {"dataset": source_fingerprint(str(root), data_dir=root)},
    }
    (pixels,) = find_pictures(request, pets.test.ids[:1])
    np.testing.assert_array_equal(pixels, pets.test.images.decode(0))


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
    for name in (".hidden.png", "notes.txt", "noise.heic", "Thumbs.db", "png"):
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
    assert "1 image outside class folders (train/stray.png)" in capsys.readouterr().err


def test_class_folder_without_images(root, capsys):
    birds = root / "train" / "birds"
    birds.mkdir()
    with pytest.raises(UserError, match=r"birds holds no JPEG, PNG, .* image; add"):
        load(root)
    (birds / "1.psd").write_bytes(b"x")
    (birds / "2.psd").write_bytes(b"x")
    with pytest.raises(UserError, match=r"but 2 \.psd"):
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
    real = arrays.hash_files
    monkeypatch.setattr(
        arrays, "hash_files", lambda root, names: asked.extend(names) or real(root, names)
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
    monkeypatch.setattr(file_digests, "HASH_BLOCK", 5)
    monkeypatch.setattr(file_digests, "READ_BYTES", 7)
    monkeypatch.setattr(file_digests, "BAR_FROM", 2)
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


SPLITS = [
    ("Train", "Test", None),
    ("TRAIN", "TESTING", None),
    ("training", "testing", "validation"),
    ("training_set", "test_set", None),
    ("train", "tst", "dev"),
    ("trn", "test-images", "valid"),
    ("train2017", "test2017", "val2017"),
    ("Training", "Tests", "Evaluation"),
]


@pytest.mark.parametrize("train, test, validation", SPLITS)
def test_splits_in_every_usual_spelling(root, capsys, train, test, validation):
    plain = load(root)
    if validation:
        shutil.copytree(root / "test", root / validation)
    (root / "train").rename(root / train)
    (root / "test").rename(root / test)
    with pytest.raises(UserError, match="leave --test-fraction out"):
        load(root, test_fraction=0.2)
    found = load(root)
    assert found.class_names == plain.class_names
    assert (found.digest == plain.digest) == (validation is None)
    assert found.train.ids == plain.train.ids
    assert found.origin["splits"]["train"] == {"folder": train, "n_images": 12}
    assert found.origin["splits"]["test"] == {"folder": test, "n_images": 6}
    if validation is None:
        assert found.validation is None
        assert capsys.readouterr().err == ""
    else:
        assert found.validation.ids == plain.test.ids
        np.testing.assert_array_equal(found.validation.labels, plain.test.labels)
        assert found.origin["splits"]["validation"] == {"folder": validation, "n_images": 6}
        assert f"{validation} is the validation split, of 6 images" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["val", "Valid", "validation", "VAL", "dev", "eval"])
def test_a_validation_split_serves_where_there_is_no_test_split(root, capsys, name):
    plain = load(root)
    (root / "test").rename(root / name)
    found = load(root)
    assert f"its folder {name} is the test split" in capsys.readouterr().err
    assert (found.digest, found.validation) == (plain.digest, None)
    splits = found.origin["splits"]
    assert splits["test"] == {"folder": name, "n_images": 6, "named_for": "validation"}


@pytest.mark.parametrize("one, other", [("train", "Training"), ("test", "Testing"), ("val", "dev")])
def test_two_folders_for_one_split(root, one, other):
    (root / one).mkdir(exist_ok=True)
    shutil.copytree(root / "train", root / other)
    with pytest.raises(UserError, match=r"both named for the .* split; put their images"):
        load(root)


def test_two_folders_with_split_names_are_never_classes(tmp_path):
    """Not trained against each other, whatever they hold and whatever is asked for."""
    for pair in (("Train", "Test"), ("training", "validation"), ("dev", "test")):
        root = tmp_path / "-".join(pair)
        for name in pair:
            picture(root / name / "x.png")
        for options in ({}, {"test_fraction": 0.5}):
            with pytest.raises(UserError, match=r"no class folders|no folder train"):
                load(root, **options)


@pytest.mark.parametrize("name", ["dev", "Eval", "testing", "train"])
def test_one_folder_with_a_split_name_may_be_a_class(tmp_path, name):
    for label in (name, "prod"):
        for index in range(3):
            picture(tmp_path / "x" / label / f"{index}.png", index)
    assert load(tmp_path / "x", test_fraction=0.4).class_names == tuple(sorted((name, "prod")))


def test_classes_inside_a_split_may_have_any_name(root):
    for split in ("train", "test"):
        for label in ("test", "dev", "Train"):
            picture(root / split / label / "x.png")
    assert load(root).class_names == ("Train", "cats", "dev", "dogs", "newts", "test")


def test_a_flat_test_folder_is_named_with_what_to_type(root, capsys):
    shutil.rmtree(root / "test")
    for index in range(3):
        picture(root / "Test" / f"{index}.png", index)
    (root / "Test" / "sample.csv").write_text("id")
    with pytest.raises(UserError) as told:
        load(root)
    for part in (
        "Test holds 3 images and no class folders",
        f"--dataset {root / 'train'} --test-fraction 0.2",
        f"python -m classify predict HEAD.safetensors {root / 'Test'}",
    ):
        assert part in str(told.value)
    for label in ("cats", "dogs"):
        picture(root / "val" / label / "x.png")
    found = load(root)
    assert len(found.test) == 2
    assert found.origin["splits"]["test"]["folder"] == "val"
    told = capsys.readouterr().err
    assert "predict HEAD.safetensors" in told
    assert "its folder val is the test split" in told


def test_a_test_folder_with_one_folder_of_unlabelled_images(root):
    shutil.rmtree(root / "test")
    picture(root / "test" / "unknown" / "x.png")
    with pytest.raises(UserError, match=r"has not: unknown[\s\S]*predict HEAD.safetensors"):
        load(root)


def test_every_suffix_is_read(root):
    cats, before = root / "train" / "cats", len(load(root).train)
    names = [
        f"new{index}{suffix.upper() if index % 2 else suffix}"
        for index, suffix in enumerate(SUFFIXES)
    ]
    for name in names:
        shutil.copy(cats / "0000.png", cats / name)
    found = load(root)
    assert len(found.train) == before + len(SUFFIXES)
    assert {".jpe", ".jfif", ".tif", ".tiff", ".gif", ".ppm", ".pgm", ".avif"} <= set(SUFFIXES)
    assert "not_read" not in found.origin


def test_what_is_not_read_is_counted_and_named(root, capsys):
    cats = root / "train" / "cats"
    for name in ("a.heic", "b.HEIC", "c.psd", "README", ".DS_Store", "deep/d.heic"):
        (cats / name).parent.mkdir(exist_ok=True)
        (cats / name).write_bytes(b"x")
    (cats / ".thumbs").mkdir()
    (root / "test" / "dogs" / "notes.txt").write_text("x")
    picture(root / "test" / "stray.png")
    (root / "annotations").mkdir()
    plain = load(root)
    assert plain.origin["not_read"] == {
        ".heic": {
            "count": 3,
            "first": [f"train/cats/{name}" for name in ("a.heic", "b.HEIC", "deep/d.heic")],
        },
        ".psd": {"count": 1, "first": ["train/cats/c.psd"]},
        ".txt": {"count": 1, "first": ["test/dogs/notes.txt"]},
        "files without a suffix": {"count": 1, "first": ["train/cats/README"]},
        "folders beside the splits": {"count": 1, "first": ["annotations"]},
        "hidden files": {"count": 1, "first": ["train/cats/.DS_Store"]},
        "hidden folders": {"count": 1, "first": ["train/cats/.thumbs"]},
        "images outside class folders": {"count": 1, "first": ["test/stray.png"]},
    }
    told = capsys.readouterr().err
    assert "not read in" in told
    assert "3 .heic files (train/cats/a.heic, train/cats/b.HEIC, train/cats/deep/d.heic)" in told
    assert "1 hidden file (train/cats/.DS_Store)" in told


def test_digests_of_old_data_sets_are_frozen(tmp_path):
    """Names, labels and bytes as they were digested before there were more suffixes and splits."""
    for split in ("train", "test"):
        for label in ("a", "b"):
            folder = tmp_path / "x" / split / label
            folder.mkdir(parents=True)
            (folder / "1.png").write_bytes(f"{split} {label}".encode())
    assert load(tmp_path / "x").digest == FROZEN
    (tmp_path / "x" / "val" / "a").mkdir(parents=True)
    (tmp_path / "x" / "val" / "a" / "1.png").write_bytes(b"val")
    assert load(tmp_path / "x").digest != FROZEN  # it is embedded as well
