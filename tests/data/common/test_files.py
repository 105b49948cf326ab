"""Atomic files, locks, leftovers: with real processes where processes matter."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import stat
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path

import pytest

from data.common import files
from data.common.errors import UserError
from data.common.files import (
    atomic_path,
    check_writable,
    clean_leftovers,
    lock,
    sha256_file,
    stat_stamp,
    temporary_path,
    write_json,
    write_text,
)

ROOT = Path(__file__).parents[3]


def python(code, *args):
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, args)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def dead_pid():
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    return child.pid


# -- atomic_path ------------------------------------------------------------------------------


def test_the_file_appears_whole_with_ordinary_permissions(tmp_path):
    final = tmp_path / "table.csv"
    with atomic_path(final) as temporary:
        assert temporary.parent == tmp_path
        assert temporary.suffix == ".csv"
        temporary.write_text("new")
        assert not final.exists()
    assert final.read_text() == "new"
    assert list(tmp_path.iterdir()) == [final]
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE(final.stat().st_mode) == 0o666 & ~mask


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, error):
    final = tmp_path / "a.txt"
    final.write_text("old")
    with pytest.raises(error), atomic_path(final) as temporary:
        temporary.write_text("half")
        raise error
    assert final.read_text() == "old"
    assert list(tmp_path.iterdir()) == [final]


def test_data_is_synced_before_the_rename_and_the_folder_after_it(tmp_path, monkeypatch):
    calls = []
    real_sync, real_replace = os.fsync, os.replace

    def sync(descriptor):
        kind = "folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file"
        calls.append(f"sync {kind}")
        real_sync(descriptor)

    def replace(source, target):
        calls.append("rename")
        real_replace(source, target)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(os, "replace", replace)
    write_text(tmp_path / "a", "x")
    assert calls == ["sync file", "rename", "sync folder"]


def test_folders_that_cannot_be_synced_are_tolerated_but_broken_disks_are_not(
    tmp_path, monkeypatch
):
    real = os.fsync

    def sync(descriptor, code):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(code, os.strerror(code))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", lambda d: sync(d, errno.EINVAL))
    write_text(tmp_path / "a", "x")
    monkeypatch.setattr(os, "fsync", lambda d: sync(d, errno.EIO))
    with pytest.raises(OSError, match="Input/output"):
        write_text(tmp_path / "a", "x")


def test_json_is_readable_and_strict(tmp_path):
    write_json(tmp_path / "a.json", {"name": "käse", "n": [1, 2.5]})
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert json.loads(text) == {"name": "käse", "n": [1, 2.5]}
    assert "käse" in text
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "a.json", float("nan"))
    assert (tmp_path / "a.json").read_text(encoding="utf-8") == text


# -- leftovers --------------------------------------------------------------------------------


def leave(folder, pid, host=None, age=0.0):
    """Put a temporary file there as a process of this id would have."""
    name = temporary_path(folder / "x.h5").name.split("-")
    path = folder / f".tmp-{pid}-{host or name[2][:6]}{name[2][6:]}"
    path.write_text("half")
    then = time.time() - age
    os.utime(path, (then, then))
    return path


def test_only_leftovers_of_dead_processes_are_removed(tmp_path):
    living = python("input()")
    try:
        dead = leave(tmp_path, dead_pid())
        reused = leave(tmp_path, os.getpid())  # ours by number, but we are not writing it
        abandoned = leave(tmp_path, 1, host="000000", age=2 * 24 * 3600)
        kept = [
            leave(tmp_path, living.pid),
            leave(tmp_path, dead_pid(), host="000000"),
            tmp_path / ".tmp-notes",
            tmp_path / "x.h5",
        ]
        for path in kept[2:]:
            path.write_text("mine")
        with atomic_path(tmp_path / "y.h5") as own:
            own.write_text("in progress")
            removed = clean_leftovers(tmp_path)
            assert own.exists()
        assert sorted(removed) == sorted([dead, reused, abandoned])
        assert all(path.exists() for path in kept)
        assert not any(path.exists() for path in removed)
    finally:
        living.communicate("\n")


def test_leftovers_in_folders_below_are_removed_when_asked(tmp_path):
    (tmp_path / ".work" / "key").mkdir(parents=True)
    left = leave(tmp_path / ".work" / "key", dead_pid())
    assert clean_leftovers(tmp_path) == []
    assert clean_leftovers(tmp_path, recursive=True) == [left]
    assert clean_leftovers(tmp_path / "nowhere") == []


# -- digests ----------------------------------------------------------------------------------


def test_sha256_of_a_file_of_several_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "HASH_BLOCK", 1000)
    content = os.urandom(3500)
    (tmp_path / "a").write_bytes(content)
    counts = []
    found = sha256_file(tmp_path / "a", counts.append)
    assert found == hashlib.sha256(content).hexdigest()
    assert counts == [1000, 1000, 1000, 500]


def test_the_stamp_changes_with_every_file_and_with_nothing_else(tmp_path):
    for name in ("b/2.png", "a/1.png"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(name)
    stamp = stat_stamp(tmp_path)
    assert stat_stamp(tmp_path) == stamp == stat_stamp(tmp_path, ["b/2.png", "a/1.png"])
    some = stat_stamp(tmp_path, ["a/1.png"])
    (tmp_path / "b/2.png").write_text("longer than before")
    assert stat_stamp(tmp_path) != stamp
    assert stat_stamp(tmp_path, ["a/1.png"]) == some
    changed = stat_stamp(tmp_path)
    (tmp_path / "c.png").write_text("a")
    assert stat_stamp(tmp_path) != changed
    one = stat_stamp(tmp_path / "c.png")
    times = (tmp_path / "c.png").stat()
    (tmp_path / "c.png").write_text("b")  # as large, and as old by the time that a copy keeps
    os.utime(tmp_path / "c.png", ns=(times.st_atime_ns, times.st_mtime_ns))
    assert stat_stamp(tmp_path / "c.png") != one
    assert stat_stamp(tmp_path, ["gone"]) != stat_stamp(tmp_path, ["gone", "too"])


# -- locks ------------------------------------------------------------------------------------

HOLD = """
import sys
from data.common.files import lock
with lock(sys.argv[1]) as held:
    print(held, flush=True)
    input()
"""


def test_a_second_process_waits_and_is_told_once(tmp_path):
    path = tmp_path / "new" / "key.lock"
    holder = python(HOLD, path)
    assert holder.stdout.readline() == "True\n"
    waits = []

    def on_wait():
        waits.append(time.monotonic())
        threading.Timer(0.3, lambda: holder.communicate("\n")).start()

    with lock(path, on_wait) as held:
        assert held
        assert time.monotonic() - waits[0] > 0.2
        assert holder.wait(10) == 0
    assert len(waits) == 1
    with lock(path, waits.append) as held:
        assert held
    assert len(waits) == 1


def test_the_lock_of_a_killed_process_is_free(tmp_path):
    holder = python(HOLD, tmp_path / "lock")
    holder.stdout.readline()
    holder.kill()
    holder.wait()
    with lock(tmp_path / "lock", lambda: pytest.fail("waited for a dead process")) as held:
        assert held
    holder.stdin.close()
    holder.stdout.close()


COUNT = """
import sys
from pathlib import Path
from data.common.files import lock
counter = Path(sys.argv[1])
for _ in range(100):
    with lock(sys.argv[2]) as held:
        assert held
        counter.write_text(str(int(counter.read_text()) + 1))
"""


def test_never_two_holders(tmp_path):
    (tmp_path / "n").write_text("0")
    workers = [python(COUNT, tmp_path / "n", tmp_path / "lock") for _ in range(3)]
    for worker in workers:
        worker.communicate(timeout=60)
        assert worker.returncode == 0
    assert (tmp_path / "n").read_text() == "300"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["n"], "the last one removes it"


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS])
def test_without_locks_the_work_goes_on(tmp_path, monkeypatch, code):
    def flock(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", flock)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # nobody can do anything about it
        with lock(tmp_path / "lock", lambda: pytest.fail("nobody holds it")) as held:
            # Newer releases of filelock know another way where the system has no flock at all.
            assert held in ({False, True} if code == errno.ENOSYS else {False})


def test_a_lock_that_cannot_be_created_says_so(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"lock.*file is not a folder"), lock(tmp_path / "file/a"):
        pass


def test_an_error_inside_the_block_is_not_mistaken_for_the_lock(tmp_path):
    with pytest.raises(OSError, match="mine"), lock(tmp_path / "lock"):
        raise OSError(errno.EACCES, "mine")
    with lock(tmp_path / "lock", lambda: pytest.fail("the lock was not let go")) as held:
        assert held


# -- check_writable ---------------------------------------------------------------------------


def test_a_writable_folder_is_created_and_left_empty(tmp_path):
    folder = tmp_path / "a" / "b"
    assert check_writable(folder) == folder
    assert list(folder.iterdir()) == []


def test_a_file_in_the_way_is_named(tmp_path):
    (tmp_path / "file").write_text("content")
    for folder in (tmp_path / "file", tmp_path / "file" / "below" / "it"):
        with pytest.raises(UserError) as caught:
            check_writable(folder)
        assert str(folder) in str(caught.value)
        assert f"{tmp_path / 'file'} is not a folder" in str(caught.value)
    assert (tmp_path / "file").read_text() == "content"


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs /proc")
def test_a_file_system_that_takes_no_files():
    with pytest.raises(UserError, match="cannot write in the folder /proc/icebox"):
        check_writable("/proc/icebox")
    with pytest.raises(UserError, match="cannot write in the folder /proc/self"):
        check_writable("/proc/self")


@pytest.mark.parametrize(
    ("code", "reason"),
    [(errno.EACCES, "Permission denied"), (errno.EROFS, "Read-only"), (errno.ENOSPC, "No space")],
)
def test_the_reason_is_given(tmp_path, monkeypatch, code, reason):
    def refuse(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(UserError, match=reason):
        check_writable(tmp_path)


def test_names_that_are_no_utf8_survive_in_json(tmp_path):
    """Python keeps their bytes as lone surrogates, which UTF-8 has no place for."""
    name = os.fsdecode(b"caf\xe9 \\ \xff.h5")
    write_json(tmp_path / "a.json", {"path": name, "other": "café"})
    content = (tmp_path / "a.json").read_bytes()
    assert json.loads(content) == {"path": name, "other": "café"}
    assert "café" in content.decode("utf-8")
