"""Processors, memory and disks of pretended machines."""

from __future__ import annotations

import os
import shutil
from collections import namedtuple
from pathlib import Path

import pytest

from data.common.memory import memory_limit, total_memory
from data.common.processors import cpu_quota, processor_name
from icebox.checks import machine
from icebox.checks.finding import FAILURE, OK, WARNING

MEMINFO = "MemTotal:       16000000 kB\nMemAvailable:   8000000 kB\n"
TOP = "sys/fs/cgroup"
V2, V1 = "0::/a/b\n", "4:memory:/job\n3:cpu,cpuacct:/job\n"


def root(tmp_path, **files):
    for name, text in {"proc/meminfo": MEMINFO, **files}.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({}, None),
        ({"proc/self/cgroup": V2, f"{TOP}/a/b/cpu.max": "max 100000\n"}, None),
        ({"proc/self/cgroup": V2, f"{TOP}/a/b/cpu.max": "150000 100000\n"}, 1.5),
        ({"proc/self/cgroup": V2, f"{TOP}/a/b/cpu.max": "300000 100000\n",
          f"{TOP}/a/cpu.max": "200000 100000\n"}, 2.0),
        ({"proc/self/cgroup": V1, f"{TOP}/cpu/job/cpu.cfs_quota_us": "-1\n",
          f"{TOP}/cpu/job/cpu.cfs_period_us": "100000\n"}, None),
        ({"proc/self/cgroup": V1, f"{TOP}/cpu/job/cpu.cfs_quota_us": "50000\n",
          f"{TOP}/cpu/job/cpu.cfs_period_us": "100000\n"}, 0.5),
        ({"proc/self/cgroup": V2, f"{TOP}/a/b/cpu.max": "what\n"}, None),
    ],
)  # fmt: skip
def test_quota(tmp_path, files, quota):
    assert cpu_quota(root(tmp_path, **files)) == quota


def test_processor(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    place = root(tmp_path, **{"proc/cpuinfo": "processor: 0\nmodel name\t: Fast 9\n"})
    assert processor_name(place) == "Fast 9"
    [one] = machine.check_processor(place)
    assert one.text.startswith("Fast 9, 64 cores, of which 8 can be used (affinity)")
    assert "OMP_NUM_THREADS is 4" in one.text
    (place / "proc/self").mkdir()
    (place / "proc/self/cgroup").write_text(V2)
    (place / f"{TOP}/a/b").mkdir(parents=True)
    (place / f"{TOP}/a/b/cpu.max").write_text("250000 100000")
    [one] = machine.check_processor(place)
    assert "of which 2.5 can be used (control group)" in one.text and one.values["usable"] == 2.5


def test_memory(tmp_path):
    [one] = machine.check_memory(root(tmp_path))
    assert (one.level, one.text) == (OK, "16.4 GB, 8.19 GB free")
    place = root(
        tmp_path,
        **{"proc/self/cgroup": V2, f"{TOP}/a/b/memory.max": "3000000000",
           f"{TOP}/a/b/memory.current": "2000000000"},
    )  # fmt: skip
    assert memory_limit(place) == 3 * 10**9 and total_memory(place) == 16_384_000_000
    [one] = machine.check_memory(place)
    assert one.text == "16.4 GB, 1 GB free; the control group allows 3 GB"
    assert one.level == WARNING and "--batch-size" in one.advice[0]


def test_no_limit_of_version_1_is_none(tmp_path):
    job = f"{TOP}/memory/job/memory"
    place = root(
        tmp_path,
        **{"proc/self/cgroup": V1, f"{job}.limit_in_bytes": "9223372036854771712",
           f"{job}.usage_in_bytes": "1"},
    )  # fmt: skip
    [one] = machine.check_memory(place)
    assert "control group" not in one.text and one.values["limit"] is None


def test_folders_of_one_disk_share_a_line(tmp_path):
    [one] = machine.check_disk({"features": tmp_path / "not/there", "reports": tmp_path})
    assert one.text.endswith(" free")
    assert one.values["for"] == ["features", "reports"]


@pytest.mark.parametrize(("free", "level"), [(10**12, OK), (10**9, WARNING), (10**6, FAILURE)])
def test_a_disk_that_is_nearly_full(tmp_path, monkeypatch, free, level):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**12, 0, free))
    [one] = machine.check_disk({"features": tmp_path})
    assert one.level == level


def test_a_folder_that_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    first, _ = machine.check_disk({"features": tmp_path / "file"})
    assert first.level == FAILURE and "not a folder" in first.text
    monkeypatch.setattr(os, "access", lambda *_: False)
    first, _ = machine.check_disk({"downloads": tmp_path})
    assert first.level == WARNING and "not writable for this user" in first.text


def test_a_disk_that_does_not_answer(tmp_path, monkeypatch):
    def broken(_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(shutil, "disk_usage", broken)
    [one] = machine.check_disk({"features": Path("/")})
    assert one.level == WARNING and "Input/output error" in one.text
