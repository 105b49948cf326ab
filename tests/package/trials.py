"""What is done with the installed wheel: from empty folders, far from the checkout."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import environments

# Run by the environment's Python: where it finds the packages, and a few digits as image files.
_WHERE = """\
import importlib, sys
for name in sys.argv[1:]:
    print(importlib.import_module(name).__file__)
"""
_IMAGES = """\
import sys
from pathlib import Path
import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

digits = load_digits()
for number in range(20):
    pixels = np.rint(digits.images[number] * (255 / 16)).astype(np.uint8)
    Image.fromarray(pixels).save(Path(sys.argv[1], f"{digits.target[number]} ({number}).png"))
"""


# Of exports that are one file.
ENDINGS = {"onnx": ".onnx", "sklearn": ".skops"}


class WrongError(Exception):
    """A command line of the installed wheel did something else than it should."""


class Trial:
    """Command lines of an environment, each timed, from a folder with a name that is not plain."""

    def __init__(
        self, environment: Path, folder: Path, version: str, log: Callable[[str], None]
    ) -> None:
        self.bin = environment / "bin"
        self.site = environment.resolve()
        self.here = folder / "a folder of mine"
        self.results = folder / "results"
        self.features, self.reports = self.results / "my features", self.results / "my reports"
        self.version = version
        self.log = log
        # No home with caches, and no hub: what the wheel brings must suffice.
        home = folder / "home"
        self.env = environments.clean_environment(
            HOME=str(home), XDG_CACHE_HOME=str(home / ".cache"), HF_HUB_OFFLINE="1",
            PATH=os.pathsep.join([str(self.bin), "/usr/bin", "/bin"]),
        )  # fmt: skip
        for path in (self.here / "data" / "of mine", self.results, home):
            path.mkdir(parents=True)
        (self.here / "data" / "notes.txt").write_text("mine")

    def call(self, program: str, *words: object, cwd: Path | None = None) -> str:
        """Run a program of the environment; return what it printed, `WrongError` if it fails."""
        command = [str(self.bin / program), *map(str, words)]
        clock = environments.Clock()
        done = subprocess.run(
            command, cwd=cwd or self.here, env=self.env, capture_output=True, text=True, check=False
        )
        # Programs that Python runs from a text are not shown with all of it.
        shown = " ".join(["..." if "\n" in str(word) else str(word) for word in words])
        if done.returncode:
            raise WrongError(
                f"{program} {shown} ended with {done.returncode}:\n{done.stdout}{done.stderr}"
            )
        self.log(f"{clock}  {program} {shown.replace(str(self.results), 'RESULTS')}")
        return done.stdout

    def run_all(self, *, quick: bool) -> None:
        """Do what a first hour with the program does; `quick` leaves out what takes longest."""
        self.is_apart()
        if (said := self.call("icebox", "--version").strip()) != f"icebox {self.version}":
            raise WrongError(f"icebox --version printed {said!r}, and this is {self.version}")
        self.call("icebox", "--help")
        self.call("icebox", "doctor", "--offline")
        if quick:
            self.embed()
        else:
            self.demo()
        self.fit()
        self.predict()
        self.read_only_folder()
        for kind in ("sklearn",) if quick else ("sklearn", "timm", "torch"):
            self.export(kind)
        left = sorted(path.name for path in self.here.rglob("*"))
        if left != ["data", "notes.txt", "of mine"]:
            raise WrongError(f"something was written where nothing was asked for: {left}")

    def is_apart(self) -> None:
        """Compare where the packages come from with where they should."""
        packages = ("icebox", "data", "extract", "classify")
        for line in self.call("python", "-c", _WHERE, *packages).splitlines():
            if self.site not in Path(line).resolve().parents:
                raise WrongError(f"{line} was imported, which is not in {self.site}")

    def demo(self) -> None:
        """Run the demo; its pages are there, and what it says next is not for make."""
        said = self.call(
            "icebox", "demo", "--features-dir", self.features, "--reports-dir", self.reports
        )
        *_, page = said.splitlines()
        if Path(page) != self.reports / "comparison" / "report.html" or not Path(page).is_file():
            raise WrongError(f"the demo's last line is no page: {page}")
        if "make " in said or said.count("report.html") != 4:
            raise WrongError(f"the demo said:\n{said}")

    def embed(self) -> None:
        """Embed the digits with the bundled weights alone: a part of the demo."""
        words = ("--dataset", "digits", "--weights", "bundled", "--image-size", "64")
        # No time is spent on the choice of the fastest engine.
        words += ("--engine", "torch", "--batch-size", "64")
        self.call("icebox", "features", *words, "--features-dir", self.features)

    def fit(self) -> None:
        """Fit one store, and put the reports that there are on one page."""
        (store,) = self.features.glob("digits/tf_efficientnet_lite0-*.h5")
        page = Path(
            self.call(
                "icebox", "classify", store, "--head", "multinomial", "--c", "0.03",
                "--no-few-shot", "--reports-dir", self.reports,
            ).strip()
        )  # fmt: skip
        self.call("icebox", "compare", "--reports-dir", self.reports)
        if not page.is_file() or "<svg" not in page.read_text(encoding="utf-8"):
            raise WrongError(f"{page} is no report")
        self.heads = page.parent / "heads"

    def predict(self) -> None:
        """Label image files that the installed program has never seen as files."""
        images = self.results / "my images"
        images.mkdir()
        self.call("python", "-c", _IMAGES, images)
        head = self.heads / "multinomial.safetensors"
        found = json.loads(self.call("icebox", "predict", head, images, "--json"))
        right = sum(Path(one["image"]).name.split(" ")[0] == one["label"] for one in found)
        if len(found) != 20 or right < 18:
            raise WrongError(f"{right} of {len(found)} digits were read rightly")

    def read_only_folder(self) -> None:
        """Run stage one where nothing can be written, with a folder for features elsewhere."""
        folder = self.results / "nur gelesen"
        folder.mkdir()
        folder.chmod(stat.S_IRUSR | stat.S_IXUSR)
        words = ("--dataset", "digits", "--model", "pixels", "--features-dir", self.features)
        self.call("python", "-m", "extract", *words, cwd=folder)
        if list(folder.iterdir()):
            raise WrongError(f"something was written in {folder}")

    def export(self, kind: str) -> None:
        """Export the head; the command checks what it has written."""
        head = self.heads / "multinomial.safetensors"
        out = self.results / f"head as {kind}{ENDINGS.get(kind, '')}"
        self.call("icebox", "export", head, "--to", kind, "--out", out)
        if not out.exists():
            raise WrongError(f"{out} was not written")


def remove(folder: Path) -> None:
    """Remove a folder, also where one in it is read-only."""
    for path in folder.glob("results/*"):
        if path.is_dir() and not path.is_symlink():
            path.chmod(stat.S_IRWXU)
    shutil.rmtree(folder)
