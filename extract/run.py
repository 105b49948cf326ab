"""Stage one: options in, finished stores out. Shards, resume, join.

The order of a run: are there finished stores for this request (`request.find`, no torch)? Can
the features folder be written? Is the dataset sound? Then the backbone is loaded and the full
``spec`` of each store resolved; under the locks of their keys the missing shards are computed, in
one pass where stores share a network input, and joined.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.common.cli import log
from data.common.files import check_writable, clean_leftovers, lock
from data.format.spec import work_dir
from data.images.arrays import ImageDataset
from extract import request as requests
from extract.cluster.coordinator import open_crew
from extract.cluster.crew import Crew
from extract.computing import announce_found, compute_among_others
from extract.engines.place import Device
from extract.model.providers.registry import check_name
from extract.options import Options
from extract.shards.job import (
    Job,
    Output,
    begin_decoding,
    prepare,
    read_dataset,
    settle_backbone,
)
from extract.shards.loading import death_as_user_error
from extract.shards.telling import log_dry_run

if TYPE_CHECKING:
    pass

# How often the work of a run may be swept away by others before it gives up.
LOST_RACES = 5


def extract(options: Options) -> Path | None:
    """Embed a dataset with a frozen backbone, or find that it has been done.

    Parameters
    ----------
    options : Options
        As given on the command line.

    Returns
    -------
    Path or None
        The finished store; None for a dry run that found none.

    Raises
    ------
    UserError
        For whatever is wrong with the options, the data, the weights or the disk.
    KeyboardInterrupt
        On Ctrl-C, with a message of how much is kept.
    """
    [path] = extract_all([options])
    return path


def extract_all(every: Sequence[Options]) -> list[Path | None]:
    """Embed a dataset in several stores, which differ in pooling, layer or image size alone.

    Parameters
    ----------
    every : sequence of Options
        What was asked for of each store.

    Returns
    -------
    list of Path or None
        The finished stores, in the same order; None in a dry run for those that are not there.

    Raises
    ------
    UserError
        For whatever is wrong with the options, the data, the weights or the disk.
    KeyboardInterrupt
        On Ctrl-C, with a message of how much is kept.
    """
    options = every[0]
    first = requests.Request(options)
    asked = [first.of(one) for one in every]
    paths: list[Path | None] = []
    for one, request in zip(every, asked, strict=True):
        found = None if one.force else requests.find(one, request)
        paths.append(None if found is None else found.path)
        if found is not None:
            requests.announce(found, one)
            if not one.dry_run:
                _tidy(one, found.key)
    todo = [number for number, path in enumerate(paths) if path is None]
    if not todo:
        return paths
    if not options.dry_run:
        clean_leftovers(check_writable(options.features_dir))
    # A name that is mistyped should not cost a download of the dataset.
    check_name(options.model, options.weights)
    with open_crew(options) as crew:
        made = _extract([every[number] for number in todo], first, crew)
    for number, path in zip(todo, made, strict=True):
        paths[number] = path
    return paths


def _extract(
    every: Sequence[Options], before: requests.Request, crew: Crew | None
) -> list[Path | None]:
    """Do what `extract_all` does where no store was found without a model."""
    device, options = None, every[0]
    if crew is not None:
        from extract.cluster.coordinator import find_workers_device

        device = find_workers_device(options, crew)
    dataset = read_dataset(options)
    # Again, because the dataset may have been downloaded just now.
    asked = requests.Request(options)
    asked.check_unchanged("dataset", before)
    asked.know("dataset", dataset.origin.get("sha256"))
    # From here on workers decode, and torch tells of one that dies wherever this process is.
    with death_as_user_error():
        jobs = _prepared(every, asked, dataset, device)
        try:
            paths = _made(jobs, crew)
            return [paths[id(one)] for one in every]
        finally:
            for job in jobs:
                job.close()


def _prepared(
    every: Sequence[Options],
    asked: requests.Request,
    dataset: ImageDataset,
    device: Device | None,
) -> list[Job]:
    """Load the backbone for each image size, while workers begin to decode for all of them."""
    groups: dict[Any, list[Options]] = {}
    for one in every:
        groups.setdefault(one.image_size, []).append(one)
    ahead = None
    if len(groups) > 1 and device is None:
        found = [settle_backbone(group[0], dataset)[1] for group in groups.values()]
        inputs = dict.fromkeys(described.preprocessing for described in found)
        ahead = begin_decoding(every[0], asked, dataset, [*inputs])
    return [
        prepare(group[0], asked.of(group[0]), dataset, device, more=group[1:], ahead=ahead)
        for group in groups.values()
    ]


def _made(jobs: Sequence[Job], crew: Crew | None) -> dict[int, Path | None]:
    """Find the stores under their keys, or compute them: by the ``id`` of their options."""
    asked = jobs[0].asked
    asked.sha256("weights")  # now, and not when the run has ended
    asked.check_unchanged("weights", requests.Request(jobs[0].options))
    paths: dict[int, Path | None] = {
        id(output.options): output.path for job in jobs for output in job.outputs
    }
    # In other words, the same may have been asked for twice.
    jobs = [job.only([*{one.key: one for one in job.outputs}.values()]) for job in jobs]
    jobs = _not_found(jobs)
    if jobs and jobs[0].options.dry_run:
        for job in jobs:
            for output in job.outputs:
                log_dry_run(job, output)
        wanted = {output.path for job in jobs for output in job.outputs}
        return {one: None if path in wanted else path for one, path in paths.items()}
    with ExitStack() as locks:
        # In one order for everybody, so that nobody waits for whoever waits for him.
        outputs = [output for job in jobs for output in job.outputs]
        for output in sorted(outputs, key=lambda output: output.key):
            waiting = partial(log, f"another process is computing {output.path}; waiting for it")
            locks.enter_context(lock(output.folder.with_suffix(".lock"), on_wait=waiting))
        # Somebody else may have finished some while this process waited.
        jobs = _not_found(jobs)
        marks = [
            _begin_forced(output) for job in jobs for output in job.outputs if output.options.force
        ]
        if jobs:
            compute_among_others(jobs, crew)
        for mark in marks:
            mark.unlink(missing_ok=True)
    return paths


def _not_found(jobs: Sequence[Job]) -> list[Job]:
    """Leave out the stores that are there."""
    left = []
    for job in jobs:
        missing = []
        for output in job.outputs:
            if output.path.exists() and not output.options.force:
                announce_found(output)
            else:
                missing.append(output)
        if missing:
            left.append(job.only(missing))
    return left


def _begin_forced(output: Output) -> Path:
    """Throw away what an earlier run began, once; the mark lies beside the folder.

    Starting over with another plan empties that.
    """
    mark = output.folder.with_suffix(".forced")
    if not mark.exists():
        shutil.rmtree(output.folder, ignore_errors=True)
        output.folder.mkdir(parents=True)
        mark.touch()
    return mark


def _tidy(options: Options, key: str) -> None:
    """Remove what a run that was killed after it had finished the store could not."""
    folder = work_dir(options.features_dir, key)
    forced = folder.with_suffix(".forced")  # an interrupted --force: its shards are wanted
    locked = folder.with_suffix(".lock")
    if (folder.exists() or locked.exists()) and not forced.exists():

        def leave() -> None:
            raise _InUseError

        with contextlib.suppress(_InUseError), lock(locked, on_wait=leave):
            if not forced.exists():
                shutil.rmtree(folder, ignore_errors=True)


class _InUseError(Exception):
    """Somebody else is at work."""
