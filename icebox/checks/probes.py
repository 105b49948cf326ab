"""Large libraries asked in processes of their own, which may take long, fail or crash.

A torch of another processor ends its process by SIGILL, and a driver may hang: neither ends the
doctor. The processes run side by side, and see the modules that this one would import.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

from icebox.checks.finding import plainly

SECONDS = 60.0
_MARK = "icebox-probe:"

_START = """
import sys
sys.path[:] = {path!r}
import json, warnings
warnings.simplefilter("ignore")
def plainly(error):
    text = (str(error).strip() or type(error).__name__).splitlines()[0]
    return type(error).__name__ + ": " + text[:300]
found = dict()
"""

TORCH = """
import torch
found["version"], found["cuda_build"] = torch.__version__, torch.version.cuda
found["rocm_build"] = getattr(torch.version, "hip", None)
found["file"] = torch.__file__
found["threads"] = torch.get_num_threads()
try:
    found["capability"] = torch.backends.cpu.get_cpu_capability()
except Exception as error:
    found["capability"] = None
found["cuda"] = []
try:
    if torch.cuda.is_available():
        for number in range(torch.cuda.device_count()):
            device = dict(name=torch.cuda.get_device_name(number))
            try:
                device["free"], device["total"] = torch.cuda.mem_get_info(number)
            except Exception as error:
                device["problem"] = plainly(error)
            found["cuda"].append(device)
except Exception as error:
    found["cuda_problem"] = plainly(error)
try:
    found["mps"] = bool(torch.backends.mps.is_available())
except Exception:
    found["mps"] = False
"""

OPENVINO = """
sys.modules["openvino_telemetry"] = None  # see extract.engines.openvino
import openvino
found["version"] = openvino.__version__
core = openvino.Core()
found["devices"] = []
for name in core.available_devices:
    try:
        full = str(core.get_property(name, "FULL_DEVICE_NAME"))
    except Exception as error:
        full = plainly(error)
    found["devices"].append(dict(name=name, full_name=full))
"""

_END = f"\nprint({_MARK!r} + json.dumps(found), flush=True)\n"


class Probe:
    """A process that imports a library and says what it finds."""

    def __init__(self, code: str) -> None:
        text = _START.format(path=sys.path) + code + _END
        environment = {**os.environ, "PYTHONIOENCODING": "utf-8"}
        self._process = subprocess.Popen(  # noqa: S603 - code of this module
            [sys.executable, "-c", text],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def answer(self, seconds: float = SECONDS) -> tuple[dict[str, Any], str]:
        """Wait for what it says, or why it says nothing."""
        try:
            out, err = self._process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            self.stop()
            return {}, f"it has not answered within {seconds:g} seconds"
        for line in reversed(out.decode("utf-8", "replace").splitlines()):
            if line.startswith(_MARK):
                try:
                    return json.loads(line.removeprefix(_MARK)), ""
                except ValueError as error:
                    return {}, plainly(error)
        code = self._process.returncode
        if code < 0:
            return {}, f"the process that imported it was ended by signal {-code}{_signal(-code)}"
        lines = [line for line in err.decode("utf-8", "replace").splitlines() if line.strip()]
        return {}, lines[-1].strip()[:300] if lines else f"its import ended with exit code {code}"

    def stop(self) -> None:
        """End the process, if it still runs."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.communicate()


def _signal(number: int) -> str:
    import signal

    known = {
        signal.SIGILL: " (SIGILL: the processor lacks an instruction that it was built for)",
        signal.SIGSEGV: " (SIGSEGV: it crashed)",
        signal.SIGKILL: " (SIGKILL: perhaps memory was out)",
    }
    return known.get(signal.Signals(number), "") if number in set(signal.Signals) else ""
