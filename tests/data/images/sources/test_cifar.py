"""CIFAR: right bytes in, right arrays out; anything else is refused by name and not obeyed."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from data.common.errors import UserError
from data.common.files import sha256_file
from data.dataset import load_dataset, source_fingerprint, source_sha256
from data.images.sources import cifar


def files_under(folder):
    return sorted(path.relative_to(folder).as_posix() for path in Path(folder).rglob("*"))


def test_the_official_facts_are_the_published_ones():
    ten, hundred = cifar.ARCHIVES["cifar10"], cifar.ARCHIVES["cifar100"]
    assert ten.url == "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
    assert ten.sha256 == "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"
    assert ten.n_bytes == 170_052_171
    assert hundred.url == "https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz"
    assert hundred.sha256 == "58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec"
    assert hundred.n_bytes == 168_513_733
    assert ten.records["data_batch_3.bin"] * ten.record_bytes == 30_730_000
    assert hundred.records["train.bin"] * hundred.record_bytes == 50_000 * 3_074


def test_archive_gives_pixels_labels_ids_and_names(tiny, tmp_path):
    sha256 = tiny.pack(tmp_path / tiny.layout.archive)
    dataset = load_dataset("cifar10", data_dir=tmp_path, data_sha256=sha256)
    first, second = tiny.layout.train
    expected = np.concatenate([tiny.pixels[first[0]], tiny.pixels[second[0]]])
    np.testing.assert_array_equal(dataset.train.images.array, expected)
    np.testing.assert_array_equal(
        dataset.test.images.rows(2, 4), tiny.pixels["test_batch.bin"][2:4]
    )
    np.testing.assert_array_equal(
        dataset.train.labels, np.concatenate([tiny.labels[first[0]], tiny.labels[second[0]]])
    )
    assert dataset.train.ids[0] == "data_batch_1.bin:0"
    assert dataset.train.ids[8] == "data_batch_2.bin:1"
    assert dataset.test.ids[5] == "test_batch.bin:5"
    assert dataset.class_names == tiny.class_names
    assert dataset.train.labels.dtype == np.int64
    assert dataset.origin["sha256"] == sha256
    assert dataset.origin["verified"] is True
    assert dataset.name == "cifar10"


def test_members_may_come_in_any_order(tiny, tmp_path):
    sha256 = tiny.pack(tmp_path / tiny.layout.archive)
    forwards = load_dataset("cifar10", data_dir=tmp_path, data_sha256=sha256)
    reverse = dict(reversed(tiny.members.items()))
    sha256 = tiny.pack(tmp_path / tiny.layout.archive, reverse)
    backwards = load_dataset("cifar10", data_dir=tmp_path, data_sha256=sha256)
    assert backwards.digest == forwards.digest


def test_cifar100_uses_the_fine_labels(tiny100, tmp_path):
    sha256 = tiny100.pack(tmp_path / "cifar-100-binary.tar.gz")
    dataset = load_dataset("cifar100", data_dir=tmp_path, data_sha256=sha256)
    np.testing.assert_array_equal(dataset.train.labels, tiny100.labels["train.bin"])
    np.testing.assert_array_equal(dataset.train.images.array, tiny100.pixels["train.bin"])
    assert dataset.train.ids[4] == "train.bin:4"
    assert dataset.class_names == tiny100.class_names


def test_reading_in_blocks_joins_them_well(tiny, tmp_path, monkeypatch):
    sha256 = tiny.pack(tmp_path / tiny.layout.archive)
    whole = load_dataset("cifar10", data_dir=tmp_path, data_sha256=sha256)
    monkeypatch.setattr(cifar, "BLOCK", 3)
    blocks = load_dataset("cifar10", data_dir=tmp_path, data_sha256=sha256)
    assert blocks.digest == whole.digest


def test_unpacked_folder_is_used_with_one_warning(tiny, tmp_path, capsys):
    tiny.unpack(tmp_path / tiny.layout.folder)
    dataset = load_dataset("cifar10", data_dir=tmp_path)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("warning:")
    assert str(tmp_path / tiny.layout.folder) in lines[0]
    assert dataset.origin["verified"] is False
    assert dataset.origin["kind"] == "unpacked"  # a folder of another sort than one of images
    assert dataset.origin["sha256"] == source_sha256("cifar10", data_dir=tmp_path)
    sha256 = tiny.pack(tmp_path / tiny.layout.archive)
    packed = load_dataset("cifar10", data_dir=tmp_path, data_sha256=sha256)
    assert capsys.readouterr().err == ""  # the archive comes first, and is verified
    assert packed.origin["kind"] == "archive"
    assert packed.digest == dataset.digest


def test_official_archive_needs_no_option(tiny, tmp_path, monkeypatch):
    archive = tmp_path / tiny.layout.archive
    tiny.pack(archive)
    tiny.make_official(monkeypatch, archive)
    assert load_dataset("cifar10", data_dir=tmp_path).origin["verified"] is True


def test_wrong_checksum_names_everything(tiny, tmp_path):
    archive = tmp_path / tiny.layout.archive
    found = tiny.pack(archive)
    before = archive.read_bytes()
    with pytest.raises(UserError, match="wrong checksum") as caught:
        load_dataset("cifar10", data_dir=tmp_path)
    message = str(caught.value)
    for part in (
        str(archive),
        found,
        f"{len(before):,} bytes",
        tiny.layout.sha256,
        "170,052,171 bytes",
        "--data-sha256",
        "delete",
    ):
        assert part in message
    assert len(message.splitlines()) <= 5
    assert archive.read_bytes() == before


def test_one_flipped_byte_is_found(tiny, tmp_path, monkeypatch):
    archive = tmp_path / tiny.layout.archive
    tiny.pack(archive)
    tiny.make_official(monkeypatch, archive)
    raw = bytearray(archive.read_bytes())
    raw[len(raw) // 2] ^= 1
    archive.write_bytes(raw)
    with pytest.raises(UserError, match="wrong checksum"):
        load_dataset("cifar10", data_dir=tmp_path)


def test_truncated_archive_says_so(tiny, tmp_path, monkeypatch):
    archive = tmp_path / tiny.layout.archive
    tiny.pack(archive)
    tiny.make_official(monkeypatch, archive)
    archive.write_bytes(archive.read_bytes()[:-1000])
    with pytest.raises(UserError, match="cut off"):
        load_dataset("cifar10", data_dir=tmp_path)


@pytest.mark.parametrize("keep", [0, 5, 100, 0.5, 0.9])
def test_truncated_archive_whose_own_checksum_is_given(tiny, tmp_path, keep):
    archive = tmp_path / tiny.layout.archive
    tiny.pack(archive)
    raw = archive.read_bytes()
    archive.write_bytes(raw[: int(keep * len(raw)) if isinstance(keep, float) else keep])
    with pytest.raises(UserError, match=r"cut off or damaged|does not hold"):
        load_dataset("cifar10", data_dir=tmp_path, data_sha256=tiny.digest(archive))


def test_damage_anywhere_gives_a_message_or_data(tiny, tmp_path):
    """Whatever a flipped byte hits (gzip, tar header, length), there is no other exception."""
    archive = tmp_path / tiny.layout.archive
    tiny.pack(archive)
    raw = archive.read_bytes()
    refused = 0
    for position in [*range(0, 40), *range(40, len(raw), len(raw) // 60)]:
        damaged = bytearray(raw)
        damaged[position] ^= 0x55
        archive.write_bytes(damaged)
        try:
            load_dataset("cifar10", data_dir=tmp_path, data_sha256=tiny.digest(archive))
        except UserError as error:
            refused += 1
            assert str(archive) in str(error)
    assert refused > 10


@pytest.mark.parametrize("page", [b"<!DOCTYPE html><html>", b"\xef\xbb\xbf\n  <HTML><body>"])
def test_html_page_in_place_of_the_archive(tiny, tmp_path, page):
    (tmp_path / tiny.layout.archive).write_bytes(page + b"Please log in" * 100)
    with pytest.raises(UserError, match="HTML page"):
        load_dataset("cifar10", data_dir=tmp_path)


def test_something_else_under_the_archives_name(tiny, tmp_path):
    (tmp_path / tiny.layout.archive).mkdir()
    with pytest.raises(UserError, match="is not a file"):
        load_dataset("cifar10", data_dir=tmp_path)


def member(name, content=b"", **fields):
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for field, value in fields.items():
        setattr(info, field, value)
    return info, content if info.isreg() else None


def test_hostile_members_are_passed_over_and_nothing_is_written(tiny, tmp_path):
    data_dir = tmp_path / "deep" / "data"
    data_dir.mkdir(parents=True)
    target = f"{tiny.layout.folder}/test_batch.bin"
    extra = [
        member("../evil.txt", b"evil"),
        member("/evil-absolute.txt", b"evil"),
        member(f"{tiny.layout.folder}/../../evil.txt", b"evil"),
        member("./" + target, b"not the exact name"),
        member(target, type=tarfile.SYMTYPE, linkname="/etc/passwd"),
        member(target, type=tarfile.LNKTYPE, linkname="/etc/passwd"),
        member(target, type=tarfile.CHRTYPE, devmajor=1, devminor=5),
        member(target, type=tarfile.FIFOTYPE),
        member(target, type=tarfile.DIRTYPE),
        member("test_batch.bin", b"not in the folder"),
        member(f"{tiny.layout.folder}/data_batch_6.bin", bytes(3073)),
        member(f"{tiny.layout.folder}/batches.meta", b"cos\nsystem\n(S'touch evil'\ntR."),
    ]
    sha256 = tiny.pack(data_dir / tiny.layout.archive, extra=extra)
    before = files_under(tmp_path)
    dataset = load_dataset("cifar10", data_dir=data_dir, data_sha256=sha256)
    np.testing.assert_array_equal(dataset.test.images.array, tiny.pixels["test_batch.bin"])
    assert files_under(tmp_path) == before


def test_header_that_tarfile_stumbles_over(tiny, tmp_path):
    extra = [member("x", b"", pax_headers={"GNU.sparse.map": "no,numbers"})]
    sha256 = tiny.pack(tmp_path / tiny.layout.archive, extra=extra)
    with pytest.raises(UserError, match="cut off or damaged"):
        load_dataset("cifar10", data_dir=tmp_path, data_sha256=sha256)


@pytest.mark.parametrize("change", [-1, 1, 3073, -3073])
def test_member_of_the_wrong_size(tiny, tmp_path, change):
    content = tiny.members["data_batch_2.bin"]
    content = content + bytes(change) if change > 0 else content[:change]
    members = {**tiny.members, "data_batch_2.bin": content}
    sha256 = tiny.pack(tmp_path / tiny.layout.archive, members)
    with pytest.raises(UserError, match=r"data_batch_2.bin has [\d,]+ bytes; 15,365 were expected"):
        load_dataset("cifar10", data_dir=tmp_path, data_sha256=sha256)


def test_a_claimed_size_is_refused_before_anything_is_read(tiny, tmp_path):
    """A header that claims 8 GB, with nothing behind it."""
    info = tarfile.TarInfo(f"{tiny.layout.folder}/test_batch.bin")
    info.size = 8 << 30
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w:gz") as archive:
        archive.fileobj.write(info.tobuf())
        archive.offset += 512
    (tmp_path / tiny.layout.archive).write_bytes(raw.getvalue())
    with pytest.raises(UserError, match="8,589,934,592 bytes; 18,438 were expected"):
        load_dataset(
            "cifar10",
            data_dir=tmp_path,
            data_sha256=tiny.digest(tmp_path / tiny.layout.archive),
        )


@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME])
def test_decompression_bomb_is_not_inflated(tiny, tmp_path, monkeypatch, kind):
    """Neither as a member to skip nor as a header, which tarfile would read into memory."""
    monkeypatch.setattr(cifar, "SLACK_BYTES", 4 << 20)
    bomb = tarfile.TarInfo("bomb")
    bomb.type = kind
    bomb.size = 64 << 20
    path = tmp_path / tiny.layout.archive
    with tarfile.open(path, "w:gz") as archive:
        archive.fileobj.write(bomb.tobuf())
        for _ in range(64):
            archive.fileobj.write(bytes(1 << 20))
    sha256 = tiny.digest(path)
    tracemalloc.start()
    try:
        with pytest.raises(UserError, match="inflates to far more"):
            load_dataset("cifar10", data_dir=tmp_path, data_sha256=sha256)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 32 << 20


def test_missing_members_are_named(tiny, tmp_path):
    members = {name: raw for name, raw in tiny.members.items() if name != "data_batch_2.bin"}
    sha256 = tiny.pack(tmp_path / tiny.layout.archive, members)
    with pytest.raises(UserError, match=r"does not hold cifar-10-batches-bin/data_batch_2\.bin"):
        load_dataset("cifar10", data_dir=tmp_path, data_sha256=sha256)


def test_unpacked_folder_that_is_not_whole(tiny, tmp_path):
    folder = tmp_path / tiny.layout.folder
    tiny.unpack(folder)
    (folder / "test_batch.bin").write_bytes(tiny.members["test_batch.bin"][:-1])
    with pytest.raises(UserError, match=r"test_batch\.bin has 18,437 bytes"):
        load_dataset("cifar10", data_dir=tmp_path)
    (folder / "test_batch.bin").unlink()
    with pytest.raises(UserError, match=r"there is no file test_batch\.bin"):
        load_dataset("cifar10", data_dir=tmp_path)
    with pytest.raises(UserError, match=r"there is no file test_batch\.bin"):
        source_sha256("cifar10", data_dir=tmp_path)


@pytest.mark.parametrize("column, top", [(0, 20), (1, 100)])
def test_labels_out_of_range(tiny100, tmp_path, column, top):
    raw = bytearray(tiny100.members["train.bin"])
    raw[3 * 3074 + column] = top
    members = {**tiny100.members, "train.bin": bytes(raw)}
    sha256 = tiny100.pack(tmp_path / "cifar-100-binary.tar.gz", members)
    with pytest.raises(UserError, match=f"train.bin: record 3 has the label {top}; 0 to {top - 1}"):
        load_dataset("cifar100", data_dir=tmp_path, data_sha256=sha256)


@pytest.mark.parametrize(
    "names, problem",
    [
        (b"a\nb\n", "2 different class names"),
        (b"same\n" * 10, "1 different class names in 10 lines"),
        (b"\xff\xfe\n" * 10, "not a text"),
        (b"x" * (65 << 10), "too many for a list of class names"),
    ],
)
def test_class_names_that_are_none(tiny, tmp_path, names, problem):
    members = {**tiny.members, "batches.meta.txt": names}
    sha256 = tiny.pack(tmp_path / tiny.layout.archive, members)
    with pytest.raises(UserError, match=problem):
        load_dataset("cifar10", data_dir=tmp_path, data_sha256=sha256)


def test_url_and_checksum_belong_together(tiny, tmp_path):
    with pytest.raises(UserError, match="--data-url needs --data-sha256"):
        load_dataset("cifar10", data_dir=tmp_path, data_url="http://127.0.0.1:9/x")
    tiny.unpack(tmp_path / tiny.layout.folder)
    with pytest.raises(UserError, match="give --data-url with it"):
        load_dataset("cifar10", data_dir=tmp_path, data_sha256="0" * 64)
    with pytest.raises(UserError, match="64 hexadecimal digits"):
        load_dataset("cifar10", data_dir=tmp_path, data_sha256="0" * 32)


def test_checksum_may_be_written_as_tools_print_it(tiny, tmp_path):
    sha256 = tiny.pack(tmp_path / tiny.layout.archive)
    written = f"sha256:{sha256.upper()}"
    dataset = load_dataset("cifar10", data_dir=tmp_path, data_sha256=written)
    assert dataset.origin["sha256"] == sha256


def test_fingerprint_follows_the_files(tiny, tmp_path):
    assert source_fingerprint("cifar10", data_dir=tmp_path) is None
    assert source_sha256("cifar10", data_dir=tmp_path) == tiny.layout.sha256
    folder = tmp_path / tiny.layout.folder
    tiny.unpack(folder)
    first = source_fingerprint("cifar10", data_dir=tmp_path)
    assert first == source_fingerprint("cifar10", data_dir=tmp_path)
    assert first["path"] == str(folder)
    digest = source_sha256("cifar10", data_dir=tmp_path)
    (folder / "readme.html").write_text("not read, so not part of it")
    assert source_fingerprint("cifar10", data_dir=tmp_path) == first
    os.utime(folder / "test_batch.bin", ns=(1, 1))
    touched = source_fingerprint("cifar10", data_dir=tmp_path)
    assert touched != first
    assert source_sha256("cifar10", data_dir=tmp_path) == digest
    (folder / "test_batch.bin").write_bytes(tiny.members["test_batch.bin"][::-1])
    assert source_sha256("cifar10", data_dir=tmp_path) != digest
    sha256 = tiny.pack(tmp_path / tiny.layout.archive)
    assert source_fingerprint("cifar10", data_dir=tmp_path)["path"].endswith(".tar.gz")
    assert source_sha256("cifar10", data_dir=tmp_path) == sha256


def test_fast_path_imports_nothing_heavy(tmp_path):
    """Names, fingerprints and digests cost neither scikit-learn, nor Pillow, pooch or torch."""
    (tmp_path / "photos" / "train" / "a").mkdir(parents=True)
    (tmp_path / "photos" / "test").mkdir()
    (tmp_path / "photos" / "train" / "a" / "1.png").write_bytes(b"x")
    code = f"""
import sys
from pathlib import Path
from data.dataset import dataset_name, source_fingerprint, source_sha256
for name in ("cifar10", "cifar100", "digits", {str(tmp_path / "photos")!r}):
    dataset_name(name)
    source_fingerprint(name, data_dir=Path({str(tmp_path)!r}))
    source_sha256(name, data_dir=Path({str(tmp_path)!r}))
heavy = {{"sklearn", "PIL", "pooch", "torch", "requests", "tqdm", "h5py", "scipy"}}
heavy &= set(sys.modules)
sys.exit(f"imported {{heavy}}" if heavy else 0)
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[4])


def real_archive():
    """The archive that stands in for the official one, where somebody has unpacked it."""
    beside = Path(__file__).parents[5] / "shared" / "data"
    folder = Path(os.environ.get("ICEBOX_REAL_DATA", beside))
    return folder / "cifar-10-binary.tar.gz"


@pytest.mark.slow
@pytest.mark.skipif(not real_archive().is_file(), reason="the real CIFAR-10 archive is not there")
def test_real_archive_has_the_published_statistics():
    archive = real_archive()
    dataset = load_dataset("cifar10", data_dir=archive.parent, data_sha256=sha256_file(archive))
    pixels = dataset.train.images.array.reshape(-1, 3)
    mean = pixels.mean(axis=0) / 255
    np.testing.assert_allclose(mean, [0.49139968, 0.48215841, 0.44653091], atol=1e-7)
    assert np.bincount(dataset.train.labels).tolist() == [5000] * 10
    assert np.bincount(dataset.test.labels).tolist() == [1000] * 10
