"""``--model package.module:factory``: a network of the user's own, made by the user's own code.

The factory takes no arguments but those of ``--model-arg``, and returns the module and its
preprocessing::

    def factory():
        network = ...  # an nn.Module that gives (n, width) for images (n, 3, height, width)
        return network, {"image_size": 224, "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
"""

from __future__ import annotations

import importlib
import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from inspect import isfunction
from pathlib import Path
from traceback import extract_tb
from typing import TYPE_CHECKING, Any

from data.common.cache_folder import expand_user
from data.common.errors import UserError, nearest
from data.common.files import sha256_file
from extract.model import weights
from extract.model.checkpoints import find_weights_file
from extract.model.preprocessing import CROP_MODES, Preprocessing, check_settings
from extract.model.providers.code_files import Code, check_defines, digest_of, find_code
from extract.model.providers.files_read import files_read
from extract.model.providers.interface import Asked, Found, Loaded, Row
from extract.model.providers.towers import (
    check_vectors,
    fill,
    one_line,
    overridden,
    read_tensors,
    refuse_pool,
    seeded,
    some,
)
from extract.model.sources import Named, split_source

if TYPE_CHECKING:
    from torch import nn

_NAME = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")
# What a ``spec`` says of weights that the factory itself has put into the network.
SOURCE = "factory"
# Names the one factory of an installed package that a file may name.
CONSENT = "ICEBOX_FACTORY"
FORM = (
    "(module, {'image_size': 224, 'mean': (r, g, b), 'std': (r, g, b)}), and where they are others "
    "'interpolation': 'bicubic', 'crop_pct': 1.0, 'crop_mode': 'center', 'files': [...]"
)
_NEEDED = ("image_size", "mean", "std")
_KNOWN = (*_NEEDED, "interpolation", "crop_pct", "crop_mode", "files")
_ADVICE = "the manual, guide/own-networks.md, says what a factory returns"


@dataclass(frozen=True)
class Made:
    """What a factory has returned, checked."""

    module: nn.Module
    preprocessing: Preprocessing
    read: Mapping[str, str]  # the files that it has read, and their digests


class FactoryProvider:
    """Factories of the user's."""

    name = "factory"

    def owns(self, model: str) -> bool:
        """Tell ``package.module:factory`` from timm's names, folders and repositories."""
        return _NAME.fullmatch(model) is not None and split_source(model)[0] is None

    def portable_name(self, model: str) -> str:
        """Give the name as it is: it holds no folder."""
        return model

    def in_folder(self, model: str) -> bool:
        """Say no: the code is found by its name, wherever it lies."""
        return False

    def files_of(self, model: str, choice: str) -> list[Path]:
        """List the source files, and the file of weights."""
        found = list(find_code(model.partition(":")[0], model).files)
        if choice not in ("hub", "random", SOURCE):
            found.append(find_weights_file(expand_user(choice)))
        return found

    def versions(self) -> dict[str, str]:
        """Give none: what else a network needs is the user's own affair."""
        return {}

    def check(self, model: str, choice: str) -> None:
        """Make sure that there is such a function, as far as the source tells."""
        module, _, function = model.partition(":")
        check_defines(find_code(module, model), function, model)

    def describe(self, asked: Asked) -> Found:
        """Call the factory: it alone knows its preprocessing."""
        model = asked.model
        module, _, function = model.partition(":")
        code = find_code(module, model)
        digests = code.digests()
        if asked.config is not None:
            _check_code(asked, code, digests)
        arguments = dict(asked.model_args or {})
        seed = asked.seed if asked.weights == "random" else 0
        with files_read() as opened:
            make = _imported(module, function, code, model)
            result = seeded(seed, partial(_called, make, arguments, model))
        made = _made(result, opened, model)
        if code.digests() != digests:
            raise UserError(f"--model {model}: {code.file} has changed while it was being read")
        own = {"provider": self.name, "source": digests, "digest": digest_of(digests)}
        return Found(Named(model, model, {}, {}, own), overridden(made.preprocessing, asked), made)

    def load(self, asked: Asked, found: Found) -> Loaded:
        """Take the module that the factory has made, with other weights where they are given."""
        refuse_pool(asked)
        made: Made = found.own
        module, source = made.module, weights.Weights(SOURCE, None, None)
        if asked.weights == "random":
            source = weights.Weights("random", None, None)
        elif asked.weights not in ("hub", SOURCE):
            path = find_weights_file(expand_user(asked.weights))
            tensors = read_tensors(path, asked.model, module.state_dict().keys())
            fill(module, tensors, asked.model, path)
            source = weights.Weights("file", path.resolve(), None)
        network = as_called(module.float().eval())
        check_vectors(network, asked.model, found.preprocessing.size, _ADVICE)
        digest = weights.state_digest(module.state_dict())
        return Loaded(found.named, network, source, digest, made.read)

    def listed(self, pattern: str) -> list[Row] | None:
        """Say that there is no list: a name is one network."""
        return None


def as_called(module: nn.Module) -> nn.Module:
    """Wrap a network so that it is only called: one of timm's has methods that say more."""
    from torch import nn

    class Called(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = module

        def forward(self, images: Any) -> Any:
            return self.network(images)

    return Called().eval().requires_grad_(False)


def _check_code(asked: Asked, code: Code, digests: Mapping[str, str]) -> None:
    """Refuse to run what a store or a head names, unless it is the user's own code, unchanged."""
    model, config = asked.model, asked.config or {}
    source = config.get("source")
    expected = source if isinstance(source, dict) else {}
    changed = sorted(
        name for name in {*expected, *digests} if expected.get(name) != digests.get(name)
    )
    if changed:
        raise UserError(
            f"{model}: the code in {code.root} is not that with which the features were made "
            f"({some(changed)}); put back the file that was, or make the features again"
        )
    if code.is_installed and not asked.trusted and os.environ.get(CONSENT) != model:
        raise UserError(
            f"{model}: this store or head asks to run a function of an installed package "
            f"({code.file}), which is not done for a file's sake\n"
            f"If you trust who made the file, set {CONSENT}={model} and run the command again"
        )


# What has been imported here: a program may run on while its sources are edited.
_sources: dict[Path, dict[str, str]] = {}


def _forget(code: Code) -> None:
    """Have modules imported anew that may be of another source than what lies there now."""
    digests = code.digests()
    if _sources.get(code.file) == digests or code.is_installed:
        return
    _sources[code.file] = digests
    for path in code.files:
        parts = path.relative_to(code.root).with_suffix("").parts
        sys.modules.pop(".".join(parts[:-1] if parts[-1] == "__init__" else parts), None)
    importlib.invalidate_caches()


def _imported(module: str, function: str, code: Code, model: str) -> Any:
    """Import the module, and give its function."""
    _forget(code)
    try:
        found = importlib.import_module(module)
    except (Exception, SystemExit) as error:  # whatever the user's code raises
        raise UserError(
            f"--model {model}: {module} cannot be imported ({one_line(error)}{_where(error, code)})"
            "; mend it, and run the command again"
        ) from error
    place = getattr(found, "__file__", None)
    if not place or not os.path.samefile(place, code.file):
        raise UserError(
            f"--model {model}: Python has imported {module} from {place}, and {code.file} comes "
            "first on its path; give one of them another name"
        )
    make = getattr(found, function, None)
    if not callable(make):
        what = "is no function" if hasattr(found, function) else "is not there"
        functions = [name for name, item in vars(found).items() if isfunction(item)]
        raise UserError(
            f"--model {model}: {function} {what} in {code.file}; "
            f"{nearest(function, functions) or 'give the name of the factory'}"
        )
    return make


def _called(make: Any, arguments: dict[str, Any], model: str) -> Any:
    """Call the factory."""
    try:
        return make(**arguments)
    except (Exception, SystemExit) as error:  # whatever the user's code raises
        frames = extract_tb(error.__traceback__)
        where = f", line {frames[-1].lineno} of {frames[-1].filename}" if frames[1:] else ""
        given = " ".join(f"{key}={value}" for key, value in arguments.items())
        raise UserError(
            f"--model {model}: the factory raises {one_line(error)}{where}\n"
            f"It was called {f'with --model-arg {given}' if given else 'without arguments'}; "
            "mend it, and run the command again"
        ) from error


def _where(error: BaseException, code: Code) -> str:
    lines = [f for f in extract_tb(error.__traceback__) if f.filename == str(code.file)]
    return f", line {lines[-1].lineno} of {code.file}" if lines else ""


def _made(result: Any, opened: list[Path], model: str) -> Made:
    """Check what a factory has returned."""
    from torch import nn

    pair = result if isinstance(result, tuple) else (result,)
    if len(pair) != 2 or not isinstance(pair[0], nn.Module) or not isinstance(pair[1], Mapping):
        kinds = ", ".join(type(part).__name__ for part in pair)
        kinds = f"({kinds})" if isinstance(result, tuple) else kinds
        raise UserError(f"--model {model}: the factory returns {kinds}, expected {FORM}")
    module, told = pair
    for key in told:
        if key not in _KNOWN:
            near = nearest(str(key), _KNOWN) or f"it has {', '.join(_KNOWN)}"
            raise UserError(
                f"--model {model}: the preprocessing that the factory returns has an entry "
                f"{key!r}; {near}"
            )
    files = [expand_user(file) for file in _listed(told, model)]
    missing = [str(file) for file in files if not file.is_file()]
    if missing:
        raise UserError(
            f"--model {model}: the factory's 'files' name {missing[0]}, which is not there; name "
            "the files that it reads"
        )
    read = {str(path.resolve()): sha256_file(path) for path in [*files, *opened]}
    return Made(module, _preprocessing(told, model), read)


def _listed(told: Mapping[str, Any], model: str) -> list[str]:
    files = told.get("files", [])
    if not isinstance(files, list | tuple) or not all(
        isinstance(file, str | os.PathLike) for file in files
    ):
        raise UserError(f"--model {model}: the factory's 'files' is {files!r}, expected paths")
    return [os.fspath(file) for file in files]


def _preprocessing(told: Mapping[str, Any], model: str) -> Preprocessing:
    """Read the preprocessing that a factory has returned."""
    missing = [name for name in _NEEDED if name not in told]
    if missing:
        raise UserError(
            f"--model {model}: the preprocessing that the factory returns has no "
            f"{', '.join(missing)}; expected {FORM}"
        )
    size = told["image_size"]
    sides = [size, size] if isinstance(size, int) else size
    three = {name: _three(told[name]) for name in ("mean", "std")}
    wrong = [name for name, values in three.items() if values is None]
    if (
        not isinstance(sides, list | tuple)
        or len(sides) != 2
        or not all(isinstance(side, int) and not isinstance(side, bool) for side in sides)
    ):
        wrong.insert(0, "image_size")
    crop_pct = told.get("crop_pct", 1.0)
    if isinstance(crop_pct, bool) or not isinstance(crop_pct, int | float):
        wrong.append("crop_pct")
    if wrong:
        raise UserError(
            f"--model {model}: the {wrong[0]} that the factory returns is {told[wrong[0]]!r}; "
            f"expected {FORM}"
        )
    try:
        settings = Preprocessing(
            image_size=(sides[0], sides[1]),
            crop_pct=float(crop_pct),
            crop_mode=str(told.get("crop_mode", "center")),
            interpolation=str(told.get("interpolation", "bicubic")),
            antialias=True,
            mean=three["mean"] or (0.0, 0.0, 0.0),
            std=three["std"] or (1.0, 1.0, 1.0),
        )
        if settings.crop_mode not in CROP_MODES:
            known = ", ".join(CROP_MODES)
            raise UserError(f"the crop_mode {settings.crop_mode!r} is none of {known}")
        check_settings(settings)
    except UserError as error:
        raise UserError(f"--model {model}: of what the factory returns, {error}") from error
    return settings


def _three(values: Any) -> tuple[float, float, float] | None:
    """Read three numbers, from a list, an array or a tensor; None where they are none."""
    try:
        red, green, blue = (float(value) for value in values)
    except (TypeError, ValueError):
        return None
    return red, green, blue
