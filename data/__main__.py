"""Features from and for other programs: make a store of them, or write a store in their formats."""

from __future__ import annotations

from argparse import ArgumentTypeError, Namespace
from collections.abc import Sequence
from pathlib import Path

from data.common.cache_folder import use_cache_folder
from data.common.cli import (
    Command,
    Parser,
    folder_path,
    parse_command,
    print_result,
    program_parsers,
    run_process,
    seed,
)
from data.common.errors import UserError

FORMATS = ("parquet", "npz", "anndata", "safetensors", "csv")
_COLUMNS = {
    "label": "labels",
    "split": "split",
    "group": "groups",
    "weight": "weights",
    "id": "ids",
}


def _fraction(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value < 1:
        raise ArgumentTypeError(f"'{text}' is not possible; give a number between 0 and 1")
    return value


def _add_import_options(parser: Parser) -> None:
    parser.add_argument(
        "files", nargs="+", type=Path, metavar="FILE",
        help="features: .npz, .npy, .parquet, .h5ad, .safetensors, .pt, .h5, .csv, .jsonl; and "
        "tables of labels; files named train.npz and test.npz are splits",
    )  # fmt: skip
    parser.add_argument("--name", metavar="NAME", help="of the data set; has to be given")
    parser.add_argument(
        "--model", default="imported", metavar="TEXT",
        help="what made the features, for reports (imported)",
    )  # fmt: skip
    for name, usual in (
        ("label", "label, y, class, target, category"),
        ("split", "split, subset, fold"),
        ("group", "group, patient, patient_id, subject"),
        ("weight", "weight, sample_weight"),
        ("id", "id, image, path, file, filename"),
    ):
        also = {
            "id": "; none numbers the rows", "split": "; or fold:test=5,val=4, by its values",
        }.get(name, "")  # fmt: skip
        parser.add_argument(
            f"--{name}-column", metavar="COLUMN",
            help=f"of a table, or the array of that name{also} ({usual}, in any case)",
        )  # fmt: skip
    parser.add_argument(
        "--features-path", action="append", default=[], metavar="[SPLIT=]PATH",
        help="the array, dataset or column with features, such as train=/a/b; may be repeated",
    )  # fmt: skip
    parser.add_argument(
        "--labels-path", action="append", default=[], metavar="[SPLIT=]PATH",
        help="the same of labels",
    )  # fmt: skip
    parser.add_argument("--obsm", metavar="KEY", help="of AnnData: a table of obsm in place of X")
    parser.add_argument(
        "--class-names", type=Path, metavar="FILE",
        help="a name a line, for labels that are whole numbers from 0",
    )  # fmt: skip
    parser.add_argument(
        "--merge-classes", action="append", default=[], metavar="NEW=CLASS,CLASS",
        help="put classes together; may be repeated",
    )  # fmt: skip
    parser.add_argument(
        "--drop-class", action="append", default=[], metavar="CLASS",
        help="leave out the rows of a class; may be repeated",
    )  # fmt: skip
    parser.add_argument(
        "--test-fraction", type=_fraction, metavar="FRACTION",
        help="hold out a share of each class where there is no test split, of a group all or none",
    )  # fmt: skip
    parser.add_argument("--seed", type=seed, default=0, metavar="N", help="of that choice (0)")
    parser.add_argument(
        "--store-dtype", choices=("auto", "float32", "float16"), default="auto",
        help="auto is float16 where the features are, else float32 (auto)",
    )  # fmt: skip
    parser.add_argument("--features-dir", type=folder_path, default=Path("features"), metavar="DIR")
    parser.add_argument("--force", action="store_true", help="make the store again")


def _add_export_options(parser: Parser) -> None:
    parser.add_argument("store", type=Path, metavar="FILE.h5")
    parser.add_argument("--to", choices=FORMATS, required=True, help="the format")
    parser.add_argument(
        "--out", type=folder_path, metavar="PATH", help="a file or folder (beside the store)"
    )
    parser.add_argument("--force", action="store_true", help="replace a file that is there")


def import_command(options: Namespace) -> None:
    """Run ``import``: what was found on stderr, the store's path on stdout."""
    use_cache_folder(options.features_dir)
    from data.exchange.importing import ImportOptions, import_features, parse_paths

    columns = {
        role: getattr(options, f"{name}_column")
        for name, role in _COLUMNS.items()
        if getattr(options, f"{name}_column") is not None
    }
    if options.name is None:
        raise UserError(
            "--name is missing; give a short name for the data set, such as --name my-set"
        )
    if not options.model.strip():
        raise UserError("--model is empty; say what made the features, or leave the option out")
    made = import_features(
        ImportOptions(
            files=tuple(dict.fromkeys(options.files)),
            name=options.name,
            features_dir=options.features_dir,
            model=options.model,
            columns=columns,
            features=parse_paths("--features-path", options.features_path),
            labels=parse_paths("--labels-path", options.labels_path),
            obsm=options.obsm,
            class_names=options.class_names,
            merge_classes=tuple(options.merge_classes),
            drop_class=tuple(options.drop_class),
            test_fraction=options.test_fraction,
            seed=options.seed,
            store_dtype=options.store_dtype,
            force=options.force,
        )
    )
    print_result(made)


def export_command(options: Namespace) -> None:
    """Run ``export``: the file's path on stdout."""
    use_cache_folder()
    from data.exchange.exporting import export_store

    print_result(export_store(options.store, options.to, options.out, force=options.force))


COMMANDS = {
    "import": Command(
        "make a verified store of features that you have", _add_import_options, import_command
    ),
    "export": Command(
        "write a store as Parquet, npz, AnnData, safetensors or CSV",
        _add_export_options,
        export_command,
    ),
}


def parsers() -> tuple[Parser, dict[str, Parser]]:
    """Build the parser of the program and those of its commands, by name."""
    return program_parsers("python -m data", __doc__, COMMANDS)


def parse(argv: Sequence[str]) -> tuple[str, Namespace]:
    """Parse a command line; options and files may be mixed.

    Parameters
    ----------
    argv : sequence of str
        The arguments after ``python -m data``.

    Returns
    -------
    tuple
        The command and its options.

    Raises
    ------
    UserError
        If it makes no sense.
    """
    return parse_command(*parsers(), argv)


def main(argv: Sequence[str]) -> None:
    """Run one command.

    Parameters
    ----------
    argv : sequence of str
        The arguments after ``python -m data``.
    """
    command, options = parse(argv)
    COMMANDS[command].run(options)


if __name__ == "__main__":
    run_process(main)
