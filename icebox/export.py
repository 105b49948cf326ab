"""``icebox export``: a trained head or a store in a form that other programs read."""

from __future__ import annotations

from argparse import Action, Namespace
from pathlib import Path

from classify.__main__ import COMMANDS as OF_HEADS
from classify.export.command import FORM_NAMES
from data.__main__ import COMMANDS as OF_STORES
from data.__main__ import FORMATS
from data.common.cli import Parser
from data.common.errors import UserError

HELP = "write a trained head, or a store of features, for other programs"
EXAMPLE = "icebox export heads/multinomial.safetensors --to onnx --out classifier.onnx"
_HDF5 = b"\x89HDF\r\n\x1a\n"


def add_options(parser: Parser) -> None:
    """Add the options of both exports; ``--to`` takes the formats of both."""
    OF_HEADS["export"].add_options(parser)
    stores = Parser(add_help=False)
    OF_STORES["export"].add_options(stores)
    of_heads, of_stores = _actions(parser), _actions(stores)
    for name in of_stores.keys() - of_heads.keys() - {"store"}:
        parser._add_action(of_stores[name])
    to, file = of_heads["to"], of_heads["head"]
    file.metavar, file.help = "HEAD|STORE", "a head of a run, or a feature store (FILE.h5)"
    to.metavar, to.choices = "FORMAT", [*FORM_NAMES, *FORMATS]
    to.help = f"of a head: {to.help}; of a store: {', '.join(FORMATS)}"


def run(options: Namespace) -> None:
    """Export what the file is; the path that was written is the last line on stdout."""
    is_store = _is_store(options.head)
    if options.to not in (FORMATS if is_store else FORM_NAMES):
        kind, other = ("store", "heads") if is_store else ("head", "stores")
        raise UserError(
            f"--to {options.to} is for {other}, and {options.head} is a {kind}; give one of "
            f"{', '.join(FORMATS if is_store else FORM_NAMES)}"
        )
    if not is_store:
        OF_HEADS["export"].run(options)
        return
    if options.weights:
        raise UserError(f"--weights is for heads, and {options.head} is a store; leave it out")
    options.store = options.head
    OF_STORES["export"].run(options)


def _actions(parser: Parser) -> dict[str, Action]:
    return {action.dest: action for action in parser._actions}


def _is_store(file: Path) -> bool:
    """Tell a store from a head by its name, and a file of any other name by how it begins."""
    if file.suffix in (".h5", ".hdf5"):
        return True
    if file.suffix in (".safetensors", ".skops") or not file.is_file():
        return False
    with file.open("rb") as stream:
        return stream.read(len(_HDF5)) == _HDF5
