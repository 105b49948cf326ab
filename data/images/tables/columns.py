"""Which column of a table is what: by the names in use for them, or as the user says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from data.common.errors import UserError, nearest
from data.format.spec import SUFFIXES

USUAL = {
    "image": ("image", "path", "file", "filename", "file_name"),
    "label": ("label", "class", "target", "category"),
    "split": ("split", "subset", "fold"),
    "group": ("group", "patient", "patient_id", "subject"),
    "weight": ("weight", "sample_weight"),
}
ROLES = tuple(USUAL)
_SHOWN = 12  # columns that a message names


@dataclass(frozen=True)
class Header:
    """The columns of a table: their names, or numbers from 1 where it has no header."""

    path: Path
    names: tuple[str, ...]
    numbered: bool = False
    # The first row of cells, for a look at what they are
    example: tuple[str, ...] = ()

    def __str__(self) -> str:
        shown = list(self.names[:_SHOWN])
        if self.numbered:
            shown = [f"{name} ({cell})" for name, cell in zip(shown, self.example, strict=False)]
        more = ", ..." if len(self.names) > _SHOWN else ""
        which = "no header, and the columns" if self.numbered else "the columns"
        return f"{which} {', '.join(shown)}{more}"


def has_header(first: Sequence[str], asked: Mapping[str, str | None]) -> bool:
    """Tell names of columns from cells: a first row that names an image file is no header."""
    lowered = {cell.strip().lower() for cell in first}
    usual = {name for names in USUAL.values() for name in names}
    named = {_column_word(word).lower() for word in asked.values() if word}
    if lowered & (usual | named):
        return True
    return not any(map(looks_like_image, first))


def looks_like_image(cell: str) -> bool:
    """Tell the name of an image file by its suffix."""
    return cell.strip().lower().endswith(SUFFIXES)


def choose_columns(header: Header, asked: Mapping[str, str | None]) -> dict[str, int]:
    """Find the column of each role that the table has one for: role -> position."""
    found: dict[str, int] = {}
    for role in ROLES:
        word = asked.get(role)
        position = _usual(header, role) if word is None else _named(header, role, word)
        if position is not None:
            found[role] = position
    if "image" not in found:
        found["image"] = _image_by_content(header)
    if "label" not in found:
        found["label"] = _label_beside(header, found["image"])
    return found


def split_choice(word: str | None, names: Sequence[str]) -> dict[str, str]:
    """Read ``fold:test=5,val=4``: which values of a column are which split; empty for none."""
    if word is None or word in names or ":" not in word:
        return {}
    chosen = {}
    for part in word.partition(":")[2].split(","):
        split, sign, value = part.partition("=")
        if not sign or not split.strip() or not value.strip():
            raise UserError(
                f"--split-column {word}: {part!r} is not SPLIT=VALUE; give such as fold:test=5, or "
                "fold:test=5,val=4, with the other rows for training"
            )
        chosen[value.strip()] = split.strip()
    return chosen


def _column_word(word: str) -> str:
    return word.partition(":")[0]


def _named(header: Header, role: str, word: str) -> int:
    """Find a column that an option names, in any case."""
    words = [word] if role != "split" else [word, _column_word(word)]
    for name in words:
        exact = [i for i, known in enumerate(header.names) if known == name]
        lowered = [i for i, known in enumerate(header.names) if known.lower() == name.lower()]
        matches = exact or lowered
        if len(matches) == 1:
            return matches[0]
        if matches:
            raise UserError(
                f"{header.path} has {len(matches)} columns named {name}; rename all but one"
            )
    hint = nearest(words[-1], header.names)
    numbers = "; give the number of the column, counted from 1" if header.numbered else ""
    raise UserError(
        f"--{role}-column {word}: {header.path} has no such column; it has {header}{numbers}"
        + (f"\n{hint}" if hint else "")
    )


def _usual(header: Header, role: str) -> int | None:
    """Find the column with a usual name; refuse to choose among several."""
    found = [i for i, name in enumerate(header.names) if name.lower() in USUAL[role]]
    if len(found) > 1:
        names = [header.names[i] for i in found]
        raise UserError(
            f"{header.path} has several columns that may be the {role} column: "
            f"{', '.join(names)}\nsay which: --{role}-column {names[0]}"
        )
    return found[0] if found else None


def _image_by_content(header: Header) -> int:
    """Take the only column whose first cell names an image file."""
    found = [i for i, cell in enumerate(header.example) if looks_like_image(cell)]
    if len(found) == 1:
        return found[0]
    what = "no column of images" if not found else f"{len(found)} columns of image files"
    raise UserError(
        f"{header.path} has {what}: it has {header}\n"
        f"name it with --image-column, or call it {', '.join(USUAL['image'])}"
    )


def _label_beside(header: Header, image: int) -> int:
    """Of a table of two columns without a header, take the other one."""
    others = [i for i in range(len(header.names)) if i != image]
    if header.numbered and len(others) == 1:
        return others[0]
    if not others:
        raise UserError(
            f"{header.path} has one column, {header.names[image]}, and none of labels; add a "
            "column label (a table is separated by commas, semicolons, tabs or white space)"
        )
    example = header.names[others[0]]
    raise UserError(
        f"{header.path} has no column of labels: it has {header}\n"
        f"name it, such as --label-column {example}, or call it {', '.join(USUAL['label'])}"
    )
