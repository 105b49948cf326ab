"""A mutation fuzzer for the readers of files from anywhere; not a test.

    python tests/faults/fuzz.py [--seconds 60] [--seed 0] [READER ...]

Valid files are changed in many small ways and read. Whatever comes, a reader answers with the data
of the valid file, with other data that is sound, or with a `UserError`: never with another
exception, and (where a checksum stands over the data) never with other data. A finding is written
to a file, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import itertools
import json
import random
import sys
import tarfile
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parent))

from data.common.errors import UserError

INTERESTING = [
    0,
    1,
    7,
    0x7F,
    0x80,
    0xFF,
    0x7FFF,
    0xFFFF,
    2**31 - 1,
    2**32 - 1,
    2**63 - 1,
    2**64 - 1,
]


def mutate(content, chance):
    """Change a file in one to four places: bits, numbers, cuts, insertions, copies, swaps."""
    made = bytearray(content)
    for _ in range(chance.choice([1, 1, 1, 2, 4])):
        at = chance.randrange(len(made) + 1)
        size = chance.choice([1, 2, 4, 8, 32, 512])
        kind = chance.randrange(7)
        if kind == 0 and at < len(made):
            made[at] ^= 1 << chance.randrange(8)
        elif kind == 1 and at < len(made):
            made[at] = chance.randrange(256)
        elif kind == 2:
            width = chance.choice([1, 2, 4, 8])
            value = chance.choice(INTERESTING) % 256**width
            made[at : at + width] = value.to_bytes(width, chance.choice(["little", "big"]))
        elif kind == 3:
            del made[at : at + size]
        elif kind == 4:
            made[at:at] = chance.randbytes(size)
        elif kind == 5:
            origin = chance.randrange(len(made) + 1)
            made[at : at + size] = made[origin : origin + size]
        else:
            del made[at:]
        made = made or bytearray(b"\0")
    return bytes(made)


def store(folder):
    """Feature stores: only the very rows that were written come back."""
    from fault_world import write_store

    from data.reading import open_features

    path = write_store(folder / "a.h5", [0, 1, 1] * 3, [1, 0], ["a", "b"])
    whole = path.read_bytes()
    features = open_features(path)

    def facts(found):
        return [found.class_names, found.key, *map(bytes_of, (found.train, found.test))]

    def bytes_of(split):
        return (split.features.tobytes(), split.labels.tobytes(), list(split.ids))

    wanted = facts(features)

    def read(target):
        if facts(open_features(target)) != wanted:
            raise AssertionError("other rows than were written")

    return whole, read


def unsealed(folder):
    """Stores as another program writes them, without the seal: HDF5 itself meets the damage.

    Attributes may then read otherwise unnoticed; arrays have their own digests.
    """
    from data.format.seal import hdf5_end
    from data.reading import open_features

    whole, _ = store(folder)
    with open(folder / "a.h5", "rb") as stream:
        whole = whole[: hdf5_end(stream.fileno())]
    rows = open_features(folder / "a.h5").train.features.tobytes()

    def read(target):
        found = open_features(target).train.features
        if found.dtype == np.float32 and found.shape == (9, 4) and found.tobytes() != rows:
            digest = hashlib.sha256(found.tobytes()).hexdigest()
            raise AssertionError(f"other rows, under the digest {digest}")

    return whole, read


def archive(folder):
    """CIFAR archives: what is not the checksummed one; sound arrays, or a message."""
    from data.images.sources.cifar import CifarArchive, CifarReader

    layout = CifarArchive(
        "cifar10", "a.tar.gz", "bin", "", "", 0, (("train.bin", 3),), (("test.bin", 2),),
        "names.txt", (2,),
    )  # fmt: skip
    chance = np.random.default_rng(0)
    members = {"names.txt": b"cat\ndog\n"}
    for name, count in (("train.bin", 3), ("test.bin", 2)):
        records = chance.integers(0, 256, (count, 3073), dtype=np.uint8)
        records[:, 0] = np.arange(count) % 2
        members[name] = records.tobytes()
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(f"bin/{name}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))

    def read(target):
        import gzip

        raw = target.read_bytes()
        if raw[:2] != b"\x1f\x8b":  # half of the time the tar inside is what was changed
            target.write_bytes(gzip.compress(raw, 1))
        reader = CifarReader(layout)
        reader.read_archive(target)
        found = reader.source({})
        assert found.train.images.array.shape == (3, 32, 32, 3)
        assert set(found.train.labels) | set(found.test.labels) <= {0, 1}
        assert len(found.class_names) == 2

    return packed.getvalue(), read


def head(folder):
    """Trained heads: a head whose parts fit each other, or a message."""
    from classify.saved.heads import SavedHead, save_head
    from classify.saved.reading import load_head

    spec = {"model": {"name": "m", "args": {}, "weights": {"source": "random", "digest": "0"}}}
    coef = np.arange(12, dtype=np.float32).reshape(3, 4)
    made = SavedHead("ovo", ("a", "b", "c"), coef, np.zeros(3, np.float32), spec, "k", 1.0)
    save_head(folder / "h.safetensors", made)

    def read(target):
        found = load_head(target)
        answers = found.probabilities(np.ones((2, found.n_features)))
        assert answers.shape == (2, len(found.class_names))
        json.dumps(found.spec)

    return (folder / "h.safetensors").read_bytes(), read


def model(folder):
    """Heads that are not linear: a head that answers, or a message; members are changed inside."""
    from classify.heads.interface import FitContext, RowSet
    from classify.heads.registry import head_kind
    from classify.saved.models import SavedModel, load_model, save_model

    spec = {"model": {"name": "m", "args": {}, "weights": {"source": "random", "digest": "0"}}}
    X = np.random.default_rng(0).normal(size=(30, 3)).astype(np.float32)
    setting = {"components": 2, "min_samples_leaf": 2, "n_estimators": 2}
    rows = RowSet(X, np.arange(30), np.arange(30) % 3, 3)
    made = head_kind("forest").fit(rows, setting, FitContext(n_jobs=1))
    save_model(folder / "h.skops", SavedModel("forest", ("a", "b", "c"), made, spec, "k"))
    whole, packed = members(folder / "h.skops")

    def read(target):
        found = load_model(packed(target))
        answers = found.probabilities(np.ones((2, found.n_features), np.float32))
        assert answers.shape == (2, len(found.class_names)) and np.isfinite(answers).all()
        json.dumps(found.spec)

    return whole, read


def members(path):
    """Return the members of a zip archive, one after the other, and what packs changed ones."""
    import zipfile

    between = b"\n-- member --\n"
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        whole = between.join(map(archive.read, names))

    def packed(target):
        with zipfile.ZipFile(target.with_suffix(".skops"), "w") as archive:
            for name, content in zip(names, target.read_bytes().split(between), strict=False):
                archive.writestr(name, content)
        return target.with_suffix(".skops")

    return whole, packed


def estimator(folder):
    """Exported estimators: one that answers, or a message; members are changed inside."""
    from classify import load_head
    from classify.export.sklearn_file import write
    from classify.saved.heads import SavedHead

    spec = {"model": {"name": "m", "args": {}, "weights": {"source": "random", "digest": "0"}}}
    coef = np.arange(12, dtype=np.float32).reshape(3, 4)
    made = SavedHead("ovo", ("b", "a", "c"), coef, np.zeros(3, np.float32), spec, "k", 1.0)
    write(made, folder / "e.skops")
    whole, packed = members(folder / "e.skops")

    def read(target):
        found = load_head(packed(target))
        answers = found.predict_proba(np.ones((2, found.n_features_in_)))
        assert answers.shape == (2, len(found.classes_)) and np.isfinite(answers).all()
        assert set(found.predict(np.ones((2, found.n_features_in_)))) <= set(found.classes_)

    return whole, read


def weights(folder):
    """Backbone weights: a digest of all tensors, or a message; nothing is allocated on its word."""
    from safetensors.numpy import save

    from extract.model.checkpoints import read_networks
    from extract.model.weights import check_weights_file, network_digest

    tensors = {"a.weight": np.ones((3, 4), np.float32), "b": np.arange(5)}

    def read(target):
        check_weights_file(target)
        for tensors in read_networks(target).values():
            assert len(network_digest(tensors)) == 64

    return save(tensors, metadata={"format": "pt"}), read


def image(folder):
    """Images of every format: uint8 RGB of a sane size, or a message."""
    from PIL import Image

    from data.images.decode import decode_image

    rgb = np.random.default_rng(0).integers(0, 256, (24, 17, 3), dtype=np.uint8)
    made = []
    for kind in ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF", "PPM"):
        stream = io.BytesIO()
        Image.fromarray(rgb).save(stream, kind)
        made.append(stream.getvalue())
    turns = itertools.cycle(made)

    def read(target):
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # none reaches anyone
            found = decode_image(target)
        assert found.dtype == np.uint8
        assert found.ndim == 3
        assert found.shape[2] == 3

    return lambda: next(turns), read


def features(folder):
    """Features that others made: sound rows, or a message.

    Not torch's, which another process reads, and neither HDF5 nor AnnData: HDF5's own library ends
    the process on some damaged files of other programs, which have neither seal nor checksums.
    """
    from fault_world import write_store

    from data.exchange.exporting import export_store
    from data.exchange.records import Reading
    from data.exchange.registry import KINDS, read_files
    from data.exchange.rows import Wanted, arranged

    path = write_store(folder / "a.h5", [0, 1, 1] * 3, [1, 0], ["a", "b"])
    made = []
    for to, kind in KINDS.items():
        if to == "anndata":
            continue
        export_store(path, to)
        made.append((kind.suffix, path.with_suffix(kind.suffix).read_bytes()))
    rows = np.random.default_rng(0).normal(size=(6, 3))
    np.save(folder / "X_train.npy", rows)
    made.append((".npy", (folder / "X_train.npy").read_bytes()))
    np.save(folder / "y_train.npy", np.arange(6) % 2)
    turns = itertools.cycle(made)
    now = {}

    def whole():
        now["suffix"], content = next(turns)
        return content

    def read(target):
        if now["suffix"] == ".npy":
            target = target.rename(target.with_name("X_train.npy"))
            found = read_files([target, folder / "y_train.npy"], Reading())
        else:
            target = target.rename(target.with_suffix(now["suffix"]))
            found = read_files([target], Reading())
        rows = arranged(found, Wanted(test_fraction=0.4 if now["suffix"] == ".npy" else None))
        for split in rows.splits.values():
            blocks = [block for block, _ in split.blocks(np.dtype(np.float32))]
            assert sum(map(len, blocks)) == len(split.ids) == len(split.labels)
            assert all(block.shape[1] == rows.width for block in blocks)
            assert all(np.isfinite(block).all() for block in blocks)
            if len(split.labels):
                assert -1 <= split.labels.min() <= split.labels.max() < len(rows.class_names)

    return whole, read


READERS = {
    f.__name__: f
    for f in (store, unsealed, archive, head, model, estimator, weights, image, features)
}
SUFFIXES = {"store": ".h5", "unsealed": ".h5", "archive": ".tar.gz", "image": ".png"}


def fuzz(name, seconds, seed, folder):
    """Fuzz one reader; returns how many files it was given, and the first finding or None."""
    chance = random.Random(f"{seed} {name}")
    whole, read = READERS[name](folder)
    target = folder / f"made{SUFFIXES.get(name, '.safetensors')}"
    until = time.monotonic() + seconds
    count = 0
    while time.monotonic() < until:
        made = mutate(whole() if callable(whole) else whole, chance)
        target.write_bytes(made)
        count += 1
        try:
            read(target)
        except UserError as error:
            if not str(error).strip():
                return count, (made, error)
        except Exception as error:
            return count, (made, error)
    return count, None


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("readers", nargs="*", choices=[*READERS, []], metavar="READER")
    parser.add_argument("--seconds", type=float, default=60, help="in all")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)
    names = options.readers or list(READERS)
    failed = False
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            count, finding = fuzz(name, options.seconds / len(names), options.seed, Path(folder))
        print(f"{name}: {count:,} files, {'a finding' if finding else 'all well'}", flush=True)
        if finding:
            failed = True
            made, error = finding
            kept = Path(f"fuzz-{name}-{hashlib.sha256(made).hexdigest()[:8]}")
            kept.write_bytes(made)
            print(f"  {type(error).__name__}: {error}\n  the file is {kept}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
