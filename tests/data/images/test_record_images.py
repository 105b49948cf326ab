"""Images in containers are decoded as their files are."""

import hashlib
import io
import pickle

import numpy as np
import pytest
from PIL import Image

from data.common.errors import UserError
from data.images.arrays import FileImages, RecordImages, Split
from data.images.decode import BadImageError
from data.images.digests import content_sha256, image_digests


class Container:
    """Contents in memory."""

    def __init__(self, contents):
        self.contents = contents

    def read(self, row):
        return self.contents[row]

    def name(self, row):
        return f"container row {row}"


def encoded(pixels, kind, **more):
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind, **more)
    return stream.getvalue()


@pytest.fixture
def contents():
    pixels = np.random.default_rng(0).integers(0, 256, (3, 9, 7, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    return [encoded(pixels[0], "PNG"), encoded(pixels[1], "JPEG", exif=exif),
            encoded(pixels[2, :, :, 0], "PNG")]  # fmt: skip


def records(contents):
    return RecordImages(Container(contents), np.arange(len(contents)))


def test_bytes_are_decoded_as_files_are(tmp_path, contents):
    for row, content in enumerate(contents):
        (tmp_path / str(row)).write_bytes(content)
    files = FileImages(tmp_path, ("0", "1", "2")).with_digests()
    found = pickle.loads(pickle.dumps(records(contents).with_digests()))
    assert found.digests == files.digests
    assert found.digest(1) == hashlib.sha256(contents[1]).digest()
    for row in range(3):
        assert np.array_equal(found.decode(row), files.decode(row))
    assert found.decode(1).shape == (7, 9, 3)  # turned upright
    chosen = found.take(np.array([2, 0]))
    assert np.array_equal(chosen.decode(0), files.decode(2))
    assert chosen.digest(1) == files.digest(0)


def test_decoded_images_are_taken_as_they_are(contents):
    opened = [Image.open(io.BytesIO(content)) for content in contents]
    arrays = [np.asarray(Image.open(io.BytesIO(content))) for content in contents]
    pillow, plain = records(opened).with_digests(), records(arrays).with_digests()
    files = records(contents)
    for row in (0, 2):
        assert np.array_equal(plain.decode(row), files.decode(row))
        assert pillow.digest(row) == plain.digest(row)
    for row in range(3):
        assert np.array_equal(pillow.decode(row), files.decode(row))


def test_what_has_changed_or_is_no_image_is_refused(contents):
    images = records(contents).with_digests()
    images.records.contents[0] = contents[2]
    with pytest.raises(UserError, match="container row 0 has changed"):
        images.decode(0)
    with pytest.raises(BadImageError, match=r"container row 0.*empty"):
        records([b""]).decode(0)
    with pytest.raises(BadImageError, match=r"float32 \(4, 4\), expected uint8"):
        records([np.zeros((4, 4), np.float32)]).decode(0)
    with pytest.raises(BadImageError, match="1, 3 or 4 channels"):
        records([np.zeros((4, 4, 2), np.uint8)]).decode(0)
    large = records([np.zeros((9, 9, 3), np.uint8)])
    with pytest.raises(BadImageError, match="81 pixels, more than the limit of 80"):
        RecordImages(large.records, large.rows, max_pixels=80).decode(0)


def test_the_content_is_the_same_by_any_door(tmp_path, contents):
    for row, content in enumerate(contents):
        (tmp_path / str(row)).write_bytes(content)
    labels = np.array([0, 1, 0])
    files = Split(FileImages(tmp_path, ("0", "1", "2")), labels, ("0", "1", "2")).with_digests()
    order = np.array([2, 0, 1])
    other = Split(records(contents), labels, ("x", "y", "z")).with_digests().take(order)
    names = ("a", "b")
    assert content_sha256(names, {"train": files}) == content_sha256(names, {"train": other})
    assert content_sha256(names, {"test": files}) != content_sha256(names, {"train": other})
    swapped = Split(other.images, 1 - other.labels, other.ids)
    assert content_sha256(names, {"train": swapped}) != content_sha256(names, {"train": other})
    # Names of classes count, not their numbers.
    assert content_sha256(("b", "a"), {"train": swapped}) == content_sha256(names, {"train": files})
    assert list(image_digests(files)) == [hashlib.sha256(c).digest() for c in contents]
