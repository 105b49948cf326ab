"""Independent tasks through joblib, whatever its backend, with one progress bar."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from data.common.cli import progress

Task = TypeVar("Task")
Result = TypeVar("Result")


def run_tasks(
    function: Callable[[Task], Result],
    tasks: Sequence[Task],
    *,
    desc: str,
    unit: str,
    **options: Any,
) -> list[Result]:
    """Apply a module's function to every small, picklable task; results in their order.

    What the `options` of `joblib.Parallel` leave open is up to ``joblib.parallel_config``.
    """
    import joblib

    with progress(len(tasks), desc, unit) as bar:

        class Told(joblib.Parallel):
            def print_progress(self) -> None:
                # joblib calls this in our process as tasks end, whatever the backend.
                bar.update(min(self.n_completed_tasks, len(tasks)) - bar.n)

        return list(Told(**options)(joblib.delayed(function)(task) for task in tasks))
