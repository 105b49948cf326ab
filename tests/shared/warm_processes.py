"""`WarmProcess`: a `subprocess.Popen` of Python that starts with both stages imported; not a test.

Importing torch and timm takes seconds, which most tests of a whole command line do not need to pay:
they are about what the command does, how it is interrupted, and what it leaves. What is about the
start of a process (which modules it imports, what it reads of its environment before they are)
takes `subprocess.Popen`. With ``ICEBOX_FAULTS=1``, and where Linux's ways are missing, all do.
"""

from __future__ import annotations

import atexit
import ctypes
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

LONG = bool(os.environ.get("ICEBOX_FAULTS"))  # `make faults`
ROOT = Path(__file__).parents[2]
BECOME_PARENT_OF_ORPHANS = 36  # PR_SET_CHILD_SUBREAPER of prctl(2)


class _Server:
    """The server of this process, started when it is first needed."""

    def __init__(self):
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        script = str(Path(__file__).with_name("fork_server.py"))
        threads = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "OPENBLAS", "MKL")}
        paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, script, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                env={
                    **os.environ,
                    **threads,
                    "PYTHONPATH": os.pathsep.join(paths),
                },
                start_new_session=True,
            )
        self._libc = ctypes.CDLL(None)
        atexit.register(self.close)

    def fork(self, command, streams):
        """Start a command with three descriptors; returns the number of a child of this process."""
        self._libc.prctl(BECOME_PARENT_OF_ORPHANS, 1, 0, 0, 0)
        try:
            socket.send_fds(self._socket, [json.dumps(command).encode()], streams)
            answer = self._socket.recv(100)
        finally:
            self._libc.prctl(BECOME_PARENT_OF_ORPHANS, 0, 0, 0, 0)
        assert answer, f"the server ended with {self._process.wait()}"
        return int(answer)

    def close(self):
        self._socket.close()
        self._process.kill()
        self._process.wait()


_servers = []


class _Forked(subprocess.Popen):
    def _execute_child(self, args, *rest):
        executable, preexec_fn, _, pass_fds, cwd, env, *_ = rest
        pipes, new_session = rest[9:15], rest[19]
        assert args[0] == sys.executable and executable is None
        assert preexec_fn is None and not pass_fds
        if not _servers:
            _servers.append(_Server())
        theirs = [pipes[0], pipes[3], pipes[5]]
        streams = [own if own != -1 else number for number, own in enumerate(theirs)]
        command = {
            "words": list(map(os.fsdecode, args[1:])),
            "cwd": os.fspath(cwd or Path.cwd()),
            "env": dict(os.environ if env is None else env),
            "start_new_session": bool(new_session),
        }
        try:
            self.pid = _servers[0].fork(command, streams)
        finally:
            self._close_pipe_fds(*pipes)
        self._child_created = True


WarmProcess = subprocess.Popen if LONG or sys.platform != "linux" else _Forked


def run_warm(args, *, input=None, timeout=120, check=False, capture_output=False, **options):
    """Do what `subprocess.run` does, in a `WarmProcess`."""
    if input is not None:
        options["stdin"] = subprocess.PIPE
    if capture_output:
        options["stdout"] = options["stderr"] = subprocess.PIPE
    with WarmProcess(args, **options) as process:
        out, err = process.communicate(input, timeout)
    done = subprocess.CompletedProcess(args, process.returncode, out, err)
    if check:
        done.check_returncode()
    return done
