"""Build the wheel and the source archive, check both, and run the wheel outside the checkout.

What ``make package`` runs: ``--dependencies fresh`` installs them all from the package index into
an empty environment, ``--dependencies here`` takes those that are installed (`environments`).
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import archives
import environments
import trials

ROOT = Path(__file__).parents[2]
EXTRAS = ("demo",)  # the weights that `icebox demo` takes
EXPORT_EXTRAS = ("onnx",)  # what `icebox export --to onnx` needs besides


class FailedError(Exception):
    """What was built is not as it should be; the message says how."""


def log(text: str) -> None:
    """Print a line for a person."""
    print(text, file=sys.stderr, flush=True)


@contextmanager
def timed(what: str) -> Iterator[None]:
    """Say how long a step took."""
    clock = environments.Clock()
    yield
    log(f"{clock}  {what}")


def call(command: list[str], **options: object) -> str:
    """Run a program and return what it printed; `FailedError` with all of it where it fails."""
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, **options
    )
    if done.returncode:
        raise FailedError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}")
    return done.stdout


def build(dist: Path, *, isolated: bool) -> tuple[Path, Path]:
    """Build the source archive, and the wheel from what it unpacks to; return both."""
    for old in dist.glob("icebox-*"):
        old.unlink()
    date = archives.date_of(ROOT)
    command = [sys.executable, "-m", "build", f"--outdir={dist}", str(ROOT)]
    call(
        [*command, *([] if isolated else ["--no-isolation"])],
        env=environments.clean_environment(SOURCE_DATE_EPOCH=str(date)),
    )
    (archive,), (wheel,) = dist.glob("icebox-*.tar.gz"), dist.glob("icebox-*.whl")
    archives.repack(archive, date)
    archives.repack_wheel(wheel)
    return archive, wheel


def check(archive: Path, wheel: Path) -> None:
    """Have twine and check-wheel-contents look at both, and compare them with the checkout."""
    call([sys.executable, "-m", "twine", "check", "--strict", str(archive), str(wheel)])
    config = f"--config={ROOT / 'pyproject.toml'}"
    call([sys.executable, "-m", "check_wheel_contents", config, str(wheel)])
    if wrong := archives.differences(ROOT, archive, wheel):
        raise FailedError("; ".join(wrong) + "; MANIFEST.in and pyproject.toml say what is packed")


def install(environment: Path, wheel: Path, extras: tuple[str, ...], *, fresh: bool) -> None:
    """Install the wheel with extras, and have pip check that nothing is missing."""
    if not fresh:
        needed = archives.metadata(wheel).get_all("Requires-Dist") or []
        names = environments.closure([*needed, "pip"], extras)
        environments.use_distributions(environment, names)
    python = str(environment / "bin" / "python")
    pip = [python, "-m", "pip", "--disable-pip-version-check"]
    env = environments.clean_environment()
    # Without the index, pip fails where a dependency is not there already.
    offline = [] if fresh else ["--no-index"]
    call([*pip, "install", *offline, f"{wheel}[{','.join(extras)}]"], env=env)
    call([*pip, "check"], env=env)


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dependencies", choices=("fresh", "here"), default="fresh")
    parser.add_argument("--keep", action="store_true", help="keep the environment, and name it")
    parser.add_argument("--dist", type=Path, default=ROOT / "dist", metavar="DIR")
    options = parser.parse_args()
    fresh, dist = options.dependencies == "fresh", options.dist.absolute()
    folder = Path(tempfile.mkdtemp(prefix="icebox package äöü "))
    clock = environments.Clock()
    log("   wall processor")
    try:
        with timed("build"):
            archive, wheel = build(dist, isolated=fresh)
        with timed("twine, check-wheel-contents, and what git tracks"):
            check(archive, wheel)
        for path in (wheel, archive):
            log(f"{path.stat().st_size / 1e6:17.2f} MB {path.name}")
        environment = folder / "environment"
        with timed("a virtual environment"):
            environments.make_environment(environment, with_pip=fresh)
        with timed(f"pip install {wheel.name}[{','.join(EXTRAS)}], pip check"):
            install(environment, wheel, EXTRAS, fresh=fresh)
        trial = trials.Trial(environment, folder, archives.metadata(wheel)["Version"], log)
        trial.run_all(quick=not fresh)
        if fresh:
            with timed(f"the same with {','.join(EXPORT_EXTRAS)}"):
                install(environment, wheel, EXTRAS + EXPORT_EXTRAS, fresh=True)
            trial.export("onnx")
    except (FailedError, trials.WrongError, environments.MissingError) as error:
        log(f"error: {error}")
        return 1
    except KeyboardInterrupt:
        log("interrupted: run the same command again")
        return 130
    finally:
        if options.keep:
            log(f"kept: {folder}")
        else:
            trials.remove(folder)
    log(f"{clock}  in all")
    print(archive, wheel, sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
