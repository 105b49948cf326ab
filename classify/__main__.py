"""Stage two: train classifiers on cached features, compare them, and label new images."""

from __future__ import annotations

import math
import shlex
import sys
from argparse import BooleanOptionalAction, Namespace
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from data.common.cache_folder import use_cache_folder
from data.common.cli import Parser, folder_path, result, run, say
from data.common.clusters import add_cluster_options, check_cluster
from data.common.errors import UserError, nearest
from data.common.memory import parse_memory

STRATEGIES = ("multinomial", "ovr", "ovo")
_EPILOG = "Exit codes: 0 done, 2 something in the input is wrong, 130 interrupted, 1 a bug."


def parse_strategy(text: str) -> str:
    """Check the name of a strategy.

    Parameters
    ----------
    text : str
        As typed.

    Returns
    -------
    str
        The same.

    Raises
    ------
    UserError
        With the nearest names.
    """
    if text not in STRATEGIES:
        hint = nearest(text, STRATEGIES)
        raise UserError(
            f"--strategy {text} is unknown; "
            + (f"{hint} The strategies are: " if hint else "it must be one of ")
            + ", ".join(STRATEGIES)
        )
    return text


def parse_c(text: str, option: str = "--c") -> float:
    """Parse a positive finite number.

    Parameters
    ----------
    text : str
        As typed.
    option : str
        Its option, for the message.

    Returns
    -------
    float
        The number.

    Raises
    ------
    UserError
        For anything else.
    """
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        wanted = "auto or a positive number" if option == "--c" else "positive numbers"
        raise UserError(f"{option} is {text!r}, expected {wanted}, such as 0.1")
    return value


def parse_c_or_auto(text: str) -> float | None:
    """Parse ``auto`` (None) or a positive number.

    Parameters
    ----------
    text : str
        As typed.

    Returns
    -------
    float or None
        None for ``auto``.
    """
    return None if text == "auto" else parse_c(text)


def parse_grid(text: str) -> tuple[float, ...]:
    """Parse a comma-separated list of positive numbers into rising order, without repetition.

    Parameters
    ----------
    text : str
        As typed.

    Returns
    -------
    tuple of float
        At least one value.
    """
    return tuple(sorted({parse_c(part.strip(), "--c-grid") for part in text.split(",")}))


def parse_count(option: str, low: int = 1) -> Callable[[str], int]:
    """Make a parser of whole numbers.

    Parameters
    ----------
    option : str
        Its option, for the message.
    low : int
        The smallest allowed.

    Returns
    -------
    callable
        For argparse's ``type``.
    """

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = low - 1
        if value < low:
            raise UserError(f"{option} is {text!r}, expected a whole number of {low} or more")
        return value

    return parse


def parsers() -> tuple[Parser, dict[str, Parser]]:
    """Build the parser of the program, and of each of its commands.

    Returns
    -------
    tuple
        The program's parser, and the commands' by name; their errors are `UserError`.
    """
    top = Parser(prog="python -m classify", description=__doc__, epilog=_EPILOG)
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    fit = commands.add_parser("fit", help="train, evaluate and compare the strategies on a store")
    fit.add_argument("stores", nargs="+", type=Path, metavar="FILE.h5", help="feature stores")
    fit.add_argument(
        "--strategy",
        action="append",
        type=parse_strategy,
        metavar="NAME",
        help="multinomial, ovr or ovo; may be repeated (all three)",
    )
    fit.add_argument(
        "--c", type=parse_c_or_auto, default=None, metavar="auto|FLOAT",
        help="inverse strength of the regularisation, as in scikit-learn; auto chooses it on a "
        "stratified tenth of the training rows (auto)",
    )  # fmt: skip
    fit.add_argument(
        "--c-grid", type=parse_grid, metavar="0.01,0.1,1", help="the values for --c auto"
    )
    fit.add_argument("--full-path", action="store_true", help="visit every value of the grid")
    fit.add_argument(
        "--device", choices=("auto", "cpu", "cuda"), default="auto",
        help="auto is the GPU where there is one (auto)",
    )  # fmt: skip
    fit.add_argument(
        "--jobs", type=parse_count("--jobs"), metavar="N",
        help="threads; with --cluster, processes on this machine (all)",
    )  # fmt: skip
    add_cluster_options(fit)
    fit.add_argument("--reports-dir", type=folder_path, default=Path("reports"), metavar="DIR")
    fit.add_argument("--seed", type=parse_count("--seed", 0), default=0, metavar="N")
    fit.add_argument(
        "--max-iter", type=parse_count("--max-iter"), metavar="N", help="iterations of a fit"
    )
    fit.add_argument(
        "--no-intercept", action="store_true",
        help="heads without an intercept; standardised features are then scaled and not centred",
    )  # fmt: skip
    fit.add_argument(
        "--normalize", choices=("none", "l2"), default="none",
        help="l2 divides each row of features by its norm, before they are standardised (none)",
    )  # fmt: skip
    fit.add_argument(
        "--memory", type=parse_memory, metavar="SIZE",
        help="such as 2GB: larger features stay on the disk and are read in blocks (half of what "
        "is free)",
    )  # fmt: skip

    fit.add_argument(
        "--few-shot", action=BooleanOptionalAction, default=True,
        help="accuracy against labelled images per class, five draws each (on)",
    )  # fmt: skip
    fit.add_argument(
        "--data-dir", type=folder_path, metavar="DIR",
        help="where the images lie, for the report to show some (where stage one found them)",
    )  # fmt: skip

    compare = commands.add_parser("compare", help="one report over many runs")
    compare.add_argument(
        "runs", nargs="*", type=Path, metavar="REPORT_DIR",
        help="folders of runs, or folders above them (all under --reports-dir)",
    )  # fmt: skip
    compare.add_argument("--reports-dir", type=folder_path, default=Path("reports"), metavar="DIR")

    predict = commands.add_parser("predict", help="label images with a trained head")
    predict.add_argument("head", type=Path, metavar="HEAD.safetensors")
    predict.add_argument(
        "images", nargs="+", metavar="IMAGE", help="files, folders, or - for a list on stdin"
    )
    predict.add_argument("--json", action="store_true", help="a JSON list instead of a table")
    predict.add_argument("--csv", action="store_true", help="CSV instead of a table")
    predict.add_argument(
        "--html", type=folder_path, metavar="OUT",
        help="also write a page with the images and their answers",
    )  # fmt: skip
    predict.add_argument("--top", type=parse_count("--top"), default=3, metavar="N")
    predict.add_argument("--weights", metavar="FILE", help="the backbone's weights, if moved")
    predict.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")

    report = commands.add_parser("report", help="draw a run's report again from its results.json")
    report.add_argument("run", type=Path, metavar="RUN_DIR")
    return top, {"fit": fit, "compare": compare, "predict": predict, "report": report}


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
    top, commands = parsers()
    if argv and argv[0] in commands:
        return argv[0], commands[argv[0]].parse_intermixed_args(list(argv[1:]))
    top.parse_args(argv)  # prints the help, or raises
    raise AssertionError("a command that is not in the list was parsed")


def fit_command(options: Namespace, command: str) -> None:
    """Run ``fit``: a table and the verdict on stderr, the reports' paths on stdout."""
    if options.c is not None and (options.c_grid or options.full_path):
        given = "--c-grid" if options.c_grid else "--full-path"
        raise UserError(
            f"{given} is for --c auto, but --c {options.c:g} was given; use one of them"
        )
    check_cluster(options.cluster, options.scheduler, options.address)
    from classify.fit.cluster import on_cluster
    from classify.fit.fit_store import fit_store
    from classify.fit.fit_stores import fit_stores, side_by_side
    from classify.records import FitOptions
    from classify.solver.backend import DeviceMissing, choose_device
    from data.common.memory import keep_pages
    from data.reading import read_header

    stores = list(dict.fromkeys(options.stores))
    for store in stores:  # before the first fit, not after it
        read_header(store)

    try:
        device = choose_device(options.device)
    except DeviceMissing as error:
        raise UserError(f"--{error}") from error

    settings = FitOptions(
        strategies=tuple(dict.fromkeys(options.strategy or STRATEGIES)),
        c=options.c,
        c_grid=options.c_grid,
        full_path=options.full_path,
        jobs=options.jobs,
        reports_dir=options.reports_dir,
        seed=options.seed,
        max_iter=options.max_iter,
        memory=options.memory,
        command=command,
        device=device,
        few_shot=options.few_shot,
        data_dir=options.data_dir,
        fit_intercept=not options.no_intercept,
        normalize=None if options.normalize == "none" else options.normalize,
    )
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


def show_run(folder: Path, results: dict[str, Any]) -> None:
    """Say what a fit found, and print where its report is."""
    from classify.analysis.precision import numerics_line
    from classify.report.terminal import emphasise, printable, results_table

    say(results_table(results))
    if line := numerics_line(results):
        say(line)
    for text in results["warnings"]:
        say(printable(f"mind: {text}"))
    say(emphasise(printable(results["verdict"])))
    result(folder / "report.html")


def compare_command(options: Namespace) -> None:
    """Run ``compare``: the leaderboard and what it says on stderr, the report's path on stdout."""
    from classify.report.comparison import compare
    from classify.report.terminal import emphasise, printable

    page, comparison, leaderboard = compare(options.runs, options.reports_dir)
    say(leaderboard)
    say(emphasise(printable(comparison["verdict"])))
    result(page)


def predict_command(options: Namespace) -> None:
    """Run ``predict``: answers on stdout; of a page, its path, and the answers on stderr."""
    if options.json and options.csv:
        raise UserError("--json and --csv were both given; use one of them")
    from classify.predict import answers_csv, note, predict, show
    from classify.report.answers_page import check_page, write_page
    from classify.sources import find_images

    page = None if options.html is None else check_page(options.html)

    head, found = predict(
        options.head,
        find_images(options.images, sys.stdin),
        top=options.top,
        weights=options.weights,
        device=options.device,
    )
    note(head)
    text = answers_csv(found) if options.csv else show(head, found, as_json=options.json)
    if page is None:
        result(text)
        return
    write_page(page, head, found)
    # What is for programs is alone on stdout; else the last line there is what was written.
    for_programs = options.json or options.csv
    (result if for_programs else say)(text)
    (say if for_programs else result)(page)


def report_command(options: Namespace) -> None:
    """Run ``report``: its path on stdout."""
    from classify.report.run_report import write_report

    result(write_report(options.run))


def main(argv: Sequence[str]) -> None:
    """Run one command.

    Parameters
    ----------
    argv : sequence of str
        The arguments after ``python -m classify``.
    """
    command, options = parse(argv)
    stores = getattr(options, "stores", None)
    use_cache_folder(Path(stores[0]).absolute().parent.parent if stores else None)
    if command == "fit":
        fit_command(options, shlex.join(["python", "-m", "classify", *argv]))
    elif command == "compare":
        compare_command(options)
    elif command == "predict":
        predict_command(options)
    else:
        report_command(options)


if __name__ == "__main__":
    sys.exit(run(main))
