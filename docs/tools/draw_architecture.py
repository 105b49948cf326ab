"""Draw docs/design/architecture.svg from the imports of the code; --check compares the folders.

A package's folders are boxes. The files beside them stand in one box for each level. A box lies
below all boxes that import it; an arrow that follows from two others is left out.
"""

from __future__ import annotations

import ast
import sys
from collections import defaultdict
from html import escape
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PICTURE = ROOT / "docs/design/architecture.svg"
PACKAGES = ("icebox", "extract", "classify", "data")
Edges = set[tuple[str, str]]


def modules() -> dict[str, Path]:
    """Return every module of the packages, by its dotted name."""
    found = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports() -> Edges:
    """Return who imports whom among the modules, wherever in a file the import stands."""
    known, found = modules(), set()
    for name, path in known.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                targets = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                targets = []
                for alias in node.names:
                    inner = f"{node.module}.{alias.name}"
                    targets.append(inner if inner in known else node.module)
            else:
                continue
            found |= {(name, target) for target in targets if target in known and target != name}
    return found


def folder(module: str) -> str:
    """Return the folder of a module, as a path."""
    path = modules_cache[module]
    return path.parent.relative_to(ROOT).as_posix()


modules_cache = modules()


def folder_imports() -> list[str]:
    """Return which folder imports from which, one line each: what the test compares."""
    pairs = {(folder(a), folder(b)) for a, b in imports()}
    return sorted(f"{a} -> {b}" for a, b in pairs if a != b)


def rooms(package: str) -> tuple[dict[str, int], Edges, dict[str, list[str]]]:
    """Return the boxes of a package with their levels, the arrows between them, and their files."""

    def room(module: str) -> str:
        parts = module.split(".")
        inner = modules_cache[module].parent.relative_to(ROOT / package).parts
        return f"{package}/{inner[0]}" if inner else (parts[1] if len(parts) > 1 else "")

    mine = [name for name in modules_cache if name.split(".")[0] == package]
    files: dict[str, list[str]] = defaultdict(list)
    for name in mine:
        path = modules_cache[name]
        if not room(name):
            continue
        if path.name != "__init__.py" and path.parent.parent in (ROOT, ROOT / package):
            files[room(name)].append(path.stem)
        elif path.name == "__init__.py" and path.parent.parent.parent == ROOT / package:
            files[room(name)].append(f"{path.parent.name}/")
    arrows = {(room(a), room(b)) for a, b in imports() if a in mine and b in mine}
    arrows = {(a, b) for a, b in arrows if a != b and a and b}
    below: dict[str, set[str]] = {name: set() for name in files}
    for a, b in arrows:
        below[a].add(b)

    def reach(start: str) -> set[str]:
        seen: set[str] = set()
        todo = [start]
        while todo:
            for name in below[todo.pop()] - seen:
                seen.add(name)
                todo.append(name)
        return seen

    reached = {name: reach(name) for name in files}
    depth: dict[str, int] = {}

    def level(name: str) -> int:
        if name not in depth:
            lower = [b for b in reached[name] if name not in reached[b]]
            depth[name] = 1 + max(map(level, lower), default=-1)
        return depth[name]

    merged = {n: n if "/" in n else f"files {level(n)}" for n in sorted(files)}
    boxes: dict[str, int] = {}
    listed: dict[str, list[str]] = defaultdict(list)
    for name, box in merged.items():
        boxes[box] = level(name)
        listed[box] += files[name] if "/" in name else [name]
    joined = {(merged[a], merged[b]) for a, b in arrows if level(a) > level(b)}
    longer = {(a, d) for a, b in joined for c, d in joined if b == c}
    for _ in boxes:
        longer |= {(a, d) for a, b in longer for c, d in joined if b == c}
    return boxes, joined - longer, listed


BOX, GAP, ROW, LINE = 176, 14, 34, 13


def _lines(names: list[str], width: int) -> list[str]:
    out, line = [], ""
    for name in names:
        longer = f"{line}, {name}" if line else name
        if len(longer) * 5.4 > width and line:
            out.append(line + ",")
            longer = name
        line = longer
    return [*out, line] if line else out


def _panel(package: str, left: float, top: float, width: float) -> tuple[list[str], float]:
    boxes, arrows, listed = rooms(package)
    levels: dict[int, list[str]] = defaultdict(list)
    for name, depth in sorted(boxes.items()):
        levels[depth].append(name)
    places: dict[str, tuple[float, float, float, float]] = {}
    drawn: list[str] = []
    y = top + 34
    for depth in sorted(levels, reverse=True):
        row = levels[depth]
        wide = min(BOX + 90, (width - GAP * (len(row) + 1)) / len(row))
        texts = {name: _lines(sorted(listed[name]), int(wide - 16)) for name in row}
        high = max(26 + LINE * len(text) for text in texts.values())
        x = left + (width - len(row) * wide - GAP * (len(row) - 1)) / 2
        for name in row:
            places[name] = x, y, wide, high
            kind = "folder" if "/" in name else "file"
            title = f"{name}/" if "/" in name else "files beside the folders"
            drawn.append(
                f'<rect class="{kind}" x="{x:.0f}" y="{y:.0f}" width="{wide:.0f}" '
                f'height="{high}" rx="4"/>'
                f'<text class="name" x="{x + 8:.0f}" y="{y + 16:.0f}">{escape(title)}</text>'
            )
            drawn += [
                f'<text class="inner" x="{x + 8:.0f}" y="{y + 30 + LINE * i:.0f}">'
                f"{escape(line)}</text>"
                for i, line in enumerate(texts[name])
            ]
            x += wide + GAP
        y += high + ROW
    lines = []
    for a, b in sorted(arrows):
        (xa, ya, wa, ha), (xb, yb, wb, _) = places[a], places[b]
        lines.append(
            f'<line x1="{xa + wa / 2:.0f}" y1="{ya + ha:.0f}" '
            f'x2="{xb + wb / 2:.0f}" y2="{yb - 3:.0f}"/>'
        )
    bottom = y - ROW + GAP
    frame = (
        f'<rect class="package" x="{left:.0f}" y="{top:.0f}" width="{width:.0f}" '
        f'height="{bottom - top:.0f}" rx="8"/>'
        f'<text class="package-name" x="{left + 12:.0f}" y="{top + 22:.0f}">{package}</text>'
    )
    return [frame, *lines, *drawn], bottom


STYLE = """text{font-family:sans-serif;fill:#1c2430}.package-name{font-size:16px;font-weight:bold}
.name{font-size:12px;font-weight:bold}.inner{font-size:10px;fill:#4a5565}
.package{fill:#f4f6f8;stroke:#b8c2cc}.folder{fill:#dcebf7;stroke:#5b8db8}
.file{fill:#fff;stroke:#9aa5b1}line{stroke:#66788a;stroke-width:1.2;marker-end:url(#to)}"""


def picture() -> str:
    """Return the SVG, with the imports between folders in its metadata."""
    width = 1280.0
    half = (width - 3 * GAP) / 2
    command, end_command = _panel("icebox", GAP, GAP, width - 2 * GAP)
    top = end_command + 40
    first, end_first = _panel("extract", GAP, top, half * 0.8)
    second, end_second = _panel("classify", 2 * GAP + half * 0.8, top, half * 1.2)
    middle = max(end_first, end_second) + 40
    third, end = _panel("data", GAP, middle, width - 2 * GAP)
    links = [
        f'<line x1="{x:.0f}" y1="{start:.0f}" x2="{x:.0f}" y2="{end - 3:.0f}"/>'
        for x, below in ((GAP + half * 0.4, end_first), (2 * GAP + half * 1.4, end_second))
        for start, end in ((end_command, top), (below, middle))
    ]
    height = end + GAP
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}">',
            "<title>Folders of Icebox and what they import</title>",
            "<metadata>",
            *(escape(line) for line in folder_imports()),
            "</metadata>",
            f"<style>{STYLE}</style>",
            '<defs><marker id="to" viewBox="0 0 8 8" refX="6" refY="4" markerWidth="6" '
            'markerHeight="6" orient="auto"><path d="M0 0L8 4L0 8z" fill="#66788a"/>'
            "</marker></defs>",
            f'<rect width="{width:.0f}" height="{height:.0f}" fill="#fff"/>',
            *command,
            *first,
            *second,
            *links,
            *third,
            "</svg>",
            "",
        ]
    )


def drawn_imports(text: str) -> list[str]:
    """Return the imports between folders that a picture was drawn from."""
    inside = text.split("<metadata>\n")[1].split("\n</metadata>")[0]
    return inside.replace("&gt;", ">").splitlines()


def main() -> None:
    """Draw the picture, or with --check compare what it was drawn from."""
    if "--check" not in sys.argv[1:]:
        PICTURE.write_text(picture(), encoding="utf-8")
    elif drawn_imports(PICTURE.read_text(encoding="utf-8")) != folder_imports():
        raise SystemExit(f"{PICTURE.relative_to(ROOT)} is not current: run {Path(__file__).name}")


if __name__ == "__main__":
    main()
