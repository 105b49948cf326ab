"""results.json of every version that was ever written is shown by every later Icebox."""

import hashlib
import shutil
from pathlib import Path

from classify.report.comparison import compare
from classify.report.run_report import write_report
from classify.report.runs import read_results

HERE = Path(__file__).parent
# From before fits carried their status and results the score of the most frequent class.
FROZEN = "7eae394b7f194c8556c93b28f1323003ac99c40330395c49d04ce3919144aaf8"


def test_the_frozen_file_was_not_made_anew():
    assert (
        hashlib.sha256((HERE / "results-1-without-statuses.json").read_bytes()).hexdigest()
        == FROZEN
    )


def test_older_results_are_read_shown_and_compared(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    shutil.copy(HERE / "results-1-without-statuses.json", folder / "results.json")
    results = read_results(folder / "results.json")
    assert "majority" not in results
    for document in (write_report(folder), folder / "report.md"):
        text = document.read_text("utf-8")
        assert "96.06" in text
        assert "multinomial 100, OvR 100, OvO 100" in text
        # What is not known is not claimed.
        assert "not converged" not in text
        assert "most frequent class" not in text
        assert "never answered" not in text
    _, comparison, board = compare([folder], tmp_path)
    assert {row["majority_accuracy"] for row in comparison["leaderboard"]} == {None}
    assert "96.06" in board
