"""Exit codes and messages that both command lines share."""

import errno
import subprocess
import sys

import pytest

from data.common import cli
from data.common.errors import UserError, nearest


def raising(error):
    def main(argv):
        raise error

    return main


def test_success_is_zero():
    assert cli.run(lambda argv: None, []) == 0


def test_user_error_is_two_with_one_message_and_no_traceback(capsys):
    assert cli.run(raising(UserError("features/x.h5: is not HDF5")), []) == 2
    out, err = capsys.readouterr()
    assert err == "error: features/x.h5: is not HDF5\n"
    assert out == ""


@pytest.mark.parametrize("advice", ["", "12 shards are kept"])
def test_interrupt_is_130_and_says_how_to_go_on(capsys, advice):
    assert cli.run(raising(KeyboardInterrupt(*([advice] if advice else []))), []) == 130
    err = capsys.readouterr().err
    assert (advice or "run the same command again") in err
    assert "Traceback" not in err


def test_a_full_disk_is_the_users_to_mend(capsys):
    error = OSError(errno.ENOSPC, "No space left on device", "features/x.h5")
    assert cli.run(raising(error), []) == 2
    assert "features/x.h5" in capsys.readouterr().err


def test_a_file_that_may_not_be_read_is_named(capsys):
    error = PermissionError(errno.EACCES, "Permission denied", "weights.safetensors")
    assert cli.run(raising(error), []) == 2
    assert "weights.safetensors: Permission denied" in capsys.readouterr().err


def test_a_bug_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        cli.run(raising(ZeroDivisionError()), [])
    with pytest.raises(OSError):
        cli.run(raising(OSError(errno.EIO, "Input/output error")), [])


def parser():
    made = cli.Parser(prog="icebox")
    made.add_argument("--model")
    made.add_argument("--pool", choices=["default", "avg", "token"])
    return made


def test_an_unknown_option_gets_the_nearest_one():
    with pytest.raises(UserError, match=r"--modle.*\n.*did you mean --model"):
        parser().parse_args(["--modle", "x"])


def test_an_unknown_choice_gets_the_nearest_one():
    with pytest.raises(UserError, match=r"--pool.*tokn.*\n.*did you mean token"):
        parser().parse_args(["--pool", "tokn"])


def test_options_are_not_abbreviated():
    with pytest.raises(UserError, match="--mod"):
        parser().parse_args(["--mod", "x"])


def test_nearest_names():
    names = ["resnet18", "resnet50", "vit_small"]
    assert nearest("resnet51", names).startswith("did you mean resnet50")
    assert nearest("RESNET50", names).startswith("did you mean resnet50")
    assert nearest("zzzzqqq", names) == ""


def test_a_reader_that_leaves_early_is_no_error():
    code = (
        "import sys; from data.common import cli\n"
        "def main(argv):\n"
        "    for i in range(200000): print(i)\n"
        "sys.exit(cli.run(main, []))"
    )
    writer = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    writer.stdout.read(100)
    writer.stdout.close()
    err = writer.stderr.read()
    assert writer.wait(timeout=60) == 0
    assert err == b""
