"""The command line of stage one: ``python -m extract``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from data.common.cache_folder import use_cache_folder
from data.common.cli import Parser, folder_path, print_result, run_process, seed
from data.common.errors import UserError, nearest
from data.format.spec import DECODES
from data.images.decode import MAX_PIXELS
from extract.exporting.registry import FORMS
from extract.options import add_max_pixels, add_options, count_or_none, to_all_options

COMMANDS = {
    "list": "backbones that timm knows, with embedding width and input size",
    "why": "is there a store for these settings? if not, which setting differs",
    "verify": "recompute a store's checksums, and embed a few random rows again",
    "images": "embed image files with the backbone of a store's spec",
    "tensors": "unpack a file of torch.save into NumPy files, for python -m data import",
    "program": "write a head and its backbone as one program, for python -m classify export",
    "answers": "run such a program on image files, to check it",
}


def main(argv: Sequence[str]) -> None:
    """Run stage one, or the subcommand that the first word names.

    Parameters
    ----------
    argv : sequence of str
        The arguments.
    """
    if argv and not argv[0].startswith("-"):
        command = {
            "list": _list, "why": _why, "verify": _verify, "images": _images, "tensors": _tensors,
            "program": _program, "answers": _answers,
        }.get(argv[0])  # fmt: skip
        if command is None:
            raise UserError(
                f"python -m extract {argv[0]}: no such command; "
                f"{nearest(argv[0], COMMANDS)}\nThere are {', '.join(COMMANDS)}, and no word at "
                "all to embed a dataset"
            )
        command(argv[1:])
        return
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {text}" for name, text in COMMANDS.items()]
    parser = Parser(
        prog="python -m extract",
        description="Embed a dataset once with a frozen backbone.",
        epilog="other commands, as the first word:\n" + "\n".join(lines),
    )
    add_options(parser, run=True)
    every = to_all_options(parser.parse_args(argv))
    use_cache_folder(every[0].features_dir)

    from extract.run import extract_all

    for path in extract_all(every):
        if path is not None:
            print_result(path)


def _list(argv: Sequence[str]) -> None:
    parser = Parser(prog="python -m extract list", description=COMMANDS["list"])
    parser.add_argument("pattern", nargs="?", default="*", help="with wildcards, such as vit_*")
    arguments = parser.parse_args(argv)
    use_cache_folder()

    from extract.commands.list import list_backbones

    list_backbones(arguments.pattern)


def _why(argv: Sequence[str]) -> None:
    parser = Parser(prog="python -m extract why", description=COMMANDS["why"])
    add_options(parser, run=False)
    every = to_all_options(parser.parse_args(argv))
    use_cache_folder(every[0].features_dir)

    from extract.commands.why import explain_all

    for path in explain_all(every):
        if path is not None:
            print_result(path)


def _verify(argv: Sequence[str]) -> None:
    parser = Parser(prog="python -m extract verify", description=COMMANDS["verify"])
    parser.add_argument("store", type=Path, metavar="FILE.h5")
    parser.add_argument(
        "--rows",
        type=count_or_none,
        help="to embed again (16); where given, every engine and precision is compared on them",
    )
    parser.add_argument("--data-dir", type=Path, help="where the images lie, if not where they lay")
    parser.add_argument(
        "--weights", type=Path, metavar="bundled|FILE", help="the weights, if they moved"
    )
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="cpu")
    parser.add_argument("--seed", type=seed, default=0, help="of the choice of rows (%(default)s)")
    _add_decoding(parser, "the store's", max_pixels=None)
    parser.add_argument(
        "--reports-dir",
        type=folder_path,
        default=Path("reports"),
        help="where a trained head is looked for, to count predictions that flip (%(default)s)",
    )
    arguments = parser.parse_args(argv)
    use_cache_folder(arguments.store.absolute().parent.parent)

    from extract.commands.verify import Check, verify

    verify(
        arguments.store,
        Check(
            rows=arguments.rows,
            data_dir=arguments.data_dir,
            weights=arguments.weights,
            device=arguments.device,
            seed=arguments.seed,
            decode=arguments.decode,
            max_pixels=arguments.max_pixels,
            reports_dir=arguments.reports_dir,
        ),
    )
    print_result(arguments.store)


def _add_decoding(parser: Parser, whose: str, *, max_pixels: int | None) -> None:
    """Add the options of decoding to a command for which a store or a head has settled it."""
    parser.add_argument(
        "--decode", choices=DECODES, help=f"{whose} own is used; another is refused"
    )
    add_max_pixels(parser, default=max_pixels)


def _images(argv: Sequence[str]) -> None:
    parser = Parser(prog="python -m extract images", description=COMMANDS["images"])
    parser.add_argument("--spec", type=Path, required=True, metavar="SPEC.json")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.npy")
    parser.add_argument(
        "--weights", type=Path, metavar="bundled|FILE", help="the weights, if they moved"
    )
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--list", type=Path, metavar="LIST.json", help="a JSON list of more images")
    _add_decoding(parser, "the spec's", max_pixels=MAX_PIXELS)
    parser.add_argument("images", nargs="*", type=Path, metavar="IMAGE")
    arguments = parser.parse_args(argv)
    if not arguments.images and arguments.list is None:
        parser.error("give images, or --list LIST.json")
    use_cache_folder()

    from extract.commands.embed_images import How, embed_files, read_list

    listed = [] if arguments.list is None else read_list(arguments.list)
    embed_files(
        arguments.spec,
        [*arguments.images, *listed],
        arguments.out,
        How(arguments.weights, arguments.device, arguments.decode, arguments.max_pixels),
    )
    print_result(arguments.out)


def _tensors(argv: Sequence[str]) -> None:
    parser = Parser(prog="python -m extract tensors", description=COMMANDS["tensors"])
    parser.add_argument("file", type=Path, metavar="FILE.pt", help="tensors by name, or one")
    parser.add_argument(
        "--out", type=Path, required=True, metavar="FOLDER", help="for the NumPy files"
    )
    arguments = parser.parse_args(argv)

    from extract.commands.tensors import unpack

    print_result(unpack(arguments.file, arguments.out))


def _program(argv: Sequence[str]) -> None:
    parser = Parser(prog="python -m extract program", description=COMMANDS["program"])
    parser.add_argument("--order", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--to", choices=FORMS, required=True)
    parser.add_argument("--out", type=Path, required=True, metavar="PATH")
    arguments = parser.parse_args(argv)
    use_cache_folder()

    from extract.commands.programs import write_program

    write_program(arguments.order, arguments.to, arguments.out)
    print_result(arguments.out)


def _answers(argv: Sequence[str]) -> None:
    parser = Parser(prog="python -m extract answers", description=COMMANDS["answers"])
    parser.add_argument("--to", choices=FORMS, required=True)
    parser.add_argument("--program", type=Path, required=True, metavar="PATH")
    parser.add_argument("--list", type=Path, required=True, metavar="LIST.json")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.npz")
    arguments = parser.parse_args(argv)
    use_cache_folder()

    from extract.commands.programs import run_program

    run_program(arguments.program, arguments.to, arguments.list, arguments.out)
    print_result(arguments.out)


if __name__ == "__main__":
    run_process(main)
