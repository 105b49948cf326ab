"""Export heads in every form, and run each on the images that ``predict`` answers.

Images are the first of the test split of the head's data set (CIFAR or digits), and pieces of
scikit-learn's two photographs of as many sizes. A form's clock runs from image files to answers,
without the start of its process; that of ``predict`` is the command on all images less the same
command on one. Sizes are those of what was written.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.processes import measured, scratch
from benchmarks.record import Record, Table
from classify.results.names import backbone_name
from classify.saved.heads import SavedHead
from classify.saved.reading import load_head
from data.common.cli import Parser, run
from data.common.errors import UserError
from data.dataset import load_dataset
from data.images.arrays import ArrayImages

FORMS = {
    "onnx": ("onnx", "head.onnx"),
    "program.pt2": ("torch", "torch"),
    "load.py": ("torch", "torch"),
    "timm": ("timm", "timm"),
}
LIMIT = 1e-4
COLUMNS = (
    ("head", 12), ("form", 12), ("images", 12), ("MB", 6), ("largest", 9), ("over 1e-4", 9),
    ("labels", 7), ("images/s", 8), ("CPU ms", 7),
)  # fmt: skip


def parser() -> Parser:
    """Build the parser."""
    top = Parser(prog="python -m benchmarks.exports", description=__doc__)
    top.add_argument("heads", nargs="+", type=Path, metavar="HEAD")
    top.add_argument("--data-dir", type=Path, default=Path("data/raw"), metavar="DIR")
    top.add_argument(
        "--form", action="append", choices=tuple(FORMS), help="which; may be repeated (all)"
    )
    top.add_argument("--count", type=int, default=1000, metavar="N", help="of each kind (1000)")
    top.add_argument("--results-dir", type=Path, default=Path("benchmarks/results"), metavar="DIR")
    return top


def main(argv: Sequence[str]) -> None:
    """Run it."""
    options = parser().parse_args(argv)
    if options.count < 2:
        raise UserError(f"--count is {options.count}, expected 2 or more")
    record = Record(options.results_dir, "exports", {"count": options.count})
    table = Table(COLUMNS)
    for path in map(Path.absolute, options.heads):
        head = load_head(path)
        with scratch() as folder:
            kinds = {
                "data set": _of_dataset(head, options.data_dir, options.count, folder / "a"),
                "photographs": _pieces(options.count, folder / "b"),
            }
            expected = {
                kind: _predict(path, names, table, record, head, kind)
                for kind, names in kinds.items()
            }
            for form in options.form or FORMS:
                to, name = FORMS[form]
                _measure(path, head, form, to, folder / name, kinds, expected, table, record)
    record.finish()


def _measure(
    path: Path, head: SavedHead, form: str, to: str, out: Path, kinds: dict[str, list[str]],
    expected: dict[str, Any], table: Table, record: Record,
) -> None:  # fmt: skip
    """Export a form if it is not there, and run it on each kind of images."""
    if to == "timm" and (head.coded != "multinomial" or head.normalize):
        return
    if not out.exists():
        measured(["classify", "export", str(path), f"--to={to}", f"--out={out}"])
    if form == "load.py" and not (out / form).exists():
        return
    files = [out] if out.is_file() else [file for file in out.rglob("*") if file.is_file()]
    megabytes = sum(file.stat().st_size for file in files) / 1e6
    for kind, names in kinds.items():
        listing, answers = out.parent / "list.json", out.parent / "answers.npz"
        listing.write_text(json.dumps(names), encoding="utf-8")
        measured(["benchmarks.exports.answers", form, str(out), str(listing), str(answers)])
        with np.load(answers) as found:
            apart = np.abs(found["probabilities"] - expected[kind][0]).max(axis=1)
            rows = np.arange(len(names))
            at_stake = expected[kind][0]
            gap = at_stake[rows, expected[kind][1]] - at_stake[rows, found["labels"]]
            other = (found["labels"] != expected[kind][1]) & (np.abs(gap) > LIMIT)
            cpu = 1000 * float(found["cpu"]) / len(names)
            line = {
                "head": head.strategy, "backbone": backbone_name(head.spec), "form": form,
                "images": kind, "n": len(names), "megabytes": megabytes,
                "largest": float(apart.max()), "over": int((apart > LIMIT).sum()),
                "other_labels": int(other.sum()),
                "images_per_second": len(names) / float(found["seconds"]),
                "cpu_ms_per_image": cpu,
            }  # fmt: skip
        record.add(line)
        table.row(
            head.strategy, form, kind, f"{megabytes:.1f}", f"{line['largest']:.1g}", line["over"],
            line["other_labels"], f"{line['images_per_second']:.0f}",
            f"{cpu:.1f}",
        )  # fmt: skip


def _predict(
    path: Path, names: list[str], table: Table, record: Record, head: SavedHead, kind: str
) -> tuple[Any, Any]:
    """Answer with the command, and time it."""
    words = ["classify", "predict", str(path), "--json", f"--top={len(head.class_names)}"]
    one = measured([*words, names[0]])
    every = measured([*words, str(Path(names[0]).parent)])
    place = {name: i for i, name in enumerate(head.class_names)}
    answered = json.loads(every["stdout"])
    assert [answer["image"] for answer in answered] == names
    probabilities = np.zeros((len(names), len(place)))
    for row, answer in enumerate(answered):
        for found in answer["top"]:
            probabilities[row, place[found["class"]]] = found["probability"]
    labels = np.array([place[answer["label"]] for answer in answered])
    more = len(names) - 1
    rate = more / max(every["seconds"] - one["seconds"], 1e-9)
    cpu = (every["cpu_seconds"] - one["cpu_seconds"]) / more
    record.add({"head": head.strategy, "form": "predict", "images": kind, "n": len(names),
                "images_per_second": rate, "start_seconds": one["seconds"],
                "cpu_ms_per_image": 1000 * cpu})  # fmt: skip
    table.row(head.strategy, "predict", kind, "", "", "", "", f"{rate:.0f}", f"{1000 * cpu:.1f}")
    return probabilities, labels


def _of_dataset(head: SavedHead, data_dir: Path, count: int, folder: Path) -> list[str]:
    """Write the first test images of the head's data set as PNG files."""
    name = str((head.spec.get("dataset") or {}).get("name"))
    images = load_dataset(name, data_dir=data_dir).splits["test"].images
    if not isinstance(images, ArrayImages):
        raise UserError(f"the head is of {name}; give heads of cifar10, cifar100 or digits")
    return _write(list(images.rows(0, min(count, len(images)))), folder)


def _pieces(count: int, folder: Path) -> list[str]:
    """Write pieces of the photographs, from 2 pixels a side to twice their size."""
    from sklearn.datasets import load_sample_images

    photographs, rng = load_sample_images().images, np.random.default_rng(0)
    found = []
    for number in range(count):
        photograph = Image.fromarray(photographs[number % 2])
        sides = np.exp(rng.uniform(np.log(2), np.log([photograph.height, photograph.width])))
        height, width = sides.astype(int).tolist()
        left = int(rng.integers(photograph.width - width + 1))
        top = int(rng.integers(photograph.height - height + 1))
        piece = photograph.crop((left, top, left + width, top + height))
        scale = float(rng.uniform(0.5, 2))
        size = max(int(width * scale), 1), max(int(height * scale), 1)
        found.append(np.asarray(piece.resize(size)))
    return _write(found, folder)


def _write(images: Sequence[Any], folder: Path) -> list[str]:
    folder.mkdir()
    names = [str(folder / f"{number:05}.png") for number in range(len(images))]
    for name, image in zip(names, images, strict=True):
        Image.fromarray(np.asarray(image)).save(name)
    return names


if __name__ == "__main__":
    sys.exit(run(main))
