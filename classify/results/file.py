"""results.json: made safe for JSON when written, checked when read.

The report and the comparison read nothing but this file (and, for paired tests between runs, the
predictions beside it), so whatever they rely on is checked here once, and a damaged or foreign file
is refused with the place that is wrong.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from classify.results.contradictions import first_contradiction
from classify.results.shape import RUN
from data.common.errors import UserError
from data.common.shapes import mismatch

SCHEMA_VERSION = 1
FILE_NAME = "results.json"


def json_ready(value: Any) -> Any:
    """Turn numpy values into plain ones and what JSON has no word for into null."""
    if isinstance(value, dict):
        return {str(key): json_ready(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        kinds = set(map(type, value))
        # Long lists are of numbers: a million in the confusion matrix of a thousand classes.
        if kinds <= {int, str} or (kinds == {float} and all(map(math.isfinite, value))):
            return list(value)
        return [json_ready(item) for item in value]
    if isinstance(value, (np.ndarray, np.generic)):
        return json_ready(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def load_json(path: Path) -> dict[str, Any]:
    """Read a results.json of any kind, a run's or a comparison's, checking only its version."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(
            f"cannot read {path}: {error.strerror}; give a folder that `classify fit` wrote"
        ) from error
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{path} is not JSON ({error}); it is damaged or not ours: fit again, or remove it"
        ) from error
    version = content.get("schema_version") if isinstance(content, dict) else None
    if not isinstance(version, int):
        raise UserError(
            f"{path} has no schema_version, so `classify fit` did not write it; "
            "give the folder of a run"
        )
    if version > SCHEMA_VERSION:
        raise UserError(
            f"{path} has schema version {version}, newer than {SCHEMA_VERSION}, the newest that "
            "this Icebox reads; update Icebox, or fit again with this one"
        )
    return content


def read_run(path: Path) -> dict[str, Any]:
    """Read a run's results.json and check everything that the report and comparison rely on."""
    results = load_json(path)
    problem = mismatch(results, RUN, "it") or first_contradiction(results)
    if problem:
        raise UserError(
            f"{path} is not the results of a run: {problem.removeprefix('it.')}; "
            "it is damaged or not ours: fit again, or remove it"
        )
    return results
