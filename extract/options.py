"""The options of stage one: their names, their types, and nothing heavy.

timm's spellings are accepted where they mean the same (``-b``, ``--img-size``, ``--gp``,
``--model-kwargs``, ``--amp-dtype``, ``--torchcompile``).
"""

from __future__ import annotations

import ast
import itertools
import math
import os
import re
from argparse import ArgumentTypeError, Namespace, _ArgumentGroup
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias

from data.common.cli import Parser, folder_path, log, seed
from data.common.clusters import add_cluster_options, check_cluster
from data.common.errors import UserError
from data.format.spec import DECODES, EXACT, MAX_PIXELS
from extract.model.bundled import CHOICE, check_model
from extract.model.features.choice import DEFAULT, POOLS, check_layer, check_pool
from extract.model.names import BUNDLED_MODEL, DEFAULT_MODEL, DEFAULT_MODEL_IMAGE_SIZE
from extract.model.pixels import PIXELS, check_no_weights
from extract.model.preprocessing import CROP_PCT_RANGE
from extract.table_options import add_table_options, gather_table_options

_TIMM_DTYPES = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32"}
Group: TypeAlias = _ArgumentGroup
_PRECISIONS = ("auto", "fp32", "bf16", "fp16")
# What can run the network: see `extract.engines.build`.
ENGINES = ("torch", "channels-last", "folded", "compiled", "openvino")


@dataclass(frozen=True)
class Options:
    """Everything that a run of stage one can be told; None leaves it to the model or the run."""

    dataset: str = "cifar10"
    data_dir: Path = Path("data/raw")
    data_url: str | None = None
    data_sha256: str | None = None
    test_fraction: float | None = None
    columns: dict[str, str] = field(default_factory=dict)  # of a table: role -> name
    image_root: Path | None = None
    class_names_file: Path | None = None
    merge_classes: tuple[str, ...] = ()
    drop_class: tuple[str, ...] = ()
    limit: int | None = None
    skip_bad_images: bool = False
    decode: str = EXACT
    max_pixels: int = MAX_PIXELS
    model: str = DEFAULT_MODEL
    weights: str = "hub"
    model_args: dict[str, Any] = field(default_factory=dict)
    image_size: int | tuple[int, int] | None = None
    pool: str = DEFAULT
    layer: str | None = None
    crop_pct: float | None = None
    interpolation: str | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    device: str = "auto"
    precision: str = "auto"
    engine: str = "auto"
    compile: str = "auto"
    batch_size: int | None = None
    jobs: int = 1
    cluster: str = "none"
    scheduler: str | None = None
    address: str | None = None
    features_dir: Path = Path("features")
    store_dtype: str = "float32"
    join: str = "copy"
    seed: int = 0
    dry_run: bool = False
    force: bool = False
    given: Any = field(default=None, repr=False)  # the images of a Python program: `extract.embed`


def usable_cpus() -> int:
    """Count the CPUs that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def add_options(parser: Parser, *, run: bool) -> None:
    """Add the options of a run."""
    _add_image_options(parser.add_argument_group("images"))
    _add_backbone_options(parser.add_argument_group("backbone"))
    how = parser.add_argument_group("how to run")
    _add_engine_options(how)
    _add_output_options(how)
    if run:
        how.add_argument(
            "--dry-run",
            action="store_true",
            help="say what would be done (data and weights are fetched to know)",
        )
        how.add_argument("--force", action="store_true", help="compute again what is there")


def _add_image_options(data: Group) -> None:
    """Add the options that name the images."""
    data.add_argument(
        "--dataset",
        default="cifar10",
        help="cifar10, cifar100, digits, elpv, a folder with one sub-folder per class, a table of "
        "images and labels (.csv, .tsv, .txt, .jsonl, .parquet), hf:NAME_OR_FOLDER[:CONFIG], "
        "wds:PATTERN or torchvision:NAME (%(default)s)",
    )
    data.add_argument(
        "--data-dir", type=folder_path, default=Path("data/raw"), help="(%(default)s)"
    )
    data.add_argument("--data-url", metavar="URL", help="a mirror of the archive")
    data.add_argument("--data-sha256", metavar="HEX", help="the checksum of that mirror's archive")
    data.add_argument(
        "--test-fraction",
        type=float,
        metavar="F",
        help="hold out a share of each class, where there is no test split",
    )
    add_table_options(data)
    data.add_argument(
        "--limit",
        type=_count,
        metavar="N",
        help="N training images, stratified, and as large a share for testing",
    )
    data.add_argument("--skip-bad-images", action="store_true", help="leave out undecodable files")
    data.add_argument(
        "--decode",
        choices=DECODES,
        default=EXACT,
        help="fast: JPEG at a reduced scale, of at least twice the size wanted (%(default)s)",
    )
    add_max_pixels(data, default=MAX_PIXELS)


def _add_backbone_options(model: Group) -> None:
    """Add the options that name the network, its weights and its preprocessing."""
    model.add_argument(
        "--model",
        metavar="NAME",
        help="a timm model, hf-hub:OWNER/NAME, local-dir:FOLDER, open_clip:NAME/TAG, "
        "transformers:NAME_OR_FOLDER, package.module:factory for code of yours, or pixels for none "
        f"({DEFAULT_MODEL} at 224 pixels)",
    )
    model.add_argument(
        "--weights",
        default="hub",
        metavar="hub|bundled|random|FILE",
        help="FILE, or the folder that holds it: safetensors, or what torch.save wrote; "
        f"bundled: {BUNDLED_MODEL} from a package",
    )
    model.add_argument(
        "--model-arg",
        "--model-kwargs",
        dest="model_args",
        type=_assignment,
        action="extend",
        nargs="+",
        default=[],
        metavar="KEY=VALUE",
        help="for timm's constructor, or for your own factory",
    )
    model.add_argument(
        "--image-size",
        "--img-size",
        type=_image_size,
        action="append",
        metavar="N|HxW",
        help="of the input, in pixels: its side, or height and width such as 1024x768; repeated: "
        "a store for each",
    )
    model.add_argument(
        "--pool",
        "--gp",
        type=check_pool,
        action="append",
        metavar="|".join(POOLS),
        help="how places become one vector; repeated: a store for each, from one pass (default)",
    )
    model.add_argument(
        "--layer",
        type=check_layer,
        action="append",
        metavar="-N|lastN",
        help="of layer -1, -2, ... instead of the head, or last4: the last four side by side; "
        "repeated: a store for each",
    )
    model.add_argument("--crop-pct", type=_crop_pct, metavar="F", help="the model's own by default")
    model.add_argument("--interpolation", metavar="NAME", help="the model's own by default")
    model.add_argument("--mean", nargs="+", metavar="R,G,B", help="the model's own by default")
    model.add_argument("--std", nargs="+", metavar="R,G,B", help="the model's own by default")
    model.add_argument("--seed", type=seed, default=0, help="of random weights (%(default)s)")


def _add_engine_options(how: Group) -> None:
    """Add the options that say where and how the network runs."""
    how.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    how.add_argument("--precision", choices=_PRECISIONS, default="auto")
    how.add_argument("--amp-dtype", choices=tuple(_TIMM_DTYPES), help="timm's word for --precision")
    how.add_argument(
        "--engine",
        choices=("auto", *ENGINES),
        default="auto",
        help="what runs the network; auto measures them (%(default)s)",
    )
    how.add_argument(
        "--compile",
        choices=("auto", "on", "off"),
        help="torch.compile; auto: where the images repay the time it takes (auto)",
    )
    how.add_argument(
        "--torchcompile",
        nargs="?",
        const="inductor",
        choices=("inductor",),
        help="timm's word for --compile on",
    )
    how.add_argument("--batch-size", "-b", type=_batch_size, default=None, metavar="auto|N")
    how.add_argument(
        "--jobs",
        type=_count,
        default=usable_cpus(),
        metavar="N",
        help="processes that decode; with --cluster, workers on this machine (all CPUs)",
    )
    add_cluster_options(how)


def _add_output_options(how: Group) -> None:
    """Add the options of the store that is written."""
    how.add_argument(
        "--features-dir", type=folder_path, default=Path("features"), help="(%(default)s)"
    )
    how.add_argument("--store-dtype", choices=("float32", "float16"), default="float32")
    how.add_argument(
        "--join",
        choices=("copy", "virtual"),
        default="copy",
        help="virtual leaves the features in a folder of shards beside the store (%(default)s)",
    )


def to_options(arguments: Namespace) -> Options:
    """Turn parsed arguments that ask for one store into `Options`."""
    [options] = to_all_options(arguments)
    return options


def to_all_options(arguments: Namespace) -> tuple[Options, ...]:
    """Turn parsed arguments into `Options` for each store that they ask for.

    They are the combinations of the image sizes, layers and poolings, in this order.
    """
    values = vars(arguments).copy()
    values.pop("typed", None)
    sizes, layers, pools = (values.pop(name) or [None] for name in ("image_size", "layer", "pool"))
    asked = [*itertools.product(sizes, layers, pools)]
    found = dict.fromkeys(asked)
    if len(found) < len(asked):
        log("--pool, --layer or --image-size names the same twice: it is written once")
    first = _to_options(values | {"image_size": sizes[0]})
    size_of = {size: size if size is not None else first.image_size for size in sizes}
    return tuple(
        replace(first, image_size=size_of[size], layer=layer, pool=pool or DEFAULT)
        for size, layer, pool in found
    )


def _to_options(values: dict[str, Any]) -> Options:
    """Settle all options but for the pooling and the layer; the default model has its own size."""
    dtype = values.pop("amp_dtype", None)
    if dtype is not None:
        if values["precision"] not in ("auto", _TIMM_DTYPES[dtype]):
            raise UserError(
                f"--amp-dtype {dtype} contradicts --precision {values['precision']}; "
                "give one of them"
            )
        values["precision"] = _TIMM_DTYPES[dtype]
    values["engine"], values["compile"] = _engine(values, values.pop("torchcompile"))
    if values["weights"] == CHOICE:
        values["model"] = values["model"] or BUNDLED_MODEL
        check_model(values["model"])
    if values["model"] == PIXELS:
        check_no_weights(values["weights"])
    if values["model"] is None:
        values["model"] = DEFAULT_MODEL
        values["image_size"] = values["image_size"] or DEFAULT_MODEL_IMAGE_SIZE
    values["model_args"] = dict(values["model_args"])
    gather_table_options(values)
    for name in ("mean", "std"):
        values[name] = _per_channel(name, values[name])
    check_cluster(values["cluster"], values["scheduler"], values["address"])
    return Options(**values)


def _engine(values: dict[str, Any], timms: str | None) -> tuple[str, str]:
    """Settle ``--engine`` and ``--compile``, which may name the same thing."""
    engine, asked = values["engine"], values["compile"]
    if timms is not None:
        if asked not in (None, "on"):
            raise UserError(f"--torchcompile contradicts --compile {asked}; give one of them")
        asked = "on"
    if asked == "on" and engine not in ("auto", "compiled"):
        raise UserError(f"--compile on contradicts --engine {engine}; give one of them")
    if asked == "off" and engine == "compiled":
        raise UserError("--compile off contradicts --engine compiled; give one of them")
    return "compiled" if asked == "on" else engine, asked or "auto"


def add_max_pixels(parser: Parser | Group, *, default: int | None) -> None:
    """Add the option that bounds the images that are decoded; None leaves it to a store."""
    parser.add_argument(
        "--max-pixels",
        type=_pixels,
        default=default,
        metavar="N",
        help=f"refuse image files with more pixels ({MAX_PIXELS:,}, which is Pillow's limit)",
    )


def _pixels(text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise ArgumentTypeError(
            f"'{text}' is not possible; give how many pixels an image may have, such as "
            f"{2 * MAX_PIXELS}"
        )
    return value


def _count(text: str, low: int = 1) -> int:
    """Parse a whole number of at least one."""
    try:
        value = int(text)
    except ValueError as error:
        raise ArgumentTypeError(f"'{text}' is not a whole number; give {low} or more") from error
    if value < low:
        raise ArgumentTypeError(f"{value} is not possible; give {low} or more")
    return value


def count_or_none(text: str) -> int:
    """Parse a whole number of at least zero."""
    return _count(text, 0)


def _image_size(text: str) -> int | tuple[int, int]:
    """Parse ``N`` or ``HxW``; a square is a number, however it is written."""
    words = re.split(r"[xX\N{MULTIPLICATION SIGN}]", text)
    if len(words) == 1:
        return _count(text)
    sides = [int(word) if re.fullmatch(r"[0-9]{1,9}", word.strip()) else 0 for word in words]
    if len(sides) != 2 or min(sides) < 1:
        raise ArgumentTypeError(
            f"'{text}' is not possible; give the side of a square input, such as 224, "
            "or height x width, such as 1024x768"
        )
    return sides[0] if sides[0] == sides[1] else (sides[0], sides[1])


def _crop_pct(text: str) -> float:
    """Parse a number: timm would take 0 for nothing said."""
    low, high = CROP_PCT_RANGE
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not low <= value <= high:
        raise ArgumentTypeError(
            f"'{text}' is not possible; give a number from {low:g} to {high:g}, such as 0.875"
        )
    return value


def _batch_size(text: str) -> int | None:
    return None if text == "auto" else _count(text)


def _assignment(text: str) -> tuple[str, Any]:
    """Parse KEY=VALUE, where VALUE is a Python literal or else a string."""
    key, sign, value = text.partition("=")
    if not sign or not key.isidentifier():
        raise ArgumentTypeError(f"'{text}' is not KEY=VALUE, such as pad_type=same")
    try:
        parsed = ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return key, value
    if isinstance(parsed, tuple):
        parsed = list(parsed)
    plain = isinstance(parsed, (bool, int, float, str, list, type(None)))
    return key, parsed if plain else value


def _per_channel(name: str, words: list[str] | None) -> tuple[float, ...] | None:
    """Parse ``R,G,B``, or timm's ``R G B``, or one value for all three channels."""
    if words is None:
        return None
    text = " ".join(words)
    try:
        values = tuple(float(word) for word in re.split(r"[\s,]+", text.strip()))
    except ValueError as error:
        raise UserError(f"--{name} {text}: give three numbers, such as 0.5,0.5,0.5") from error
    if len(values) == 1:
        values = values * 3
    if len(values) != 3:
        raise UserError(f"--{name} {text}: give three numbers (red,green,blue), not {len(values)}")
    if not all(map(math.isfinite, values)):
        raise UserError(f"--{name} {text}: every value must be finite; give numbers such as 0.5")
    if name == "std" and min(values) <= 0:
        raise UserError(f"--std {text}: every value must be positive; give numbers such as 0.5")
    return values
