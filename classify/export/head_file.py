"""Write a head in another form, check it by running it, and put it in place."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from classify.export.check import Floats, Labels, compare, write_images
from classify.export.for_timm import check_for_timm
from classify.export.program_of import head_program
from classify.predict import AnyHead, Embedding, embed_by, networks, read_head
from classify.results.names import backbone_name
from classify.saved.parts import Network
from classify.solver.memory import show_bytes
from classify.stage_one import run_stage_one
from classify.wording import display_name
from data.common.cli import log
from data.common.errors import UserError
from data.common.files import (
    atomic_path,
    check_writable,
    put_folder,
    sync_folder,
    temporary_folder,
)
from data.common.packages import package_version
from data.format.programs import NetworkOrder, Order, write_order
from data.format.spec import is_imported

SKLEARN, FLOAT32 = "sklearn", "fp32"


@dataclass(frozen=True)
class Form:
    """A form that a head is exported to."""

    ending: str  # of the file's name, or of a folder's
    folder: bool
    squares: bool = True  # whether small square images are resized as `predict` does


FORMS = {
    "onnx": Form(".onnx", folder=False),
    "torch": Form("-torch", folder=True),
    "sklearn": Form("-sklearn.skops", folder=False),
    "timm": Form("-timm", folder=True, squares=False),
}


def export_head(
    head_path: Path,
    to: str,
    out: Path | None = None,
    *,
    weights: Sequence[str] = (),
    force: bool = False,
) -> Path:
    """Write a head in another form; what is under the final name has been run and compared.

    `to` is a key of `FORMS`; `out` the file or folder, by default under ``exports`` of the run;
    `weights` are the backbones' files, if they moved. With `force` what is there is replaced.
    """
    head = read_head(head_path)
    if to == "timm":
        check_for_timm(head, head_path)
    path = _place(head_path, FORMS[to], out)
    if (path.exists() or path.is_symlink()) and not force:
        what = "is a folder that" if path.is_dir() else "is a file that"
        raise UserError(
            f"--out {path} {what} is there already; give --force to replace it, or another name"
        )
    if path.exists() and path.is_dir() != FORMS[to].folder:
        what, wanted = ("folder", "file") if path.is_dir() else ("file", "folder")
        raise UserError(f"--out {path} is a {what}, and --to {to} writes a {wanted}")
    path.parent.mkdir(parents=True, exist_ok=True)
    check_writable(path.absolute().parent)
    if to == SKLEARN:
        from classify.export.sklearn_file import write

        with atomic_path(path) as temporary:
            said = write(head, temporary)
    else:
        said = _write_program(head, to, path, weights)
    log(f"{path}: {show_bytes(_bytes_of(path))}; {said}")
    return path


def _place(head_path: Path, form: Form, out: Path | None) -> Path:
    if out is None:
        folder = head_path.absolute().parent
        if folder.name == "heads":
            folder = folder.parent / "exports"
        return folder / f"{head_path.stem}{form.ending}"
    suffix = Path(f"head{form.ending}").suffix
    if suffix and out.suffix.lower() != suffix:
        raise UserError(
            f"--out {out}: the name of such a file ends in {suffix}; give {out.with_suffix(suffix)}"
        )
    return out


def _write_program(head: AnyHead, to: str, path: Path, weights: Sequence[str]) -> str:
    """Have stage one write the program, and compare its answers with those of ``predict``."""
    if is_imported(head.spec):
        raise UserError(
            f"the head was fitted on features that were imported, and no model is known that makes "
            f"them, so --to {to} has no network to write; --to {SKLEARN} takes features"
        )
    found = networks(head, weights)
    order = Order(
        head=head_program(head),
        networks=tuple(NetworkOrder(one.spec, one.weights_file, one.n_features) for one in found),
        store_key=head.store_key,
        versions={"icebox": package_version("icebox") or "unknown"},
    )
    in_place = _folder_at_the_end if FORMS[to].folder else atomic_path
    with tempfile.TemporaryDirectory(prefix="icebox-export-") as folder, in_place(path) as part:
        write_order(Path(folder), order)
        run_stage_one(["program", f"--order={folder}", f"--to={to}", f"--out={part}"])
        images = write_images(Path(folder), squares=FORMS[to].squares)
        answers = _answers(to, part, images, Path(folder))
        largest = compare(_expected(head, found, images), answers, images)
        whose, half = "predict's", ""
        if any(one.spec.get("precision") != FLOAT32 for one in order.networks):
            own = head.probabilities(embed_by(found, images, Embedding(device="cpu")))
            whose = "those of float32 features"
            half = (
                "; it computes in float32, and predict in the store's lower precision: they differ "
                f"by {np.abs(answers[0] - own).max():.1g} at most"
            )
    return (
        f"{display_name(order.head.name)} head on {backbone_name(head.spec)}; run on "
        f"{len(images)} images, its probabilities differ from {whose} by {largest:.1g} at most"
        f"{half}"
    )


def _expected(
    head: AnyHead, found: Sequence[Network], images: Sequence[str]
) -> tuple[Floats, Labels]:
    """Answer images as ``predict`` does, from features in float32, in which programs compute."""
    exact = [one._replace(spec={**one.spec, "precision": FLOAT32}) for one in found]
    X = embed_by(exact, images, Embedding(device="cpu"))
    return np.asarray(head.probabilities(X)), head.predict(X)


def _answers(to: str, program: Path, images: Sequence[str], folder: Path) -> tuple[Floats, Labels]:
    """Run what was written, in a process of its own."""
    listing, out = folder / "images.json", folder / "answers.npz"
    listing.write_text(json.dumps(list(images)), encoding="utf-8")
    run_stage_one(
        ["answers", f"--to={to}", f"--program={program}", f"--list={listing}", f"--out={out}"]
    )
    with np.load(out, allow_pickle=False) as found:
        return found["probabilities"].astype(np.float64), found["labels"].astype(np.int64)


@contextmanager
def _folder_at_the_end(path: Path) -> Iterator[Path]:
    """Give a hidden name for a folder, and put it in place of what is there at a good end."""
    with temporary_folder(path.absolute().parent) as fresh:
        new = fresh / "new"
        yield new
        put_folder(new, path, fresh / "old")
        sync_folder(path.absolute().parent)


def _bytes_of(path: Path) -> int:
    if path.is_file():
        return path.stat().st_size
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
