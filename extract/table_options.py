"""The options of tables and classes: which column is what, and what becomes of classes."""

from __future__ import annotations

from argparse import _ArgumentGroup
from typing import Any

from data.common.cli import folder_path
from data.images.tables.columns import ROLES, USUAL


def add_table_options(data: _ArgumentGroup) -> None:
    """Add the options that say what the columns of a table are, and what becomes of classes."""
    for role in ROLES:
        more = "; NAME:test=5,val=4 says which folds are which" if role == "split" else ""
        help_text = f"of a table ({', '.join(USUAL[role])}{more})"
        data.add_argument(f"--{role}-column", metavar="NAME", help=help_text)
    data.add_argument(
        "--image-root",
        type=folder_path,
        metavar="DIR",
        help="the folder that a table's images count from (that of the table)",
    )
    data.add_argument(
        "--class-names",
        dest="class_names_file",
        type=folder_path,
        metavar="FILE",
        help="a line for each class: its name, for labels 0, 1, ...; or the order of the classes",
    )
    data.add_argument(
        "--merge-classes",
        action="append",
        default=[],
        metavar="A=B,C",
        help="put classes together; several times for several",
    )
    data.add_argument(
        "--drop-class",
        action="append",
        default=[],
        metavar="NAME",
        help="leave out the images of a class; several times for several",
    )


def gather_table_options(values: dict[str, Any]) -> None:
    """Put the columns that were named into one field."""
    columns = {role: values.pop(f"{role}_column") for role in ROLES}
    values["columns"] = {role: name for role, name in columns.items() if name is not None}
    for name in ("merge_classes", "drop_class"):
        values[name] = tuple(values[name])
