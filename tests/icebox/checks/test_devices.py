"""torch, OpenVINO and devices, each pretended by a small package that is found first."""

from __future__ import annotations

import textwrap

import pytest

from icebox.checks import devices
from icebox.checks.finding import FAILURE, NOTE, OK, WARNING
from icebox.checks.requirements import Installation

HERE = Installation(devices.DRIVER.parent, False, False, "1.0", (), {"cpu": ("openvino>=2025",)})
TORCH = """
__version__ = "9.1.0+cu130"
class version:
    cuda, hip = "13.0", None
def get_num_threads(): return 3
class backends:
    class cpu:
        @staticmethod
        def get_cpu_capability(): return "AVX512"
    class mps:
        @staticmethod
        def is_available(): return False
class cuda:
    @staticmethod
    def is_available(): return True
    @staticmethod
    def device_count(): return 2
    @staticmethod
    def get_device_name(number): return f"Fast {number}"
    @staticmethod
    def mem_get_info(number): return [(78 * 10**9, 80 * 10**9), (10**9, 80 * 10**9)][number]
"""


@pytest.fixture
def pretend(tmp_path, monkeypatch):
    """Give a package that processes of this one will import."""
    monkeypatch.setattr(devices, "DRIVER", tmp_path / "no driver")

    def write(name, text):
        folder = tmp_path / "packages" / name
        folder.mkdir(parents=True)
        (folder / "__init__.py").write_text(textwrap.dedent(text))
        monkeypatch.syspath_prepend(str(tmp_path / "packages"))

    return write


def asked():
    return list(devices.check_torch(devices.start_torch(), HERE))


def test_cuda_devices_have_their_names_and_free_memory(pretend):
    pretend("torch", TORCH)
    torch, first, second = asked()
    assert torch.level == OK
    assert torch.text == "9.1.0+cu130, built for CUDA 13.0, computes in 3 threads (AVX512)"
    assert (first.level, first.text) == (OK, "cuda:0 Fast 0, 78 GB free of 80 GB")
    assert (second.level, second.text) == (WARNING, "cuda:1 Fast 1, 1 GB free of 80 GB")
    assert first.values == {"name": "Fast 0", "free": 78 * 10**9, "total": 80 * 10**9}


@pytest.mark.parametrize(
    ("change", "level", "text"),
    [
        (("return True", "return False"), NOTE, "no device: networks run on the CPU"),
        (("return True", "raise RuntimeError('driver too old\\nmore')"), WARNING,
         "no device can be used: RuntimeError: driver too old"),
        (("return [(78", "raise OSError('lost') if number else [(78"), WARNING,
         "cuda:0 Fast 0: TypeError"),
    ],
)  # fmt: skip
def test_a_driver_that_fails_is_a_line(pretend, change, level, text):
    pretend("torch", TORCH.replace(*change))
    torch, cuda, *_ = asked()
    assert torch.level == OK and cuda.level == level and cuda.text.startswith(text)


@pytest.mark.parametrize(
    ("built", "text"),
    [
        ('"13.0", None', "a driver is there, and torch finds no device"),
        ("None, None", "a driver is there, and this torch is built without CUDA"),
    ],
)
def test_a_driver_without_a_device_is_warned_of(pretend, tmp_path, monkeypatch, built, text):
    (tmp_path / "driver").touch()
    monkeypatch.setattr(devices, "DRIVER", tmp_path / "driver")
    code = TORCH.replace("return True", "return False").replace('"13.0", None', built)
    pretend("torch", code)
    assert asked()[-1].level == WARNING and asked()[-1].text.startswith(text)


def test_mps_is_there_and_not_used(pretend):
    code = TORCH.replace("return True", "return False", 1)
    pretend("torch", code.replace("is_available(): return False", "is_available(): return True", 1))
    assert [(one.name, one.level) for one in asked()][-1] == ("mps", NOTE)


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("raise ImportError('libcudart.so.13: cannot open')", "libcudart.so.13: cannot open"),
        ("import nothing_of_that_name", "No module named 'nothing_of_that_name'"),
        ("def broken(:", "SyntaxError"),
        ("import os; os.kill(os.getpid(), 4)", "SIGILL: the processor lacks an instruction"),
        ("import os; os.kill(os.getpid(), 11)", "SIGSEGV"),
        ("raise SystemExit(3)", "exit code 3"),
        ("print('no version here')", "has no attribute"),
    ],
)
def test_a_torch_that_cannot_be_used_is_a_failure(pretend, code, reason):
    pretend("torch", code)
    [torch] = asked()
    assert torch.level == FAILURE and reason in torch.text and "cannot be used" in torch.text
    assert torch.advice[0].startswith("type: ") and "\n" not in torch.text


def test_one_that_hangs_is_not_waited_for(pretend, monkeypatch):
    pretend("torch", "import time; time.sleep(60)")
    probe = devices.start_torch()
    assert probe.answer(0.3) == ({}, "it has not answered within 0.3 seconds")


def test_none_is_a_failure_and_says_what_to_type():
    [torch] = devices.check_torch(None, HERE)
    assert torch.level == FAILURE and torch.advice[0].endswith("--upgrade icebox")


OPENVINO = """
import sys
assert sys.modules["openvino_telemetry"] is None
__version__ = "2099.1.0-123-abc"
class Core:
    available_devices = ["CPU", "GPU"]
    def get_property(self, name, what):
        if name == "GPU": raise RuntimeError("no driver")
        return "A processor"
"""


def test_openvino(pretend):
    pretend("openvino", OPENVINO)
    [found] = devices.check_openvino(devices.start_openvino(), HERE)
    assert found.level == OK
    assert found.text == "2099.1.0, CPU (A processor), GPU (RuntimeError: no driver)"


def test_openvino_that_cannot_be_used_or_is_not_there(pretend):
    pretend("openvino", "raise ImportError('no libopenvino')")
    [found] = devices.check_openvino(devices.start_openvino(), HERE)
    assert found.level == WARNING and "no libopenvino" in found.text
    [found] = devices.check_openvino(None, HERE)
    assert found.level == NOTE and found.advice[0].endswith("'icebox[cpu]'")
    [found] = devices.check_openvino(None, HERE, gpu=True)
    assert found.advice == ()


def test_probes_see_this_process_s_modules_and_not_the_current_folder(
    pretend, tmp_path, monkeypatch
):
    pretend("torch", TORCH)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "json.py").write_text("raise RuntimeError('a file of the user')")
    assert asked()[0].level == OK
