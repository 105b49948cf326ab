"""Options that a head does not have are not passed over in silence."""

import pytest

from classify.__main__ import main
from classify.heads.registry import DEFAULT, HEADS, check_solver_options, is_solved
from data.common.cli import run
from data.common.errors import UserError

OTHERS = [name for name in HEADS if not is_solved(name)]


@pytest.mark.parametrize("option", ["--c=1", "--c-grid=1,2", "--full-path", "--max-iter=9",
                                    "--no-intercept"])  # fmt: skip
@pytest.mark.parametrize("head", OTHERS)
def test_an_option_of_the_solver_alone_is_refused(head, option, capsys):
    assert run(main, ["fit", "no-such-store.h5", "--head", head, option]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: {option.split('=')[0]}: only heads of the solver have that")
    assert head in said and "multinomial" in said


def test_beside_heads_of_the_solver_it_is_said():
    assert check_solver_options(["--c"], DEFAULT) == ""
    assert check_solver_options([], OTHERS) == ""
    note = check_solver_options(["--c", "--no-intercept"], ["ovr", *OTHERS[:2]])
    assert note == f"no effect on {OTHERS[0]}, {OTHERS[1]}: --c and --no-intercept"
    with pytest.raises(UserError, match="leave it out"):
        check_solver_options(["--c"], OTHERS)
