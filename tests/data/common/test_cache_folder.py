"""Where caches go when there is no home folder, or none that can be written."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from data.common import cache_folder as module
from data.common.cache_folder import cache_folder, expand_user, use_cache_folder
from data.common.errors import UserError

VARIABLES = (*module._LIBRARIES, "HOME", "LOGNAME", "USER", "LNAME", "USERNAME")


@pytest.fixture
def homeless(monkeypatch):
    """No HOME, and a user id that the password database does not know."""
    pwd = pytest.importorskip("pwd")

    def unknown(_):
        raise KeyError("getpwuid(): uid not found: 54321")

    for name in VARIABLES:
        # Set and deleted, so that what the code sets is put back, too.
        monkeypatch.setenv(name, "x")
        monkeypatch.delenv(name)
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    with pytest.raises(RuntimeError):
        Path.home()


def test_the_users_own_cache_comes_first(tmp_path, monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder(tmp_path / "features") == tmp_path / ".cache"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other"))
    assert cache_folder(tmp_path / "features") == tmp_path / "other"


def test_without_a_home_it_is_the_features_folder(tmp_path, homeless, monkeypatch):
    assert cache_folder(tmp_path / "features") == tmp_path / "features" / ".cache"
    monkeypatch.chdir(tmp_path)
    assert cache_folder(Path("features")) == tmp_path / "features" / ".cache"


@pytest.mark.parametrize("home", ["/dev/null", "/dev/null/none", "/proc/none"])
def test_a_home_that_cannot_be_written(tmp_path, monkeypatch, home):
    if home.startswith("/proc") and (os.name != "posix" or os.access("/proc", os.W_OK)):
        pytest.skip("this user may write anywhere")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", home)
    assert cache_folder(tmp_path) == tmp_path / ".cache"


def test_without_either_it_is_a_folder_of_the_user_alone(tmp_path, homeless, monkeypatch):
    monkeypatch.setattr(module.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(module.tempfile, "tempdir", str(tmp_path))
    for features in (None, Path("/dev/null/features")):
        found = cache_folder(features)
        assert found.parent == tmp_path
        assert found.stat().st_mode & 0o777 == 0o700
        assert cache_folder(features) == found
    found.chmod(0o777)  # anyone may put files there
    assert cache_folder() != found
    found.rmdir()
    found.symlink_to(tmp_path)
    assert cache_folder() != found


def test_libraries_are_shown_the_way(tmp_path, homeless):
    import getpass

    os.environ["TRITON_CACHE_DIR"] = "/given"
    use_cache_folder(tmp_path)
    assert os.environ["XDG_CACHE_HOME"] == str(tmp_path / ".cache")
    assert os.environ["MPLCONFIGDIR"].startswith(str(tmp_path / ".cache"))
    assert os.environ["TRITON_CACHE_DIR"] == "/given"
    assert getpass.getuser().startswith("uid")
    assert cache_folder(tmp_path) == tmp_path / ".cache"


def test_who_has_a_home_is_left_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("LOGNAME", "somebody")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    before = dict(os.environ)
    use_cache_folder(tmp_path / "features")
    assert dict(os.environ) == before


def test_a_tilde_without_a_home(homeless):
    assert expand_user("a/b") == Path("a/b")
    with pytest.raises(UserError, match=r"~/x: there is no home folder.*give the path in full"):
        expand_user("~/x")
