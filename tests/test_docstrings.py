"""Docstrings: numpydoc in full for what a package exports, a sentence or two for all else."""

import ast
import dataclasses
import importlib
import inspect
import re
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("data", "extract", "classify", "icebox")
SECTION = re.compile(r"^[ \t]*(\w[\w ]*)\n[ \t]*-{3,}[ \t]*$", re.MULTILINE)
INTERNAL = {"Parameters", "Other Parameters", "Attributes", "Returns", "Yields", "Raises"}

# Folders and files whose names may have sections all the same.
DOCUMENTED_TOO = (
    "classify/solver/solution.py",  # the certificate, which the estimators' attribute refers to
    "extract/commands",  # the functions of the command lines, with the next
    "extract/run.py",
    "data/exchange/importing.py",
    "data/exchange/exporting.py",
)


def sections(docstring):
    """Map each section of numpydoc to its text."""
    parts = SECTION.split(inspect.cleandoc(docstring))
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def entries(text):
    """Map each name of a section to its type; a line may name several."""
    found = {}
    for line in text.splitlines():
        if line and not line[0].isspace():
            names, _, kind = line.partition(" : ")
            found.update(dict.fromkeys((name.strip() for name in names.split(",")), kind))
    return found


def exported():
    """List what the packages export: the objects, and the public methods of classes."""
    for package in PACKAGES:
        module = importlib.import_module(package)
        for name in getattr(module, "__all__", ()):
            value = getattr(module, name)
            yield f"{package}.{name}", value
            for member, found in inspect.getmembers(value) if inspect.isclass(value) else ():
                ours = str(getattr(found, "__module__", "")).split(".")[0] in PACKAGES
                if inspect.isfunction(found) and ours and not member.startswith("_"):
                    yield f"{package}.{name}.{member}", found


EXPORTED = dict(exported())


def body_of(function):
    """Parse a function, without the functions inside it."""
    (node,) = ast.parse(textwrap.dedent(inspect.getsource(function))).body
    waiting, found = list(node.body), []
    while waiting:
        child = waiting.pop()
        if not isinstance(child, (ast.FunctionDef, ast.Lambda, ast.ClassDef)):
            found.append(child)
            waiting.extend(ast.iter_child_nodes(child))
    return found


def problems(function):
    """Say where a docstring and its function differ."""
    found = sections(function.__doc__ or "")
    parameters = [
        ("*" * (2 if p.kind is p.VAR_KEYWORD else p.kind is p.VAR_POSITIONAL)) + name
        for name, p in inspect.signature(function).parameters.items()
        if name != "self"
    ]
    documented = entries(found.get("Parameters", ""))
    if list(documented) != parameters:
        yield f"Parameters are {list(documented)}, not {parameters}"
    yield from shapeless(documented)
    nodes = body_of(function)
    yields = any(isinstance(node, (ast.Yield, ast.YieldFrom)) for node in nodes)
    returns = any(isinstance(node, ast.Return) and node.value is not None for node in nodes)
    for name, there in (
        ("Returns", returns and not yields),
        ("Yields", yields),
    ):
        if (name in found) != there:
            yield f"it has {'no ' if there else ''}{name}"
    if any(isinstance(node, ast.Raise) for node in nodes) and "Raises" not in found:
        yield "it has no Raises"
    # A type without a name stands alone on its line.
    lines = [line for line in found.get("Returns", "").splitlines() if line[:1].strip()]
    yield from shapeless(dict(line.split(" : ") if " : " in line else ("", line) for line in lines))


def shapeless(documented):
    """Say which arrays have no shape."""
    for name, kind in documented.items():
        if re.match(r"(ndarray|array)", kind) and "shape" not in kind:
            yield f"{name} is an array of no shape: {kind}"


@pytest.mark.parametrize("name", EXPORTED)
def test_what_is_exported_is_documented_in_full(name):
    value = EXPORTED[name]
    assert value.__doc__ and value.__doc__.strip(), name
    if inspect.isfunction(value):
        assert not list(problems(value)), name
        return
    found = sections(value.__doc__)
    if dataclasses.is_dataclass(value):
        fields = {field.name for field in dataclasses.fields(value)}
        documented = entries(found.get("Attributes", ""))
        assert set(documented) == fields, name
    elif issubclass(value, Exception):
        assert not INTERNAL & set(found), name
    else:
        documented = entries(found.get("Parameters", ""))
        assert list(documented) == list(inspect.signature(value).parameters), name
        attributes = entries(found.get("Attributes", ""))
        assert attributes, name
        assert not list(shapeless(attributes)), name


@pytest.mark.parametrize(
    "text",
    ["", "Parameters\n----------\nx : int\n    One.\nz : int\n    None that there is.\n"],
)
def test_a_docstring_that_differs_from_its_function_is_found(text):
    def function(x, *, y=0):
        if y:
            raise ValueError
        return x

    function.__doc__ = "Do.\n\n" + text
    found = " ".join(problems(function))
    for part in ("not ['x', 'y']", "it has no Returns", "it has no Raises"):
        assert part in found
    assert list(shapeless({"x": "ndarray of int"}))


def public_places():
    """Name the places in the source of what is exported, inherited methods included."""
    for value in EXPORTED.values():
        yield value.__module__, value.__qualname__


def with_sections(path):
    """Name the functions and classes of a file whose docstrings have sections of numpydoc."""

    def walk(node, prefix):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                name = f"{prefix}{child.name}"
                if INTERNAL & set(sections(ast.get_docstring(child) or "")):
                    yield name
                yield from walk(child, f"{name}.")
            else:
                yield from walk(child, prefix)

    yield from walk(ast.parse(path.read_text()), "")


SOURCES = sorted(
    path.relative_to(ROOT)
    for package in PACKAGES
    for path in (ROOT / package).rglob("*.py")
    if not {path.relative_to(ROOT).as_posix(), path.parent.relative_to(ROOT).as_posix()}
    & set(DOCUMENTED_TOO)
)


@pytest.mark.parametrize("path", SOURCES, ids=Path.as_posix)
def test_what_is_internal_has_no_sections(path):
    if path.name == "__main__.py":  # the functions of the command lines
        return
    module = ".".join(path.with_suffix("").parts)
    public = {qualname for home, qualname in public_places() if home == module}
    assert set(with_sections(ROOT / path)) <= public


def test_sections_are_found(tmp_path):
    path = tmp_path / "some.py"
    path.write_text(
        'class A:\n  def f(self):\n    """Do.\n\n    Returns\n    -------\n    int\n    """'
    )
    assert list(with_sections(path)) == ["A.f"]
    assert SOURCES
