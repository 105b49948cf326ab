"""The options of ``python -m classify export``, and the command."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from data.common.cache_folder import use_cache_folder
from data.common.cli import Parser, folder_path, print_result

FORM_NAMES = ("onnx", "torch", "sklearn", "timm")


def add_export_options(parser: Parser) -> None:
    """Add the options of ``export``."""
    parser.add_argument("head", type=Path, metavar="HEAD")
    parser.add_argument(
        "--to", choices=FORM_NAMES, required=True,
        help="onnx: one file, from uint8 images to probabilities; torch: a folder with weights, a "
        "loader and a program; sklearn: the estimator, for features; timm: a folder that "
        "timm.create_model opens",
    )  # fmt: skip
    parser.add_argument(
        "--out", type=folder_path, metavar="PATH",
        help="the file or folder to write (in exports/ of the head's run)",
    )  # fmt: skip
    parser.add_argument("--force", action="store_true", help="replace what is there")
    parser.add_argument(
        "--weights", action="append", default=[], metavar="bundled|FILE",
        help="the backbone's weights, if moved; of a head of several stores repeated, in the order "
        "of the stores",
    )  # fmt: skip


def export_command(options: Namespace) -> None:
    """Run ``export``: what was checked on stderr, the path on stdout."""
    use_cache_folder()
    from classify.export.head_file import export_head

    print_result(
        export_head(
            options.head, options.to, options.out, weights=options.weights, force=options.force
        )
    )
