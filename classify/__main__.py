"""Stage two: train classifiers on cached features, compare them, and label new images."""

from __future__ import annotations

import math
import sys
from argparse import BooleanOptionalAction, Namespace
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from classify.export.command import add_export_options, export_command
from classify.fit.two_classes import add_class_options, add_threshold
from classify.heads.registry import DEFAULT, HEADS, check_solver_options
from data.common.cache_folder import use_cache_folder
from data.common.cli import (
    Command,
    Parser,
    folder_path,
    log,
    parse_command,
    print_result,
    program_parsers,
    run_process,
)
from data.common.clusters import add_cluster_options, check_cluster
from data.common.errors import UserError, nearest
from data.common.memory import parse_memory
from data.format.spec import DECODES, MAX_PIXELS

if TYPE_CHECKING:
    from classify.records import FitOptions


def parse_head(option: str) -> Callable[[str], str]:
    """Make a parser of the names of heads; its `UserError` names the nearest."""

    def parse(text: str) -> str:
        if text not in HEADS:
            hint = nearest(text, HEADS)
            raise UserError(
                f"{option} {text} is unknown; "
                + (f"{hint} The heads are: " if hint else "it must be one of ")
                + ", ".join(HEADS)
            )
        return text

    return parse


def parse_c(text: str, option: str = "--c") -> float:
    """Parse a positive finite number; `option` is for the message of the `UserError`."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        wanted = "auto or a positive number" if option == "--c" else "positive numbers"
        raise UserError(f"{option} is {text!r}, expected {wanted}, such as 0.1")
    return value


def parse_c_or_auto(text: str) -> float | None:
    """Parse ``auto`` (None) or a positive number."""
    return None if text == "auto" else parse_c(text)


def parse_grid(text: str) -> tuple[float, ...]:
    """Parse a comma-separated list of positive numbers into rising order, without repetition."""
    return tuple(sorted({parse_c(part.strip(), "--c-grid") for part in text.split(",")}))


def parse_count(option: str, low: int = 1) -> Callable[[str], int]:
    """Make a parser of whole numbers of at least `low`, for argparse's ``type``."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = low - 1
        if value < low:
            raise UserError(f"{option} is {text!r}, expected a whole number of {low} or more")
        return value

    return parse


def _add_fit_options(parser: Parser) -> None:
    parser.add_argument(
        "stores", nargs="+", type=Path, metavar="FILE.h5",
        help="feature stores; a.h5+b.h5 is two of the same images, side by side as one",
    )  # fmt: skip
    parser.add_argument(
        "--head",
        action="append",
        type=parse_head("--head"),
        metavar="NAME",
        help=f"what to train: {', '.join(HEADS)}; may be repeated ({', '.join(DEFAULT)})",
    )
    parser.add_argument(
        "--strategy", action="append", dest="head", type=parse_head("--strategy"), metavar="NAME",
        help="the same as --head",
    )  # fmt: skip
    parser.add_argument(
        "--c", type=parse_c_or_auto, default=None, metavar="auto|FLOAT",
        help="inverse strength of the regularisation, as in scikit-learn; auto chooses it on the "
        "store's validation split, or else on a stratified tenth of the training rows (auto)",
    )  # fmt: skip
    parser.add_argument(
        "--c-grid", type=parse_grid, metavar="0.01,0.1,1", help="the values for --c auto"
    )
    parser.add_argument("--full-path", action="store_true", help="visit every value of the grid")
    _add_fit_resources(parser)
    parser.add_argument("--reports-dir", type=folder_path, default=Path("reports"), metavar="DIR")
    parser.add_argument("--seed", type=parse_count("--seed", 0), default=0, metavar="N")
    parser.add_argument(
        "--max-iter", type=parse_count("--max-iter"), metavar="N", help="iterations of a fit"
    )
    parser.add_argument(
        "--no-intercept", action="store_true",
        help="heads without an intercept; standardised features are then scaled and not centred",
    )  # fmt: skip
    parser.add_argument(
        "--normalize", choices=("none", "l2"), default="none",
        help="l2 divides each row of features by its norm, before they are standardised (none)",
    )  # fmt: skip
    parser.add_argument(
        "--class-weight", metavar="balanced|FILE",
        help="weights of the classes in fits and in the choice of C: balanced, as in scikit-learn, "
        "or a JSON or CSV file with one for each class (all alike)",
    )  # fmt: skip
    add_class_options(parser)
    parser.add_argument(
        "--memory", type=parse_memory, metavar="SIZE",
        help="such as 2GB: larger features stay on the disk and are read in blocks (half of what "
        "is free)",
    )  # fmt: skip

    parser.add_argument(
        "--few-shot", action=BooleanOptionalAction, default=True,
        help="accuracy against labelled images per class, five draws each (on)",
    )  # fmt: skip
    parser.add_argument(
        "--data-dir", type=folder_path, metavar="DIR",
        help="where the images lie, for the report to show some (where stage one found them)",
    )  # fmt: skip


def _add_fit_resources(parser: Parser) -> None:
    parser.add_argument(
        "--device", choices=("auto", "cpu", "cuda"), default="auto",
        help="auto is the GPU where there is one (auto)",
    )  # fmt: skip
    parser.add_argument(
        "--jobs", type=parse_count("--jobs"), metavar="N",
        help="threads; with --cluster, processes on this machine (all)",
    )  # fmt: skip
    add_cluster_options(parser)


def _add_compare_options(parser: Parser) -> None:
    parser.add_argument(
        "runs", nargs="*", type=Path, metavar="REPORT_DIR",
        help="folders of runs, or folders above them (all under --reports-dir)",
    )  # fmt: skip
    parser.add_argument("--reports-dir", type=folder_path, default=Path("reports"), metavar="DIR")


def _add_predict_options(parser: Parser) -> None:
    parser.add_argument("head", type=Path, metavar="HEAD.safetensors")
    parser.add_argument(
        "images", nargs="+", metavar="IMAGE",
        help="files, folders, or - for a list on stdin; or files of features, such as .npy, "
        ".npz, .parquet and the others of python -m data import",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="a JSON list instead of a table")
    parser.add_argument("--csv", action="store_true", help="CSV instead of a table")
    parser.add_argument(
        "--html", type=folder_path, metavar="OUT",
        help="also write a page with the images and their answers",
    )  # fmt: skip
    parser.add_argument("--top", type=parse_count("--top"), default=3, metavar="N")
    add_threshold(parser)
    parser.add_argument(
        "--weights",
        action="append",
        default=[],
        metavar="bundled|FILE",
        help="the backbone's weights, if moved; of a head of several stores repeated, in the order "
        "of the stores",
    )
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument(
        "--decode", choices=DECODES, help="as the head's store was made; another is refused"
    )
    parser.add_argument(
        "--max-pixels", type=parse_count("--max-pixels"), default=MAX_PIXELS, metavar="N",
        help=f"refuse images with more pixels ({MAX_PIXELS:,}, which is Pillow's limit)",
    )  # fmt: skip


def _add_report_options(parser: Parser) -> None:
    parser.add_argument("run", type=Path, metavar="RUN_DIR")


def fit_command(options: Namespace) -> None:
    """Run ``fit``: a table and the verdict on stderr, the reports' paths on stdout."""
    from data.format.sums import sum_parts

    use_cache_folder(sum_parts(options.stores[0])[0].absolute().parent.parent)
    if options.c is not None and (options.c_grid or options.full_path):
        given = "--c-grid" if options.c_grid else "--full-path"
        raise UserError(
            f"{given} is for --c auto, but --c {options.c:g} was given; use one of them"
        )
    solvers = ("c", "c_grid", "full_path", "max_iter", "no_intercept")
    names = [f"--{name.replace('_', '-')}" for name in solvers if getattr(options, name)]
    if unused := check_solver_options(names, options.head or DEFAULT):
        log(f"warning: {unused}")
    check_cluster(options.cluster, options.scheduler, options.address)
    from classify.fit.cluster import on_cluster
    from classify.fit.fit_store import fit_store
    from classify.fit.fit_stores import fit_stores, side_by_side
    from classify.solver.backend import DeviceMissingError, choose_device
    from data.chosen_classes import check_names
    from data.common.memory import keep_pages
    from data.reading import open_features, read_header

    stores = list(dict.fromkeys(options.stores))
    for store in stores:  # before the first fit, not after it
        if len(sum_parts(store)) > 1:
            open_features(store, verify=False, in_memory=False)  # whether its rows pair
        check_names(read_header(store), options.classes)

    try:
        device = choose_device(options.device)
    except DeviceMissingError as error:
        raise UserError(f"--{error}") from error

    settings = _fit_options(options, device)
    if options.memory is None:  # where memory is counted, what is free goes back to the system
        keep_pages()
    with on_cluster(options.cluster, options.scheduler, options.address, options.jobs) as spread:
        alone = options.cluster == "none"
        # One device serves one fit at a time.
        at_once = side_by_side(len(stores), options.jobs)[0] if device == "cpu" else 1
        if len(stores) > 1 and (at_once > 1 or not alone):
            for folder, results in fit_stores(stores, settings, None if alone else spread):
                show_run(folder, results)
            return
        for finished, store in enumerate(stores):
            try:
                folder, results = fit_store(store, settings, spread)
            except KeyboardInterrupt:
                kept = f"{finished} finished reports are kept, " if finished else ""
                raise KeyboardInterrupt(
                    f"{kept}nothing was written for {store}; run the same command again to fit it"
                ) from None
            show_run(folder, results)


def _fit_options(options: Namespace, device: str) -> FitOptions:
    from classify.records import FitOptions

    return FitOptions(
        strategies=tuple(dict.fromkeys(options.head or DEFAULT)),
        c=options.c,
        c_grid=options.c_grid,
        full_path=options.full_path,
        jobs=options.jobs,
        reports_dir=options.reports_dir,
        seed=options.seed,
        max_iter=options.max_iter,
        memory=options.memory,
        command=options.typed,
        device=device,
        few_shot=options.few_shot,
        data_dir=options.data_dir,
        fit_intercept=not options.no_intercept,
        normalize=None if options.normalize == "none" else options.normalize,
        class_weight=options.class_weight,
        classes=options.classes,
        cost=options.cost,
        named=bool(options.head),
    )


def show_run(folder: Path, results: dict[str, Any]) -> None:
    """Log what a fit found, and print where its report is."""
    from classify.analysis.precision import numerics_line
    from classify.report.split_words import terminal_line
    from classify.report.terminal import emphasise, printable, results_table
    from classify.report.two_classes import terminal_lines

    log(results_table(results))
    if line := terminal_line(results):
        log(printable(line))
    if line := numerics_line(results):
        log(line)
    for line in terminal_lines(results):
        log(printable(line))
    for text in results["warnings"]:
        log(printable(f"warning: {text}"))
    log(emphasise(printable(results["verdict"])))
    print_result(folder / "report.html")


def compare_command(options: Namespace) -> None:
    """Run ``compare``: the leaderboard and what it says on stderr, the report's path on stdout."""
    use_cache_folder()
    from classify.report.best_rows import terminal_best
    from classify.report.comparison import compare
    from classify.report.terminal import emphasise, printable

    page, comparison, leaderboard = compare(options.runs, options.reports_dir)
    log(leaderboard)
    if tables := terminal_best(comparison):
        log(tables)
    log(emphasise(printable(comparison["verdict"])))
    print_result(page)


def predict_command(options: Namespace) -> None:
    """Run ``predict``: answers on stdout; of a page, its path, and the answers on stderr."""
    if options.json and options.csv:
        raise UserError("--json and --csv were both given; use one of them")
    use_cache_folder()
    from classify.feature_files import is_feature_file
    from classify.predict import Embedding, answers_csv, find_images, note, predict, show
    from classify.report.answers_page import check_page, write_page

    page = None if options.html is None else check_page(options.html)
    images = find_images(options.images, sys.stdin)
    if page is not None and any(map(is_feature_file, images)):
        raise UserError(
            f"--html {page} shows images, and features have none; leave it out, or use --csv"
        )

    how = Embedding(options.weights, options.device, options.decode, options.max_pixels)
    head, found = predict(
        options.head, images, top=options.top, how=how, threshold=options.threshold
    )
    note(head)
    text = answers_csv(found) if options.csv else show(head, found, as_json=options.json)
    if page is None:
        print_result(text)
        return
    write_page(page, head, found, options.max_pixels)
    # What is for programs is alone on stdout; else the last line there is what was written.
    for_programs = options.json or options.csv
    (print_result if for_programs else log)(text)
    (log if for_programs else print_result)(page)


def report_command(options: Namespace) -> None:
    """Run ``report``: its path on stdout."""
    use_cache_folder()
    from classify.report.run_report import write_report

    print_result(write_report(options.run))


COMMANDS = {
    "fit": Command(
        "train, evaluate and compare the strategies on a store", _add_fit_options, fit_command
    ),
    "compare": Command("one report over many runs", _add_compare_options, compare_command),
    "predict": Command("label images with a trained head", _add_predict_options, predict_command),
    "export": Command(
        "write a head as onnx, torch, sklearn or timm", add_export_options, export_command
    ),
    "report": Command(
        "draw a run's report again from its results.json", _add_report_options, report_command
    ),
}


def parsers() -> tuple[Parser, dict[str, Parser]]:
    """Build the parser of the program and those of its commands, by name."""
    return program_parsers("python -m classify", __doc__, COMMANDS)


def parse(argv: Sequence[str]) -> tuple[str, Namespace]:
    """Parse a command line; options and files may be mixed.

    Parameters
    ----------
    argv : sequence of str
        The arguments after ``python -m classify``.

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
        The arguments after ``python -m classify``.
    """
    command, options = parse(argv)
    COMMANDS[command].run(options)


if __name__ == "__main__":
    run_process(main)
