"""``python -m data import``: files of features that others made become a verified store."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import platform
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

from data.common.cli import log, progress
from data.common.errors import UserError
from data.common.files import (
    check_writable,
    lock,
    sha256_file,
    stat_stamp,
    temporary_folder,
)
from data.exchange.classes import read_class_names
from data.exchange.records import Reading, type_note
from data.exchange.registry import check_file, read_files
from data.exchange.rows import Rows, SplitRows, Wanted, arranged
from data.format.loading import digest_ids
from data.format.records import Header, SplitSource, StoreError, rows_in_words
from data.format.schema import SCHEMA_VERSION
from data.format.spec import (
    IMPORTED,
    canonical_json,
    find_stores,
    spec_key,
    store_path,
)
from data.images.tables.columns import split_choice
from data.reading import read_header
from data.writing import join


@dataclass(frozen=True)
class ImportOptions:
    """What the user asked for; empty where a default is meant."""

    files: tuple[Path, ...]
    name: str
    features_dir: Path = Path("features")
    model: str = IMPORTED  # what made the features, for reports
    columns: Mapping[str, str] = field(default_factory=dict)  # role -> name
    features: tuple[tuple[str | None, str], ...] = ()  # (split, name of an array)
    labels: tuple[tuple[str | None, str], ...] = ()
    obsm: str | None = None
    class_names: Path | None = None
    merge_classes: tuple[str, ...] = ()  # a=b,c
    drop_class: tuple[str, ...] = ()
    test_fraction: float | None = None
    seed: int = 0
    store_dtype: str = "auto"  # float16 where all features are, else float32
    force: bool = False

    @property
    def sources(self) -> list[Path]:
        """All files that decide what is in the store."""
        return [*self.files, *([self.class_names] if self.class_names else [])]


def import_features(options: ImportOptions) -> Path:
    """Make a store of features that others made.

    Parameters
    ----------
    options : ImportOptions
        The files, what in them is what, and where the store goes.

    Returns
    -------
    Path
        The store; one that was made of the same files with the same options is found again.

    Raises
    ------
    UserError
        If a file cannot be read, or does not hold what a store needs; the message says what.
    """
    if not options.name.strip():
        raise UserError("--name is empty; give a short name for the data set, such as my-set")
    for path in options.files:
        check_file(path)
    if options.class_names is not None:
        read_class_names(options.class_names)
    others = [path.name for path in options.files if path.suffix.lower() != ".h5ad"]
    if options.obsm is not None and others:
        raise UserError(
            f"--obsm {options.obsm}: {others[0]} is none of AnnData's files (.h5ad); leave the "
            "option out, and name arrays with --features-path"
        )
    check_writable(options.features_dir)
    asked = _Asked(options)
    with lock(options.features_dir / ".work" / f"import-{asked.digest}.lock"):
        header = None if options.force else asked.find()
        if header is not None:
            log(
                f"found {header.path}: {rows_in_words(header)} rows, {header.n_features} wide "
                f"({header.dtype}), imported on {str(header.provenance.get('finished'))[:10]}"
            )
            return header.path
        return _make(options, asked)


class _Asked:
    """The options and the files as they are now; digests are computed when needed."""

    def __init__(self, options: ImportOptions) -> None:
        self._options = options
        self.options = {
            # Where the files lie does not change the numbers; what is in them is in the digests.
            "dataset": options.name,
            IMPORTED: [path.name for path in options.files],
            "model": options.model,
            "columns": dict(options.columns),
            "features_path": [list(pair) for pair in options.features],
            "labels_path": [list(pair) for pair in options.labels],
            "obsm": options.obsm,
            "class_names": None if options.class_names is None else options.class_names.name,
            "merge_classes": list(options.merge_classes),
            "drop_class": list(options.drop_class),
            "test_fraction": options.test_fraction,
            "seed": options.seed if options.test_fraction is not None else None,
            "store_dtype": options.store_dtype,
        }
        self.digest = hashlib.sha256(canonical_json(self.options).encode()).hexdigest()[:16]
        self.stat = self.stamp()
        self._digests: list[str] | None = None

    def stamp(self) -> str:
        """Fingerprint all files by what the file system knows of them."""
        stamps = [stat_stamp(path.resolve()) for path in self._options.sources]
        return hashlib.sha256("\n".join(stamps).encode()).hexdigest()

    def digests(self) -> list[str]:
        """Digest every file, once."""
        if self._digests is None:
            sources = self._options.sources
            total = sum(path.stat().st_size for path in sources)
            with progress(total, "digest", "B") as bar:
                self._digests = [sha256_file(path, bar.update) for path in sources]
        return self._digests

    @property
    def sha256(self) -> str:
        """One digest of all files."""
        return hashlib.sha256("\n".join(self.digests()).encode()).hexdigest()

    def to_json(self) -> dict[str, Any]:
        """Give the ``request`` attribute of a store."""
        path = str(self._options.files[0].resolve())
        stamp = {"path": path, "stat": self.stat, "sha256": self.sha256}
        return {"options": self.options, "files": {"dataset": stamp}, "schema": SCHEMA_VERSION}

    def find(self) -> Header | None:
        """Look for a store that was made of these files with these options."""
        for path in find_stores(self._options.features_dir):
            try:
                header = read_header(path)
            except StoreError:  # named by whoever asks for it
                continue
            if header.request.get("options") != self.options:
                continue
            stored = (header.request.get("files") or {}).get("dataset") or {}
            if self.stat == stored.get("stat") or self.sha256 == stored.get("sha256"):
                return header
        return None


def _make(options: ImportOptions, asked: _Asked) -> Path:
    begun, started = time.perf_counter(), datetime.now(timezone.utc)
    notes: list[str] = []

    def on_note(text: str) -> None:
        log(text)
        notes.append(text)

    with contextlib.ExitStack() as stack:
        work = options.features_dir / ".work"
        columns = dict(options.columns)
        if "split" in columns:  # fold:test=5
            columns["split"] = columns["split"].partition(":")[0]
        reading = Reading(
            columns,
            options.features,
            options.labels,
            options.obsm,
            lambda: stack.enter_context(temporary_folder(work)),
            on_note,
        )
        rows = arranged(read_files(options.files, reading), _wanted(options))
        dtype, precision = _types(options, rows, on_note)
        spec = _spec(options, asked, rows, dtype, precision)
        path = store_path(options.features_dir, spec)
        _tell_rows(rows, on_note)
        total = sum(len(split.ids) for split in rows.splits.values())
        with progress(total, "import", "row") as bar:
            sources = {name: _source(split, dtype) for name, split in rows.splits.items()}
            if asked.stamp() != asked.stat:
                raise UserError(
                    f"{options.files[0]} or a file beside it has changed while it was being read\n"
                    "let the copying or editing end, then run the same command again"
                )
            now = datetime.now(timezone.utc)
            report = join(
                path,
                spec=spec,
                request=asked.to_json(),
                provenance=_provenance(options, notes, (started, now, begun)),
                class_names=rows.class_names,
                group_names=rows.group_names,
                splits=sources,
                on_rows=bar.update,
            )
    for text in report.odd:
        log(f"warning: {text}")
    log(
        f"imported {rows_in_words(report.header)} rows, {rows.width:,} wide ({dtype}), "
        f"{len(rows.class_names):,} classes; verified"
    )
    return path


def _wanted(options: ImportOptions) -> Wanted:
    names = None if options.class_names is None else read_class_names(options.class_names)
    return Wanted(
        names,
        str(options.class_names or ""),
        options.test_fraction,
        options.seed,
        options.merge_classes,
        options.drop_class,
        split_choice(options.columns.get("split"), ()),
    )


def _types(options: ImportOptions, rows: Rows, on_note: Any) -> tuple[np.dtype[Any], str]:
    """Settle the type of the store, and name that of the files."""
    tables = [
        (part.source, part.features)
        for split in rows.splits.values()
        for part, _ in split.parts
        if part.features is not None
    ]
    kinds = sorted({str(table.dtype) for _, table in tables})
    dtype = np.dtype(options.store_dtype if options.store_dtype != "auto" else "float32")
    if options.store_dtype == "auto" and kinds == ["float16"]:
        dtype = np.dtype("float16")
    notes = [f"{source}: {note}" for source, table in tables if (note := type_note(table, dtype))]
    for note in dict.fromkeys(notes):
        on_note(note)
    return dtype, kinds[0] if len(kinds) == 1 else " and ".join(kinds)


def _spec(
    options: ImportOptions, asked: _Asked, rows: Rows, dtype: np.dtype[Any], precision: str
) -> dict[str, Any]:
    """Say everything that decides the numbers; of the features, the digests of their files."""
    names = [path.name for path in options.sources]
    listed = [
        {"name": name, "sha256": digest}
        for name, digest in zip(names, asked.digests(), strict=True)
    ]
    chosen = {"features": asked.options["features_path"], "obsm": options.obsm}
    return {
        "dataset": {"name": options.name, "digest": _digest(rows), "limit": None},
        "model": {
            "name": options.model,
            "args": {},
            "weights": {"source": IMPORTED, "digest": spec_key({"files": listed, **chosen})},
        },
        "preprocessing": {},
        "pool": "none",
        "precision": precision,
        "store_dtype": str(dtype),
        "seed": None,
        IMPORTED: {"files": listed, **chosen},
    }


def _digest(rows: Rows) -> str:
    """Digest what stands beside the features: ids, labels, groups and weights of every split."""

    def of(array: Any) -> str | None:
        return None if array is None else hashlib.sha256(array.tobytes()).hexdigest()

    splits = {
        name: {
            "ids": digest_ids(split.ids),
            "labels": of(split.labels),
            "groups": of(split.groups),
            "weights": of(split.weights),
        }
        for name, split in rows.splits.items()
    }
    names = {"classes": list(rows.class_names), "groups": list(rows.group_names)}
    return spec_key({"names": names, "splits": splits})


def _source(split: SplitRows, dtype: np.dtype[Any]) -> SplitSource:
    return SplitSource(
        labels=split.labels,
        ids=split.ids,
        blocks=split.blocks(dtype),
        groups=split.groups,
        weights=split.weights,
    )


def _tell_rows(rows: Rows, on_note: Any) -> None:
    unlabelled = rows.splits.get("unlabelled")
    if unlabelled is not None:
        on_note(
            f"{len(unlabelled.ids):,} rows have no label: fits leave them out, and predict can use "
            "them"
        )
    present = np.unique(rows.splits["test"].labels)
    train = np.unique(rows.splits["train"].labels)
    missing = [rows.class_names[c] for c in np.setdiff1d(train, present)]
    if missing:
        on_note(f"no test row has the class {', '.join(missing[:5])}")


def _provenance(
    options: ImportOptions, notes: list[str], times: tuple[datetime, datetime, float]
) -> dict[str, Any]:
    started, now, begun = times
    return {
        "dataset": {"kind": IMPORTED, "path": str(options.files[0].resolve())},
        "engine": IMPORTED,
        "notes": list(notes),
        "started": started.isoformat(timespec="seconds"),
        "finished": now.isoformat(timespec="seconds"),
        "seconds": round(time.perf_counter() - begun, 3),
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in ("numpy", "h5py")},
    }


def parse_paths(option: str, words: list[str]) -> tuple[tuple[str | None, str], ...]:
    """Read ``[SPLIT=]PATH``."""
    from data.images.splits import split_of

    found = []
    for word in words:
        first, sign, rest = word.partition("=")
        split = split_of(first) if sign else None
        if sign and split is None and "/" not in first:
            raise UserError(
                f"{option} {word}: {first} is no split; give train=PATH, test=PATH or val=PATH, "
                "or a path alone"
            )
        found.append((split, rest if split else word))
    return tuple(found)
