"""Sizes as people type them, and what the system says is free."""

import pytest

from classify.solver.memory import show_bytes
from data.common.errors import UserError
from data.common.memory import default_memory, free_memory, parse_memory

MEMINFO = "MemTotal:       8000000 kB\nMemAvailable:   4000000 kB\n"


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("2GB", 2 * 10**9), ("500MB", 5 * 10**8), ("500mb", 5 * 10**8), ("1.5 GB", 15 * 10**8),
        ("2G", 2 * 10**9), ("2GiB", 2 * 2**30), ("64KiB", 65536), ("1TB", 10**12),
        ("1073741824", 2**30), ("1e9", 10**9), ("100B", 100),
    ],
)  # fmt: skip
def test_sizes(text, size):
    assert parse_memory(text) == size


@pytest.mark.parametrize(
    "text", ["", "0", "0GB", "-1", "nan", "inf", "GB", "2XB", "2 G B", "1e400", "ib", "2iB", "٣GB"]
)
def test_what_is_no_size(text):
    with pytest.raises(UserError, match="such as 2GB"):
        parse_memory(text)


def files(root, given):
    for name, text in {"proc/meminfo": MEMINFO, **given}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


V2 = "0::/a/b\n"
V1 = "5:cpu,cpuacct:/\n4:memory:/job\n"
TOP = "sys/fs/cgroup"
CASES = {
    "no groups": ({}, 4_096_000_000),
    "no limit": ({"proc/self/cgroup": V2, f"{TOP}/a/b/memory.max": "max\n",
                  f"{TOP}/a/b/memory.current": "5\n"}, 4_096_000_000),
    "v2": ({"proc/self/cgroup": V2, f"{TOP}/a/b/memory.max": "1000000\n",
            f"{TOP}/a/b/memory.current": "300000\n",
            f"{TOP}/a/b/memory.stat": "anon 5\ninactive_file 200000\n"}, 900_000),
    "v2, a group above": ({"proc/self/cgroup": V2, f"{TOP}/a/memory.max": "1000\n",
                           f"{TOP}/a/memory.current": "400\n"}, 600),
    "v2, only the root is seen": ({"proc/self/cgroup": V2, f"{TOP}/memory.max": "1000\n",
                                   f"{TOP}/memory.current": "100\n"}, 900),
    "v1": ({"proc/self/cgroup": V1, f"{TOP}/memory/job/memory.limit_in_bytes": "1000000\n",
            f"{TOP}/memory/job/memory.usage_in_bytes": "300000\n",
            f"{TOP}/memory/job/memory.stat": "total_inactive_file 100\n"}, 700_100),
    "more is used than allowed": ({"proc/self/cgroup": V2, f"{TOP}/memory.max": "10\n",
                                   f"{TOP}/memory.current": "20\n"}, 0),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_what_is_free(tmp_path, case):
    given, expected = CASES[case]
    files(tmp_path, given)
    assert free_memory(tmp_path) == expected


def test_a_system_that_does_not_say():
    assert default_memory() > 10**7


def test_no_proc(tmp_path):
    assert free_memory(tmp_path) > 10**8


def test_sizes_are_shown():
    shown = [show_bytes(n) for n in (-5, 999, 1_500_000, 2 * 10**9, 3 * 10**12)]
    assert shown == ["0 bytes", "999 bytes", "1.5 MB", "2 GB", "3 TB"]
