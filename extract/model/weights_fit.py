"""Weights put into a model by timm's own conversion, and only where they fit it exactly.

timm loads non-strictly, and says nothing, whenever the number of classes is not the
configuration's, which is always so for a backbone without a head. Here each tensor of a file must
find its place, but for those of the head that timm drops; names may carry a prefix, or lie in a
wrapper, where exactly one such reading of the file fits.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

from data.common.cli import log
from data.common.errors import UserError
from extract.model.checkpoints import Tensors

KEYS_SHOWN = 5
# Wrappers that are also looked for where timm converts the names behind them.
KNOWN_PREFIXES = frozenset(
    ("module", "_orig_mod", "model", "backbone", "encoder", "student", "teacher", "network", "net")
)
# The wrappers that hold averaged weights, which timm takes rather than those beside them.
AVERAGED = ("state_dict_ema", "model_ema")
# What torch's AveragedModel keeps beside its module.
_BOOKKEEPING = frozenset(("n_averaged",))
_DEEPEST_PREFIX = 6


@dataclass
class HeadKeys:
    """Which keys of a file belong to the classifier that a backbone does without."""

    modules: tuple[str, ...]  # the classifier modules that timm's configuration names
    # Gives the keys that the model with a classifier has and the one without has not: timm may
    # drop more than the module that it names. Called once, when a key is not otherwise known.
    build_names: Callable[[], Collection[str]]

    @cached_property
    def names(self) -> Collection[str]:
        """Keys of the dropped head."""
        return self.build_names()

    def holds(self, key: str) -> bool:
        """Tell whether a key is one of the head's."""
        return self.known(key) or key in self.names

    def known(self, key: str) -> bool:
        """Tell the same from what is known so far: no model is built to find out."""
        named = key.startswith(tuple(f"{name}." for name in self.modules))
        return named or key in vars(self).get("names", ())


@dataclass(frozen=True)
class Reading:
    """One way to read a file: a network in it, and a prefix of its names."""

    network: str = ""  # the wrapper; empty in a plain file
    prefix: str = ""  # with its final dot; empty where the names are the model's

    def __str__(self) -> str:
        return ".".join(part for part in (self.network, self.prefix.rstrip(".")) if part)

    def apply(self, tensors: Tensors) -> tuple[dict[str, Any], list[str]]:
        """Strip the prefix; give the tensors that have it, and the names that have not."""
        stripped = {
            name[len(self.prefix) :]: tensor
            for name, tensor in tensors.items()
            if name.startswith(self.prefix)
        }
        rest = [name for name in tensors if not name.startswith(self.prefix)]
        return stripped, rest


@dataclass
class Filling:
    """What is to be put into a model while timm builds it, and what became of it."""

    name: str  # the model, for messages
    path: object  # the weights, for messages
    # The tensors, from `extract.model.checkpoints.read_networks`; None where timm reads them
    # itself.
    networks: Mapping[str, Tensors] | None
    head: HeadKeys  # what may be left over
    reading: Reading = field(default_factory=Reading)  # how the file was read
    done: bool = False  # whether timm has asked for weights

    def kept(self) -> dict[str, Any]:
        """Give the backbone's own tensors, as the file holds them, under the model's names."""
        assert self.networks is not None
        state, _ = self.reading.apply(self.networks[self.reading.network])
        return {name: tensor for name, tensor in state.items() if not self.head.known(name)}

    def shapes(self, wanted: Collection[str]) -> list[dict[str, tuple[int, ...]]]:
        """Give the shapes that a file holds, in each reading that has names of the model."""
        networks = self.networks or {}
        states = [r.apply(networks[r.network])[0] for r in _readings(networks, wanted)]
        return [{name: tuple(t.shape) for name, t in state.items()} for state in states]


# timm's builder is one function of a module: two threads that each replaced it could leave it
# replaced for good.
_building = threading.RLock()


@contextmanager
def filled_by(filling: Filling) -> Iterator[None]:
    """Let the model that this thread has timm build in the block take its weights from `filling`.

    timm hands each model, with the conversion that belongs to it, to one function of its own. That
    function is replaced for this thread alone, and put back.
    """
    from timm.models import _builder

    with _building:
        original, owner = _builder.load_pretrained, threading.get_ident()

        def load_pretrained(model: Any, *args: Any, **kwargs: Any) -> None:
            if threading.get_ident() != owner:
                original(model, *args, **kwargs)
                return
            filling.done = _fill(filling, model, partial(original, model, *args), kwargs)

        _builder.load_pretrained = load_pretrained
        try:
            yield
        finally:
            _builder.load_pretrained = original


def _fill(
    filling: Filling, model: Any, load: Callable[..., None], kwargs: Mapping[str, Any]
) -> bool:
    """Load what fits; True where something was loaded through torch's `load_state_dict`."""
    if filling.networks is None:
        results = _recorded(model, partial(load, **kwargs))
        check_fit(filling.name, filling.path, results, filling.head)
        return bool(results)
    wanted = set(model.state_dict())
    readings = _readings(filling.networks, wanted)
    fitting: list[Reading] = []
    failures: list[UserError] = []
    for reading in readings:
        try:
            _load(filling, reading, model, load, kwargs)
        except UserError as error:
            failures.append(error)
            continue
        fitting.append(reading)
        if reading == Reading() and len(filling.networks) == 1:
            break
    whole = [reading for reading, count in readings.items() if count == len(wanted)]
    if not fitting and len(whole) > 1:
        raise _ambiguous(filling, whole)
    if not fitting:
        raise failures[0]
    filling.reading = _chosen(filling, fitting)
    if filling.reading != fitting[-1]:
        _load(filling, filling.reading, model, load, kwargs)
    return True


def _load(
    filling: Filling,
    reading: Reading,
    model: Any,
    load: Callable[..., None],
    kwargs: Mapping[str, Any],
) -> None:
    """Load a file in one reading; raise a UserError where it does not fit."""
    import torch

    assert filling.networks is not None
    state, rest = reading.apply(filling.networks[reading.network])
    config = dict(kwargs.get("pretrained_cfg") or {})
    config |= {"source": "", "file": None, "state_dict": state}
    keywords = {**kwargs, "pretrained_cfg": config, "strict": False}
    try:
        # The tensors of a file lie on the CPU, also where the model is built without memory.
        with torch.device("cpu"):
            results = _recorded(model, partial(load, **keywords))
    except RuntimeError as error:
        raise misfit(filling.name, filling.path, error) from error
    except Exception as error:  # the conversions of other models fall over these names and shapes
        raise UserError(
            f"{filling.path} does not fit {filling.name}: timm cannot convert its tensors "
            f"({type(error).__name__}: {error})"
        ) from error
    outside = [name for name in rest if name not in _BOOKKEEPING and not filling.head.holds(name)]
    check_fit(filling.name, filling.path, results, filling.head, outside)


def _recorded(model: Any, load: Callable[[], None]) -> list[Any]:
    """Call timm's loader, and note what this model's `load_state_dict` finds missing or extra."""
    results: list[Any] = []
    plain = type(model).load_state_dict

    def recorded(state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        results.append(plain(model, state_dict, strict=False, assign=assign))
        return results[-1]

    vars(model)["load_state_dict"] = recorded  # of this one model, not of torch
    try:
        load()
    finally:
        del vars(model)["load_state_dict"]
    return results


def _readings(networks: Mapping[str, Tensors], wanted: Collection[str]) -> dict[Reading, int]:
    """List how a file may be read, and how many wanted names each reading gives, most first."""
    counted: dict[Reading, int] = {}
    for network, tensors in networks.items():
        counts = _prefixes(tensors, wanted)
        for prefix in {"", *_common_prefixes(tensors), *counts}:
            counted[Reading(network, prefix)] = counts[prefix]
    # Half of the best has another job. Where timm converts names, none may have any.
    most = max(counted.values())
    usable = {reading: count for reading, count in counted.items() if count >= most / 2}
    return dict(sorted(usable.items(), key=lambda item: (-item[1], len(item[0].prefix))))


def _prefixes(tensors: Iterable[str], wanted: Collection[str]) -> Counter[str]:
    """Count, for every prefix, how many wanted names stand behind it."""
    counts: Counter[str] = Counter()
    for name in tensors:
        start = 0
        for _ in range(_DEEPEST_PREFIX):
            if name[start:] in wanted:
                counts[name[:start]] += 1
            start = name.find(".", start) + 1
            if not start:
                break
    return counts


def _common_prefixes(tensors: Collection[str]) -> list[str]:
    """List the known prefixes that all names share, from the outside inwards."""
    found: list[str] = []
    prefix = ""
    while True:
        parts = {name[len(prefix) :].partition(".")[0] for name in tensors}
        if len(parts) != 1 or not parts <= KNOWN_PREFIXES:
            return found
        prefix += f"{parts.pop()}."
        found.append(prefix)


def _chosen(filling: Filling, fitting: Sequence[Reading]) -> Reading:
    """Take the one reading that fits; of averaged and plain weights the averaged, as timm does."""
    if len(fitting) == 1:
        return fitting[0]
    for name in AVERAGED:
        averaged = [reading for reading in fitting if reading.network.partition(".")[0] == name]
        if len(averaged) == 1:
            return averaged[0]
    raise _ambiguous(filling, fitting)


def _ambiguous(filling: Filling, readings: Iterable[Reading]) -> UserError:
    named = ", ".join(sorted(f"'{str(reading) or 'no prefix'}'" for reading in readings))
    return UserError(
        f"{filling.path} holds several networks that fit {filling.name}: {named}\n"
        "Save the one that is meant to a file of its own, and give that with --weights"
    )


def announce(filling: Filling) -> None:
    """Say what was unwrapped or stripped to make a file fit."""
    reading = filling.reading
    if reading.network:
        averaged = reading.network.partition(".")[0] in AVERAGED
        why = ", the averaged weights, as timm does" if averaged else ""
        log(f"{filling.path}: the weights under '{reading.network}' are taken{why}")
    if reading.prefix:
        log(f"{filling.path}: '{reading.prefix}' is stripped from the names of its tensors")


def check_fit(
    name: str,
    path: object,
    results: Iterable[Any],
    head: HeadKeys,
    outside: Sequence[str] = (),
) -> None:
    """Make sure that weights filled the whole backbone and held nothing else but its head.

    `results` are torch's, with ``missing_keys`` and ``unexpected_keys``; `outside` are names that
    no reading of the file has a place for.
    """
    missing: list[str] = []
    extra = list(outside)
    for result in results:
        missing += result.missing_keys
        extra += [key for key in result.unexpected_keys if not head.holds(key)]
    problems = [
        f"{len(keys)} {kind}: {_some(keys)}"
        for kind, keys in (("missing from the file", missing), ("not in the model", extra))
        if keys
    ]
    if problems:
        raise UserError(
            f"{path} does not fit {name}: {'; '.join(problems)}\n"
            "Give the --model (and --model-arg) that these weights were made with."
        )


def misfit(name: str, path: object, error: RuntimeError) -> UserError:
    """Shorten torch's report of tensors of the wrong shape to the first ones and their number."""
    lines = [line.strip() for line in str(error).splitlines() if "size mismatch" in line]
    if not lines:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        return UserError(f"{path} does not fit {name}: {reason}")
    shown = "\n".join(f"  {line.removeprefix('size mismatch for ')}" for line in lines[:2])
    return UserError(
        f"{path} does not fit {name}: {len(lines)} tensors differ in shape\n{shown}\n"
        "Give the --model (and --model-arg) that these weights were made with"
    )


def _some(keys: Sequence[str]) -> str:
    more = f", ... ({len(keys) - KEYS_SHOWN} more)" if len(keys) > KEYS_SHOWN else ""
    return ", ".join(keys[:KEYS_SHOWN]) + more
