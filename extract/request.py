"""The fast path: is there a finished store for these options? Answered without torch.

A store remembers what was asked for: the options that can change the numbers, and fingerprints
of the files that they name. Where these match, no model is built. Only when none does is the
full ``spec`` resolved, because settings that are spelled differently may mean the same.
"""

from __future__ import annotations

import copy
import importlib.metadata
import os
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from data.common.cli import log
from data.common.datasets import BUILT_IN
from data.common.errors import UserError
from data.common.files import sha256_file, stat_stamp
from data.dataset import dataset_name, source_fingerprint, source_sha256
from data.format.records import Header, StoreError, rows_in_words
from data.format.schema import SCHEMA_VERSION
from data.format.spec import (
    DECODE,
    EXACT,
    LAYER,
    cropped_twice,
    find_stores,
    is_imported,
    pooled_otherwise,
)
from data.images.decode import MAX_PIXELS
from data.images.tables.columns import ROLES
from data.reading import read_header
from extract.model.bundled import CHOICE
from extract.model.providers.registry import files_of, in_folder, portable_name, versions_of
from extract.options import Options

IMAGES_NAMED = 5
PIXELS = "max_pixels"
# In the attribute ``request``, where there are any: versions, and files that a factory has read.
LIBRARIES, READ = "libraries", "read"


def asked_options(options: Options) -> dict[str, Any]:
    """Reduce the options to those that can change the numbers, as given."""
    random = options.weights == "random"
    from_file = options.weights not in ("hub", "random", CHOICE)
    size = options.image_size
    # The weights of a folder are those in it, wherever it lies.
    from_file = from_file or (options.weights == "hub" and in_folder(options.model))
    return {
        # Where the files lie does not change the numbers; what is in them is in the fingerprints.
        "dataset": dataset_name(options.dataset),
        "data_url": options.data_url,
        "data_sha256": options.data_sha256,
        "test_fraction": options.test_fraction,
        "limit": options.limit,
        "model": portable_name(options.model),
        "weights": "file" if from_file else options.weights,
        "model_args": options.model_args,
        "image_size": list(size) if isinstance(size, tuple) else size,
        "pool": options.pool,
        "crop_pct": options.crop_pct,
        "interpolation": options.interpolation,
        "mean": None if options.mean is None else list(options.mean),
        "std": None if options.std is None else list(options.std),
        "precision": options.precision,
        "device": options.device if options.precision == "auto" else None,
        "store_dtype": options.store_dtype,
        "seed": options.seed if random or options.test_fraction is not None else None,
        # Only where they are not the default, so that the stores of before there was one match.
        **({} if decode_of(options) == EXACT else {DECODE: options.decode}),
        **pixel_limit(options),
        **class_options(options),
        **({} if options.layer is None else {LAYER: options.layer}),
    }


def class_options(options: Options) -> dict[str, Any]:
    """Give what was said of a table's columns and of the classes; nothing where nothing was."""
    asked: dict[str, Any] = {f"{role}_column": word for role, word in options.columns.items()}
    if options.image_root is not None:
        asked["image_root"] = os.path.abspath(options.image_root)
    if options.class_names_file is not None:
        asked["class_names"] = os.path.abspath(options.class_names_file)
        asked["class_names_sha256"] = sha256_of_names(options.class_names_file)
    if options.merge_classes:
        asked["merge_classes"] = list(options.merge_classes)
    if options.drop_class:
        asked["drop_class"] = list(options.drop_class)
    return asked


def sha256_of_names(path: Path) -> str | None:
    """Digest a file of class names; None where there is none, which reading it will say."""
    try:
        return sha256_file(path)
    except OSError:
        return None


def source_of_request(options: Mapping[str, Any]) -> dict[str, Any]:
    """Give the same as `source_of` for a store's own options, but for the folder of the data."""
    root, names = options.get("image_root"), options.get("class_names")
    return {
        "data_url": options.get("data_url"),
        "data_sha256": options.get("data_sha256"),
        "test_fraction": options.get("test_fraction"),
        "seed": options.get("seed") or 0,
        "columns": {role: options.get(f"{role}_column") for role in ROLES},
        "image_root": None if root is None else Path(root),
        "class_names_file": None if names is None else Path(names),
        "merge_classes": tuple(options.get("merge_classes", ())),
        "drop_class": tuple(options.get("drop_class", ())),
    }


def source_of(options: Options) -> dict[str, Any]:
    """Give what decides which images and labels there are, but for the dataset's name."""
    return {
        "data_dir": options.data_dir,
        "data_url": options.data_url,
        "data_sha256": options.data_sha256,
        "test_fraction": options.test_fraction,
        "seed": options.seed,
        "columns": options.columns,
        "image_root": options.image_root,
        "class_names_file": options.class_names_file,
        "merge_classes": options.merge_classes,
        "drop_class": options.drop_class,
        "given": options.given,
    }


def decode_of(options: Options) -> str:
    """Give how JPEG files are decoded: of the built-in datasets, which have none, exactly."""
    return EXACT if options.dataset in BUILT_IN else options.decode


def pixel_limit(options: Options) -> dict[str, int]:
    """Give the limit of pixels where it decides which rows there are; else nothing.

    Without ``--skip-bad-images`` an image above the limit ends the run, so that finished stores
    are the same whatever the limit was.
    """
    decides = options.skip_bad_images and options.dataset not in BUILT_IN
    return {PIXELS: options.max_pixels} if decides and options.max_pixels != MAX_PIXELS else {}


class Request:
    """What is asked for now, with the files as they are now; digests are computed when needed."""

    def __init__(self, options: Options) -> None:
        self._asked = options
        self.options = asked_options(options)
        self.timm = importlib.metadata.version("timm")
        self.libraries = versions_of(options.model)
        # Files that only running the user's code could tell, with their digests.
        self.read: Mapping[str, str] = {}
        self.stamps: dict[str, dict[str, str] | None] = {
            "dataset": source_fingerprint(options.dataset, **source_of(options)),
            "weights": None,
        }
        self._digests: dict[str, str | None] = {}
        self._files = files_of(options.model, options.weights)
        if self._files:
            stamps = [stat_stamp(path) for path in self._files]
            self.stamps["weights"] = {
                "path": str(self._files[-1].resolve()),
                "stat": _together(stamps),
            }

    def of(self, options: Options) -> Request:
        """Ask for another feature of the same images and weights, which are not read again."""
        other = copy.copy(self)
        other.options = asked_options(options)
        return other

    def know(self, name: str, sha256: str | None) -> None:
        """Take over a digest that somebody else has computed already."""
        self._digests[name] = sha256

    def sha256(self, name: str) -> str | None:
        """Digest the file behind ``dataset`` or ``weights``; None where it has none."""
        if name not in self._digests:
            if name == "dataset":
                self._digests[name] = source_sha256(self._asked.dataset, **source_of(self._asked))
            else:
                digests = [sha256_file(path) for path in self._files]
                self._digests[name] = _together(digests) if digests else None
        return self._digests[name]

    def check_unchanged(self, name: str, other: Request) -> None:
        """Refuse files that changed while they were read: nobody knows which was used."""
        one, two = self.stamps[name], other.stamps[name]
        if one is not None and two is not None and one != two:
            raise UserError(
                f"{one['path']} has changed while it was being read\n"
                "let the copying or editing end, then run the same command again"
            )

    def to_json(self) -> dict[str, Any]:
        """Return the ``request`` attribute of a store, digests included."""
        files = {}
        for name, stamp in self.stamps.items():
            if stamp is not None:
                files[name] = {**stamp, "sha256": self.sha256(name)}
        return {
            "options": self.options,
            "files": files,
            "timm": self.timm,
            **({LIBRARIES: self.libraries} if self.libraries else {}),
            **({READ: dict(self.read)} if self.read else {}),
            "schema": SCHEMA_VERSION,
        }

    def matches(self, stored: Mapping[str, Any]) -> bool:
        """Tell whether a store was made for the same options and the same files."""
        if stored.get("options") != self.options or stored.get("timm") != self.timm:
            return False
        if stored.get(LIBRARIES, {}) != self.libraries or changed_since(stored):
            return False
        from_files = self.options["weights"] == "file" or bool(self._files)
        names = ["dataset"] + (["weights"] if from_files else [])
        return all(self.same_file(name, stored) for name in names)

    def same_file(self, name: str, stored: Mapping[str, Any]) -> bool:
        """Compare one file with what a store was made from: its stamp, or else its digest."""
        theirs = stored.get("files", {}).get(name)
        ours = self.stamps[name]
        if theirs is None:
            return False
        if ours is not None and ours["stat"] == theirs.get("stat"):
            return True
        expected = theirs.get("sha256")
        return expected is not None and expected == self.sha256(name)


def changed_since(stored: Mapping[str, Any]) -> str:
    """Name a file that a store's own factory had read, and that is another now; else nothing."""
    for path, digest in stored.get(READ, {}).items():
        if not Path(path).is_file() or sha256_file(path) != digest:
            return str(path)
    return ""


def _together(digests: list[str]) -> str:
    """Make one digest of several; one alone stays what it is."""
    return digests[0] if len(digests) == 1 else sha256("\n".join(digests).encode()).hexdigest()


def find(options: Options, request: Request) -> Header | None:
    """Look for a finished store that was made for the same request."""
    for header in stores_of(options):
        made_wrongly = cropped_twice(header.spec) or pooled_otherwise(header.spec)
        if request.matches(header.request) and not made_wrongly:
            return header
    return None


def stores_of(options: Options) -> list[Header]:
    """Read the headers of the stores of this dataset, newest first; unreadable ones are named."""
    headers = []
    folder = Path(options.features_dir) / dataset_name(options.dataset)
    for path in find_stores(options.features_dir):
        if path.parent != folder:
            continue
        try:
            header = read_header(path)
        except StoreError as error:
            log(f"not used: {error}")
            continue
        if not is_imported(header.spec):
            headers.append(header)
    headers.sort(key=lambda header: str(header.provenance.get("finished", "")), reverse=True)
    return headers


def announce(header: Header, options: Options) -> None:
    """Say what a finished store holds; refuse it where images were left out without leave."""
    skipped = list(header.provenance.get("skipped_images", []))
    if skipped and not options.skip_bad_images:
        raise bad_images_error(skipped, f"{header.path} was made without them", options.max_pixels)
    made = str(header.provenance.get("finished", "an unknown date"))[:10]
    model = header.spec.get("model", {}).get("name", "an unknown model")
    left_out = f", {len(skipped)} undecodable images left out" if skipped else ""
    log(
        f"found {header.path}: "
        f"{rows_in_words(header)} rows, "
        f"{header.n_features} wide ({header.dtype}, {header.spec.get('precision')}), "
        f"made on {made} with {model}{left_out}"
    )
    unread = unread_rotations_sentence(header.provenance)
    if unread:
        log(unread)


def unread_rotations_sentence(provenance: Mapping[str, Any]) -> str:
    """Say which images are taken as they are stored; empty where there are none."""
    found = provenance.get("unread_rotations")
    if not found:
        return ""
    count, names = found.get("count", 0), list(map(str, found.get("first", [])))[:IMAGES_NAMED]
    more = ", ..." if count > len(names) else ""
    what = "image has a rotation that" if count == 1 else "images have a rotation that"
    return (
        f"{count:,} {what} cannot be read (EXIF, XMP or TIFF tags), taken as stored: "
        f"{', '.join(names)}{more}"
    )


def bad_images_error(ids: list[str], what: str, max_pixels: int) -> UserError:
    """Name images that were left out, and how to go on with or without them."""
    again = ""
    if max_pixels > MAX_PIXELS:  # they may only have had more pixels than the limit of then
        again = f"make them again with --force --max-pixels {max_pixels}, "
    more = f" and {len(ids) - IMAGES_NAMED} more" if len(ids) > IMAGES_NAMED else ""
    return UserError(
        f"{len(ids)} images cannot be decoded: {', '.join(ids[:IMAGES_NAMED])}{more}; {what}\n"
        f"{again}repair or remove the files, or leave such files out with --skip-bad-images"
    )
