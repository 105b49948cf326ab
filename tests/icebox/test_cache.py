"""`icebox cache`: what it lists, what it removes, and what it leaves alone."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import textwrap
from argparse import Namespace
from pathlib import Path

import pytest
from small_stores import spec_of, write_run, write_store, write_work

from data.common import cli
from data.common.files import lock
from data.format.spec import spec_key
from data.reading import open_features
from icebox.__main__ import main
from icebox.cache import store_names

A, B = spec_of("alpha"), spec_of("beta", size=64, pool="avg")
KEY_A, KEY_B = spec_key(A), spec_key(B)


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with a home, in which commands are run."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*words, answer=None, monkeypatch=None):
    if answer is not None:
        terminal = io.StringIO(answer)
        terminal.isatty = lambda: True
        monkeypatch.setattr(sys, "stdin", terminal)
    return cli.run(main, ["cache", *map(str, words)])


def files(folder):
    return {str(path.relative_to(folder)) for path in Path(folder).rglob("*") if path.is_file()}


def test_stores_are_listed_with_their_size_age_features_and_use(place, capsys):
    write_store("features", A)
    write_store("features", B)
    write_run("reports", KEY_A, name="one")
    write_run("reports", "f" * 64, KEY_A, KEY_B, name="sum", started="2026-04-01T00:00:00+00:00")
    assert run() == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "2 stores in features"
    text = " ".join(" ".join(lines).split())
    assert f"toys/beta-64px-{KEY_B[:8]}.h5 beta 64 px, avg, 10 rows x 3 float32; 1 run" in text
    assert f"toys/alpha-32px-{KEY_A[:8]}.h5 alpha 32 px, 10 rows x 3 float32; 2 runs" in text
    assert max(map(len, lines[: lines.index("")])) <= 80


def test_json_has_the_same(place, capsys):
    path = write_store("features", B, virtual=True)
    write_run("reports", KEY_B)
    assert run("list", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    [store] = found["stores"]
    shards = next(path.parent.glob("*.shards-*"))
    size = sum(one.stat().st_size for one in [path, *shards.iterdir()])
    assert store["bytes"] == size and store["shards"] == [str(shards)]
    assert store["key"] == KEY_B and store["pool"] == "avg" and store["image_size"] == 64
    assert store["rows"] == {"train": 6, "test": 4} and store["made"].startswith("2026-01-02T03")
    assert store["runs"] == ["reports/store/run"] and store["last_used"].startswith("2026-03-01")
    assert found["bytes"] == size + sum(one["bytes"] for one in found["leftovers"])


@pytest.mark.parametrize(("sort", "first"), [("size", "beta"), ("age", "alpha"), ("name", "alpha")])
def test_orders(place, capsys, sort, first):
    write_store("features", A)
    ids = {"finished": "2026-02-02T03:04:05+00:00", "dataset": {"long": "x" * 9000}}
    write_store("features", B, provenance=ids)
    assert run("--sort", sort, "--json") == 0
    assert json.loads(capsys.readouterr().out)["stores"][0]["model"] == first


def test_what_is_no_store_is_listed_with_the_reason(place, capsys):
    write_store("features", A)
    folder = Path("features/toys")
    (folder / "notes.h5").write_text("no HDF5")
    whole = (folder / f"alpha-32px-{KEY_A[:8]}.h5").read_bytes()
    (folder / "cut.h5").write_bytes(whole[:-30])
    os.mkfifo(folder / "pipe.h5")  # opening it would wait for a writer
    assert run("--json") == 0
    found = json.loads(capsys.readouterr().out)
    problems = {one["name"]: one["problem"] for one in found["unreadable"]}
    assert problems["toys/notes.h5"].startswith("not an HDF5 file")
    assert "truncated" in problems["toys/cut.h5"]
    assert problems["toys/pipe.h5"] == "not a regular file"
    assert len(found["stores"]) == 1


def test_unfinished_work_is_listed(place, capsys):
    shard = write_work("features", A)
    Path("features/.tmp-1-000000aaaaaaaaaa.h5").touch()
    os.utime("features/.tmp-1-000000aaaaaaaaaa.h5", (0, 0))
    Path("features/toys/alpha-32px.shards-0123456789abcdef").mkdir(parents=True)
    (Path("features/toys/alpha-32px.shards-0123456789abcdef") / shard.name).write_bytes(
        shard.read_bytes()
    )
    assert run() == 0
    text = " ".join(capsys.readouterr().out.split())
    assert f".work/{KEY_A[:12]} unfinished work: 1 shard" in text
    assert "toys/alpha-32px.shards-0123456789abcdef shards without their store" in text
    assert ".tmp-1-000000aaaaaaaaaa.h5 temporary, of a process that has ended" in text


@pytest.mark.parametrize(
    "name",
    ["{stem}", "{stem}.h5", "toys/{stem}", "{path}", "{key8}", "{key}", "*alpha*", "toys/*alpha*"],
)
def test_a_name_removes_that_store_and_nothing_else(place, capsys, name):
    path = write_store("features", A)
    write_store("features", B)
    Path("features/toys/notes.txt").write_text("mine")
    before = files(".")
    name = name.format(stem=path.stem, path=path, key8=KEY_A[:8], key=KEY_A)
    assert run("remove", name, "--yes") == 0
    out = capsys.readouterr()
    assert out.out.splitlines() == [str(path)]
    assert "removed 1 store" in out.err
    assert before - files(".") == {str(path)}


def test_a_virtual_store_goes_with_its_shards(place, capsys):
    path = write_store("features", A, virtual=True)
    other = write_store("features", B, virtual=True)
    mine = path.with_name(f"{path.stem}.shards-mine")
    mine.mkdir()
    assert run("remove", path.name, "--yes") == 0
    assert f"with its shards in {path.stem}.shards-" in capsys.readouterr().err
    assert list(path.parent.glob(f"{path.stem}*")) == [mine]
    assert len(open_features(other).train.labels) == 6


def test_what_is_lost_is_said_and_asked_about(place, capsys, monkeypatch):
    path = write_store("features", A, provenance={"seconds": 7300.0})
    write_run("reports", KEY_A)
    assert run("remove", path.stem, answer="\n", monkeypatch=monkeypatch) == 0
    text = capsys.readouterr().err
    assert "1 run was made of it: reports stay, and heads predict as before" in text
    assert "which took 2 hours to make" in text and "[y/N]" in text
    assert "nothing was removed" in text and path.exists()
    assert run("remove", path.stem, answer="y\n", monkeypatch=monkeypatch) == 0
    assert not path.exists() and Path("reports/store/run/results.json").exists()


def test_without_a_terminal_yes_has_to_be_said(place, capsys, monkeypatch):
    path = write_store("features", A)
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    assert run("remove", path.stem) == 2
    assert "--yes was not given; nothing was removed" in capsys.readouterr().err
    assert path.exists()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gamma", "fits no store below features: icebox cache lists"),
        ("alpa-32px", "did you mean"),
        ("alpha", "its name is part of toys/alpha-32px-"),
        ("*gamma*", "fits no store"),
        ("", "'' fits no store"),
        (".", "fits no store"),
        ("features", "fits no store"),
        ("features/toys", "is a folder that is neither a store nor left"),
        ("features/toys/notes.txt", "is a file that is neither a store nor left"),
        ("toys/notes.txt", "is a file that is neither a store nor left"),
        ("other/mine.h5", "lies outside features, the only folder"),
        ("/usr/bin", "lies outside features"),
        (KEY_A[:3], "fits no store"),
        ("shared.h5", "fits 2: "),
    ],
)
def test_names_that_mean_nothing_or_several_remove_nothing(place, capsys, name, message):
    one = write_store("features", A)
    for folder in ("features/more", "features/most", "other"):
        Path(folder).mkdir()
    for file in ("features/more/shared.h5", "features/most/shared.h5", "other/mine.h5"):
        Path(file).write_bytes(one.read_bytes())
    Path("features/toys/notes.txt").write_text("mine")
    before = files(".") - files("home")
    assert run("remove", one.stem, name, "--yes") == 2
    error = capsys.readouterr().err
    assert message in error and len(error.splitlines()) <= 2
    assert before <= files(".")


def test_no_pattern_removes_what_cannot_be_read(place, capsys):
    path = write_store("features", A)
    broken = Path("features/toys/beta-32px-00000000.h5")
    broken.write_bytes(path.read_bytes()[:500])
    assert run("remove", "*32px*", "--yes") == 0
    assert f"left out of *32px*: toys/{broken.name}" in capsys.readouterr().err
    assert broken.exists() and not path.exists()
    assert run("remove", "*32px*", "--yes") == 2
    assert broken.exists()
    assert run("remove", broken.stem, "--yes") == 0
    assert not broken.exists()


def test_a_link_is_refused(place, capsys):
    outside = write_store("elsewhere", A)
    Path("features/toys").mkdir(parents=True)
    Path("features/toys/linked.h5").symlink_to(outside.absolute())
    Path("features/linked").symlink_to(outside.parent.absolute())
    for name, message in (
        ("toys/linked.h5", f"is a link to {outside.absolute()}"),
        (f"linked/{outside.name}", "outside features: a link leads there"),
    ):
        assert run("remove", name, "--yes") == 2
        assert message in capsys.readouterr().err
    assert outside.exists() and Path("features/toys/linked.h5").is_symlink()


def test_features_behind_a_link_are_removed(place):
    path = write_store("disk", A)
    Path("features").symlink_to("disk")
    assert run("remove", path.stem, "--yes") == 0
    assert not path.exists() and Path("features").is_symlink()


def test_work_is_removed_by_its_key_and_what_a_store_shares_with_it_is_asked_about(place, capsys):
    write_work("features", A)
    Path(f"features/.work/{KEY_A}.forced").touch()
    path = write_store("features", A)
    assert run("remove", KEY_A[:8], "--yes") == 2
    assert "fits 2: .work/" in capsys.readouterr().err
    assert run("remove", f".work/{KEY_A[:8]}", "--yes") == 0
    assert list(Path("features/.work").iterdir()) == [] and path.exists()


def test_what_is_being_computed_is_refused(place, capsys):
    path = write_store("features", A)
    work = write_work("features", A)
    code = textwrap.dedent(f"""
        import sys
        from data.common.files import lock
        with lock({os.fspath(work.parent.with_suffix(".lock"))!r}):
            print("held", flush=True)
            sys.stdin.read()
    """)
    held = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert held.stdout.readline() == "held\n"
    try:
        for name in (path.stem, f".work/{KEY_A[:8]}"):
            assert run("remove", name, "--yes") == 2
            assert "another process is computing it" in capsys.readouterr().err
        assert run() == 0
        assert "unfinished work, in use now" in " ".join(capsys.readouterr().out.split())
        assert path.exists() and work.exists()
    finally:
        held.communicate("")
    assert run("remove", path.stem, f".work/{KEY_A[:8]}", "--yes") == 0
    assert not path.exists() and not work.exists()


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs Linux")
@pytest.mark.parametrize("virtual", [False, True])
def test_what_is_being_read_is_refused(place, capsys, virtual):
    path = write_store("features", A, virtual=virtual)
    read = next(path.parent.glob("*.shards-*/*")) if virtual else path
    code = (
        f"import sys; file = open({os.fspath(read)!r}); print('open', flush=True); sys.stdin.read()"
    )
    reader = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert reader.stdout.readline() == "open\n"
    try:
        assert run("remove", path.stem, "--yes") == 2
        assert f"is being read by process {reader.pid}" in capsys.readouterr().err
        assert path.exists() and read.exists()
    finally:
        reader.communicate("")


@pytest.mark.parametrize("at", [1, 2])
@pytest.mark.parametrize("error", [OSError(1, "Operation not permitted"), KeyboardInterrupt()])
def test_a_removal_that_fails_leaves_everything(place, capsys, monkeypatch, at, error):
    from icebox.removal import removing

    path = write_store("features", A, virtual=True)
    before, calls, rename = files("features"), [], os.rename

    def failing(old, new):
        calls.append(old)
        if len(calls) == at:
            raise error
        rename(old, new)

    monkeypatch.setattr(removing.os, "rename", failing)
    code = run("remove", path.stem, "--yes")
    assert code == (2 if isinstance(error, OSError) else 130)
    assert "removed so far: 0 of 1" in capsys.readouterr().err
    assert files("features") == before
    assert len(open_features(path).train.labels) == 6


@pytest.mark.parametrize("at", ["rename", "rmtree"])
def test_a_killed_removal_leaves_no_half_store(place, at):
    """Killed after the first step: no file is left under its name that others it needs are not."""
    path = write_store("features", A, virtual=True)
    code = textwrap.dedent(f"""
        import os, shutil
        from icebox.removal import removing
        kind = {at!r}
        if kind == "rename":
            rename, calls = os.rename, []
            def stop(old, new):
                if calls: os._exit(9)
                calls.append(1)
                rename(old, new)
            removing.os.rename = stop
        else:
            removing.shutil.rmtree = lambda *a, **k: os._exit(9)
        from icebox.__main__ import main
        main(["cache", "remove", {path.stem!r}, "--yes"])
    """)
    root = str(Path(cli.__file__).parents[2])
    done = subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": root})
    assert done.returncode == 9
    assert not path.exists()
    # What is left is listed, and goes by its name.
    left = [one.name for one in path.parent.iterdir()]
    assert left
    shards = [name for name in left if ".shards-" in name]
    if shards:
        assert run("remove", shards[0], "--yes") == 0
    write_store("features", A)  # removes what a killed process has left
    assert [one.name for one in path.parent.iterdir()] == [path.name]


def test_a_lock_that_is_left_does_not_keep_from_removing(place):
    path = write_store("features", A)
    write_work("features", A)
    with lock(Path("features/.work") / f"{KEY_A}.lock"):
        pass
    Path(f"features/.work/{KEY_A}.lock").touch()  # of a killed process
    assert run("remove", path.stem, "--yes") == 0
    assert not path.exists()


def test_names_are_completed(place):
    names = [write_store("features", spec).stem for spec in (A, B)]
    options = Namespace(action="remove", features_dir=Path("features"))
    assert store_names("", options) == names
    assert store_names("be", options) == names[1:]
    assert store_names("toys/al", options) == [f"toys/{names[0]}"]
    assert store_names("", Namespace(action="remove", features_dir=Path("none"))) == []
    assert store_names("", Namespace(action="list", features_dir=Path("features"))) == []


def test_names_cannot_steer_the_terminal(place, capsys):
    path = write_store("features", A)
    path.rename(path.with_name("\x1b[31mred.h5"))
    assert run() == 0
    assert "\x1b" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--features-dir", "none"), "--features-dir none does not exist"),
        (("--features-dir", "file"), "cannot be listed"),
        (("remove",), "a name is missing"),
        (("list", "x"), "takes no names"),
        (("delete", "x"), "invalid choice: 'delete'"),
        (("--sort", "colour"), "--sort"),
    ],
)
def test_bad_input_is_one_message(place, capsys, words, message):
    Path("features").mkdir()
    Path("file").touch()
    assert run(*words) == 2
    assert message in capsys.readouterr().err


def test_a_folder_that_cannot_be_listed_hides_no_other(place, capsys, monkeypatch):
    write_store("features", A)
    Path("features/secret").mkdir()
    real = os.scandir

    def scandir(path):
        if os.fspath(path).endswith("secret"):
            raise PermissionError(13, "Permission denied", path)
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert run() == 0
    out = capsys.readouterr().out
    assert "1 store in features" in out
    assert "features/secret cannot be listed: Permission denied" in out


def test_a_path_by_way_of_a_link_is_the_same_store(place):
    path = write_store("disk/features", A)
    Path("short").symlink_to("disk")
    assert run("remove", f"short/features/toys/{path.name}", "--features-dir", "disk/features",
               "--yes") == 0  # fmt: skip
    assert not path.exists()


def test_runs_that_cannot_be_read_are_said(place, capsys):
    write_store("features", A)
    write_run("reports", KEY_A)
    Path("reports/bad").mkdir()
    Path("reports/bad/results.json").write_text("{")
    assert run() == 0
    out = capsys.readouterr().out
    assert "1 run" in out and "what was made of it is not known: reports/bad" in out
