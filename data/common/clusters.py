"""Dask and Ray clusters, started on this machine or reached elsewhere: for both stages.

Nobody who mistypes an address should wait for minutes: whoever does not answer is one message.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import re
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from data.common.errors import UserError
from data.common.own_packages import folder_without_others
from data.common.packages import install_extra

CLUSTERS = ("none", "dask", "ray")
# The module that must be there, and what it is called.
EXTRAS = {"dask": ("distributed", "Dask"), "ray": ("ray", "Ray")}
# A cluster that is there answers at once; so much patience suits a busy one.
CONNECT_SECONDS = 10.0
WORKERS_SECONDS = 30.0
RAY_SECONDS = 40.0
# Nothing large travels.
OBJECT_STORE_BYTES = 80 << 20

# Ray ends the whole process where it does not find a cluster, so another one asks first.
_PROBE = """
import logging, sys, ray
ray.init(address=sys.argv[1], log_to_driver=False, logging_level=logging.CRITICAL)
"""


def add_cluster_options(parser: Any) -> None:
    """Add ``--cluster``, ``--scheduler`` and ``--address``."""
    parser.add_argument(
        "--cluster",
        choices=CLUSTERS,
        default="none",
        help="what shares out the work, to --jobs N processes here or a cluster elsewhere (none)",
    )
    parser.add_argument("--scheduler", metavar="ADDRESS", help="of a Dask cluster that is there")
    parser.add_argument("--address", metavar="ADDRESS", help="of a Ray cluster that is there")


def check_cluster(cluster: str, scheduler: str | None, address: str | None) -> None:
    """Refuse the address of a cluster that is not asked for, and one without its library."""
    for option, value, kind in (("--scheduler", scheduler, "dask"), ("--address", address, "ray")):
        if value is not None and cluster != kind:
            raise UserError(
                f"{option} {value} is for --cluster {kind}, and --cluster is {cluster}; give "
                f"--cluster {kind}, or leave {option} out"
            )


def check_installed(cluster: str) -> None:
    """Make sure that the library of a kind of cluster is there."""
    module, name = EXTRAS[cluster]
    if importlib.util.find_spec(module) is None:
        raise UserError(
            f"--cluster {cluster}: {name} is not installed; {install_extra(cluster)}, or leave "
            "--cluster out"
        )


def start_dask(workers: int, devices: int = 0) -> tuple[Any, Any]:
    """Start Dask workers on this machine, each a process that does one thing at a time."""
    from distributed import Client, Nanny, Scheduler, SpecCluster

    options: dict[str, Any] = {
        "nthreads": 1,
        "memory_limit": 0,
        "dashboard_address": None,
        # Ctrl-C in a terminal reaches all its processes; this one decides what it means.
        "preload": [__name__],
        "silence_logs": logging.ERROR,
    }
    cluster = SpecCluster(
        scheduler={
            "cls": Scheduler,
            "options": {"dashboard": False, "dashboard_address": None, "host": "127.0.0.1"},
        },
        workers={
            number: {
                "cls": Nanny,
                "options": {
                    **options,
                    "env": {"CUDA_VISIBLE_DEVICES": str(number)} if devices else {},
                },
            }
            for number in range(devices or workers)
        },
        silence_logs=logging.ERROR,
    )
    return Client(cluster, set_as_default=False), cluster


def dask_setup(worker: object) -> None:
    """Leave Ctrl-C to the coordinator: Dask calls this in each local worker when it starts."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def connect_dask(address: str) -> Any:
    """Connect to a Dask scheduler that has a worker."""
    import asyncio

    from distributed import Client

    _reach("--scheduler", address)
    try:
        asyncio.run(asyncio.wait_for(_greet(address), CONNECT_SECONDS))
        client = Client(address, timeout=CONNECT_SECONDS, set_as_default=False)
    except (OSError, ValueError, TimeoutError, asyncio.TimeoutError) as error:
        reason = str(error).split("\n")[0] or f"no answer within {CONNECT_SECONDS:.0f} s"
        raise _unreachable("--scheduler", address, reason) from error
    try:
        client.wait_for_workers(1, timeout=WORKERS_SECONDS)
    except (TimeoutError, asyncio.TimeoutError) as error:
        client.close()
        reason = f"the scheduler has had no worker for {WORKERS_SECONDS:.0f} s"
        raise _unreachable("--scheduler", address, reason) from error
    return client


async def _greet(address: str) -> None:
    """Exchange greetings: `Client` itself waits forever for one who listens and says nothing."""
    from distributed.comm import connect

    comm = await connect(address if "://" in address else f"tcp://{address}")
    await comm.close()


def close_dask(client: Any, cluster: Any = None) -> None:
    """Let go of a cluster, and end it where it was started here."""
    # One that is gone already is no reason not to end.
    with suppress(Exception):
        client.close(timeout=5)
    if cluster is not None:
        with suppress(Exception):
            cluster.close(timeout=5)


def start_ray(workers: int, devices: int = 0) -> None:
    """Start Ray on this machine; ``ray.shutdown()`` ends it."""
    _init_ray(
        num_cpus=devices or workers,
        num_gpus=devices,
        include_dashboard=False,
        object_store_memory=OBJECT_STORE_BYTES,
    )


def connect_ray(address: str) -> None:
    """Connect to a Ray cluster; ``ray.shutdown()`` lets it go."""
    import subprocess

    if address != "auto":
        _reach("--address", address)
    try:
        subprocess.run(  # noqa: S603 - this very Python, and a fixed program
            [sys.executable, "-c", _PROBE, address],
            check=True,
            timeout=RAY_SECONDS,
            capture_output=True,
        )
    except subprocess.TimeoutExpired as error:
        reason = f"Ray does not answer within {RAY_SECONDS:.0f} s"
        raise _unreachable("--address", address, reason) from error
    except subprocess.CalledProcessError as error:
        lines = error.stderr.decode(errors="replace").strip().splitlines() or ["Ray failed"]
        # What Ray says last is only that it failed; the cause, such as a missing token, is above.
        named = [line for line in lines if line.startswith("ray.exceptions.")]
        raise _unreachable("--address", address, (named or lines)[-1][:200]) from error
    _init_ray(address=address)


@contextmanager
def in_folder(folder: str) -> Iterator[None]:
    """Have a folder be the current one meanwhile."""
    before = os.getcwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def _init_ray(**options: Any) -> None:
    import ray

    name = "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"  # read while Ray starts: its advice about a change
    before = os.environ.get(name)
    os.environ.setdefault(name, "0")
    try:
        # Ray has its workers look for modules in the folder where it is started, before all others.
        with in_folder(folder_without_others()):
            ray.init(log_to_driver=False, logging_level=logging.ERROR, **options)
    finally:
        if before is None:
            del os.environ[name]


def _reach(option: str, address: str) -> None:
    """Make sure that somebody listens at an address, before a library waits for minutes."""
    import socket

    found = re.fullmatch(r"(?:\w+://)?(?P<host>\[[^\]]+\]|[^:/\s]+):(?P<port>\d{1,5})/?", address)
    if found is None or not 0 < int(found["port"]) < 65536:
        raise UserError(f"{option} {address}: not an address; give HOST:PORT, such as node1:8786")
    try:
        pair = (found["host"].strip("[]"), int(found["port"]))
        socket.create_connection(pair, timeout=CONNECT_SECONDS).close()
    except OSError as error:
        raise _unreachable(option, address, error.strerror or str(error)) from error


def _unreachable(option: str, address: str, reason: str) -> UserError:
    return UserError(
        f"{option} {address}: no cluster can be reached there ({reason}); "
        f"start it, mend the address, or leave {option} out for workers on this machine"
    )
