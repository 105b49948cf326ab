"""The command line of stage one: ``python -m extract``."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from data.common.cache_folder import use_cache_folder
from data.common.cli import (
    Command,
    Parser,
    folder_path,
    parse_words,
    print_result,
    run_process,
    seed,
)
from data.common.errors import UserError, nearest
from data.format.spec import DECODES, MAX_PIXELS
from extract.exporting.registry import FORMS
from extract.options import add_max_pixels, add_options, count_or_none, to_all_options


def _add_run_options(parser: Parser) -> None:
    add_options(parser, run=True)


def _run(arguments: Namespace) -> None:
    every = to_all_options(arguments)
    use_cache_folder(every[0].features_dir)

    from extract.run import extract_all

    for path in extract_all(every):
        if path is not None:
            print_result(path)


def _add_list_options(parser: Parser) -> None:
    parser.add_argument("pattern", nargs="?", default="*", help="with wildcards, such as vit_*")


def _list(arguments: Namespace) -> None:
    use_cache_folder()

    from extract.commands.list import list_backbones

    list_backbones(arguments.pattern)


def _add_why_options(parser: Parser) -> None:
    add_options(parser, run=False)


def _why(arguments: Namespace) -> None:
    every = to_all_options(arguments)
    use_cache_folder(every[0].features_dir)

    from extract.commands.why import explain_all

    for path in explain_all(every):
        if path is not None:
            print_result(path)


def _add_verify_options(parser: Parser) -> None:
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


def _verify(arguments: Namespace) -> None:
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


def _add_images_options(parser: Parser) -> None:
    parser.add_argument("--spec", type=Path, required=True, metavar="SPEC.json")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.npy")
    parser.add_argument(
        "--weights", type=Path, metavar="bundled|FILE", help="the weights, if they moved"
    )
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--list", type=Path, metavar="LIST.json", help="a JSON list of more images")
    _add_decoding(parser, "the spec's", max_pixels=MAX_PIXELS)
    parser.add_argument("images", nargs="*", type=Path, metavar="IMAGE")


def _images(arguments: Namespace) -> None:
    if not arguments.images and arguments.list is None:
        raise UserError(
            "there is no image; give images, or --list LIST.json\n"
            "See: python -m extract images --help"
        )
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


def _add_tensors_options(parser: Parser) -> None:
    parser.add_argument("file", type=Path, metavar="FILE.pt", help="tensors by name, or one")
    parser.add_argument(
        "--out", type=Path, required=True, metavar="FOLDER", help="for the NumPy files"
    )


def _tensors(arguments: Namespace) -> None:
    from extract.commands.tensors import unpack

    print_result(unpack(arguments.file, arguments.out))


def _add_program_options(parser: Parser) -> None:
    parser.add_argument("--order", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--to", choices=FORMS, required=True)
    parser.add_argument("--out", type=Path, required=True, metavar="PATH")


def _program(arguments: Namespace) -> None:
    use_cache_folder()

    from extract.commands.programs import write_program

    write_program(arguments.order, arguments.to, arguments.out)
    print_result(arguments.out)


def _add_answers_options(parser: Parser) -> None:
    parser.add_argument("--to", choices=FORMS, required=True)
    parser.add_argument("--program", type=Path, required=True, metavar="PATH")
    parser.add_argument("--list", type=Path, required=True, metavar="LIST.json")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.npz")


def _answers(arguments: Namespace) -> None:
    use_cache_folder()

    from extract.commands.programs import run_program

    run_program(arguments.program, arguments.to, arguments.list, arguments.out)
    print_result(arguments.out)


RUN = Command("embed a dataset once with a frozen backbone", _add_run_options, _run)
COMMANDS = {
    "list": Command(
        "backbones that timm knows, with embedding width and input size", _add_list_options, _list
    ),
    "why": Command(
        "is there a store for these settings? if not, which setting differs",
        _add_why_options,
        _why,
    ),
    "verify": Command(
        "recompute a store's checksums, and embed a few random rows again",
        _add_verify_options,
        _verify,
    ),
    "images": Command(
        "embed image files with the backbone of a store's spec", _add_images_options, _images
    ),
    "tensors": Command(
        "unpack a file of torch.save into NumPy files, for python -m data import",
        _add_tensors_options,
        _tensors,
    ),
    "program": Command(
        "write a head and its backbone as one program, for python -m classify export",
        _add_program_options,
        _program,
    ),
    "answers": Command(
        "run such a program on image files, to check it", _add_answers_options, _answers
    ),
}


def main(argv: Sequence[str]) -> None:
    """Run stage one, or the subcommand that the first word names.

    Parameters
    ----------
    argv : sequence of str
        The arguments.
    """
    if argv and not argv[0].startswith("-"):
        command = COMMANDS.get(argv[0])
        if command is None:
            raise UserError(
                f"python -m extract {argv[0]}: no such command; "
                f"{nearest(argv[0], COMMANDS)}\nThere are {', '.join(COMMANDS)}, and no word at "
                "all to embed a dataset"
            )
        parser = Parser(prog=f"python -m extract {argv[0]}", description=command.help)
        command.add_options(parser)
        command.run(parse_words(parser, argv[1:]))
        return
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {command.help}" for name, command in COMMANDS.items()]
    parser = Parser(
        prog="python -m extract",
        description=f"{RUN.help.capitalize()}.",
        epilog="other commands, as the first word:\n" + "\n".join(lines),
    )
    RUN.add_options(parser)
    RUN.run(parse_words(parser, argv))


if __name__ == "__main__":
    run_process(main)
