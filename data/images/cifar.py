"""CIFAR-10 and CIFAR-100 from their official binary archives (Krizhevsky, 2009).

Found in the data folder or downloaded, verified, and read. The archives in Python's pickle format
are never opened.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.common.cli import say
from data.common.errors import UserError
from data.common.files import sha256_file
from data.images.arrays import Source
from data.images.cifar_members import CifarLayout, CifarReader, combined_sha256, incomplete
from data.images.decode import looks_like_html
from data.images.download import download

LAYOUTS = {
    "cifar10": CifarLayout(
        name="cifar10",
        archive="cifar-10-binary.tar.gz",
        folder="cifar-10-batches-bin",
        url="https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
        sha256="c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
        n_bytes=170_052_171,
        train=tuple((f"data_batch_{batch}.bin", 10_000) for batch in range(1, 6)),
        test=(("test_batch.bin", 10_000),),
        names="batches.meta.txt",
        n_labels=(10,),
    ),
    "cifar100": CifarLayout(
        name="cifar100",
        archive="cifar-100-binary.tar.gz",
        folder="cifar-100-binary",
        url="https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz",
        sha256="58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
        n_bytes=168_513_733,
        train=(("train.bin", 50_000),),
        test=(("test.bin", 10_000),),
        names="fine_label_names.txt",
        n_labels=(20, 100),
    ),
}


@dataclass(frozen=True)
class Place:
    """Where a dataset lies: its archive, or its unpacked folder, and what vouches for it."""

    path: Path  # the archive or the folder; an archive that is not there yet must be downloaded
    kind: str  # ``"archive"`` or ``"folder"``
    exists: bool
    sha256: str  # what the archive's digest must be
    url: str  # where the archive can be had


def locate(
    layout: CifarLayout, data_dir: Path, data_url: str | None, data_sha256: str | None
) -> Place:
    """Find what ``data_dir`` holds of a dataset, without reading it.

    An archive comes before an unpacked folder, since it can be verified.
    """
    if data_sha256 is not None:
        data_sha256 = data_sha256.strip().lower().removeprefix("sha256:")
        if not re.fullmatch(r"[0-9a-f]{64}", data_sha256):
            raise UserError(
                f"--data-sha256 {data_sha256} is not a SHA-256: 64 hexadecimal digits are "
                "expected, as `sha256sum FILE` prints them"
            )
    if data_url is not None and data_sha256 is None:
        raise UserError(
            "--data-url needs --data-sha256 with it: the SHA-256 of the mirror's archive, "
            "without which it could not be verified"
        )
    archive, folder = data_dir / layout.archive, data_dir / layout.folder
    sha256, url = data_sha256 or layout.sha256, data_url or layout.url
    if archive.is_file():
        return Place(archive, "archive", True, sha256, url)
    if os.path.lexists(archive):
        raise UserError(f"{archive} is not a file (a folder or a broken link?); move it away")
    if data_sha256 is not None and data_url is None:
        raise UserError(
            f"--data-sha256 alone verifies an archive that is already there, but there is no "
            f"{archive}; put it there, or give --data-url with it"
        )
    if folder.is_dir():
        return Place(folder, "folder", True, sha256, url)
    return Place(archive, "archive", False, sha256, url)


def read_cifar(
    layout: CifarLayout, data_dir: Path, data_url: str | None = None, data_sha256: str | None = None
) -> Source:
    """Read CIFAR-10 or CIFAR-100, downloading the archive if ``data_dir`` holds nothing of it."""
    place = locate(layout, data_dir, data_url, data_sha256)
    if not place.exists:
        official = place.sha256 == layout.sha256
        n_bytes = layout.n_bytes if official else None
        download(place.url, place.path, sha256=place.sha256, n_bytes=n_bytes)
    reader = CifarReader(layout)
    origin: dict[str, Any] = {
        "kind": "archive" if place.kind == "archive" else "unpacked",
        "path": os.path.abspath(place.path),
    }
    if place.kind == "archive":
        _verify(layout, place)
        reader.read_archive(place.path)
        origin |= {"sha256": place.sha256, "verified": True}
        if not place.exists:
            origin["url"] = place.url
    else:
        say(
            f"warning: {place.path} is used as it is: an unpacked folder cannot be verified "
            f"against a checksum (put {layout.archive} in {data_dir} to have it verified)"
        )
        origin |= {"sha256": reader.read_folder(place.path), "verified": False}
    return reader.source(origin)


def cifar_sha256(layout: CifarLayout, place: Place) -> str:
    """Digest what lies on the disk, whether it is the right thing or not."""
    if place.kind == "folder":
        try:
            digests = {name: sha256_file(place.path / name) for name in layout.members}
        except (FileNotFoundError, IsADirectoryError) as error:
            raise incomplete(layout, place.path, Path(error.filename).name) from error
        return combined_sha256(digests)
    return sha256_file(place.path) if place.exists else place.sha256


def _verify(layout: CifarLayout, place: Place) -> None:
    with place.path.open("rb") as stream:
        if looks_like_html(stream.read(512)):
            raise UserError(
                f"{place.path} is an HTML page, not an archive: a login or error page was saved "
                "under its name\ndelete it to have it downloaded again"
            )
    found = sha256_file(place.path)
    if found == place.sha256:
        return
    size = place.path.stat().st_size
    official = place.sha256 == layout.sha256
    expected = f"{layout.n_bytes:,} bytes and " if official else ""
    cut = ", so it may be cut off" if official and size < layout.n_bytes else ""
    raise UserError(
        f"wrong checksum: {place.path} has {size:,} bytes and SHA-256 {found}\n"
        f"expected: {expected}SHA-256 {place.sha256}{cut}\n"
        "delete the file to have it downloaded again, or, if it is a mirror's that you trust, "
        "give its own checksum with --data-sha256"
    )
