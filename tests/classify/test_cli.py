import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from figures import leave_figures_empty_in_processes

from classify.__main__ import main
from classify.fit import fit_store as run_module
from classify.heads.registry import DEFAULT, HEADS, is_solved
from classify.report.runs import read_results
from classify.saved.reading import load_head
from classify.solver.strategies import STRATEGIES
from data.common.cli import run

DESIGN = {
    "store": {"path", "key", "spec", "provenance"},
    "strategy": {
        "C", "n_problems", "fit_seconds", "n_iter", "converged", "certificate", "validation",
        "test",
    },
    "certificate": {"grad_norm", "objective", "gap_bound"},
    "validation": {"C", "accuracy", "log_loss"},
    "test": {
        "n", "accuracy", "accuracy_ci95", "balanced_accuracy", "macro_f1", "log_loss", "brier",
        "ece", "top2_accuracy", "per_class", "confusion_matrix",
    },
    "per_class": {"precision", "recall", "f1", "support"},
    "comparison": {
        "a", "b", "accuracy_difference", "difference_ci95", "mcnemar_p", "mcnemar_p_holm",
        "only_a_right", "only_b_right", "agreement", "verdict",
    },
}  # fmt: skip


def fit(store, reports, *options):
    return run(main, ["fit", str(store), "--reports-dir", str(reports), "--jobs", "1", *options])


def test_results_json_has_every_key_of_the_design(fitted_run):
    folder, store = fitted_run
    results = json.loads((folder / "results.json").read_text("utf-8"))
    assert results["schema_version"] == 1
    assert {"seed", "strategies", "comparisons", "timings"} <= set(results)
    assert DESIGN["store"] <= set(results["store"])
    assert results["store"]["path"] == str(store)
    assert list(results["strategies"]) == ["multinomial", "ovr", "ovo"]
    for entry in results["strategies"].values():
        assert DESIGN["strategy"] <= set(entry)
        assert DESIGN["certificate"] <= set(entry["certificate"])
        assert entry["converged"] is True
        visited = [step["C"] for step in entry["validation"]]
        assert visited + entry["validation_not_visited"] == [0.01, 0.1, 1.0, 10.0]
        assert entry["C"] in visited
        assert all(DESIGN["validation"] <= set(step) for step in entry["validation"])
        assert DESIGN["test"] <= set(entry["test"])
        assert list(entry["test"]["per_class"]) == ["ant", "bee", "cat"]
        assert all(DESIGN["per_class"] == set(m) for m in entry["test"]["per_class"].values())
        low, high = entry["test"]["accuracy_ci95"]
        assert low <= entry["test"]["accuracy"] <= high
    assert [(c["a"], c["b"]) for c in results["comparisons"]] == [
        ("ovr", "ovo"), ("multinomial", "ovr"), ("multinomial", "ovo"),
    ]  # fmt: skip
    assert all(DESIGN["comparison"] <= set(c) for c in results["comparisons"])
    for step in ("load", "select", "fit", "evaluate", "report", "total", "peak_memory_mb"):
        assert step in results["timings"]
    assert read_results(folder / "results.json") == results


def test_a_run_leaves_what_the_design_says(fitted_run):
    folder, _ = fitted_run
    assert re.fullmatch(r"\d{8}-\d{6}(-\d+)?", folder.name)
    assert sorted(p.name for p in folder.iterdir()) == [
        "figures", "heads", "metrics.csv", "predictions.npz", "report.html", "report.md",
        "results.json",
    ]  # fmt: skip
    assert sorted(p.name for p in (folder / "heads").iterdir()) == [
        "multinomial.safetensors", "ovo.safetensors", "ovr.safetensors",
    ]  # fmt: skip


def test_predictions_agree_with_results_and_hold_no_pickle(fitted_run):
    folder, _ = fitted_run
    results = read_results(folder / "results.json")
    with np.load(folder / "predictions.npz", allow_pickle=False) as stored:
        arrays = dict(stored)
    assert arrays["ids"].dtype.kind == "U"
    assert arrays["ids"][0] == "test:0"
    assert arrays["class_names"].tolist() == results["class_names"]
    for name, entry in results["strategies"].items():
        right = arrays[f"{name}_predictions"] == arrays["labels"]
        assert right.mean() == pytest.approx(entry["test"]["accuracy"])
        assert arrays[f"{name}_probabilities"].sum(axis=1) == pytest.approx(1, abs=1e-5)
        answered = arrays[f"{name}_scores"].argmax(axis=1)
        np.testing.assert_array_equal(answered, arrays[f"{name}_predictions"])


def test_the_same_seed_gives_the_same_results(tmp_path, make_store, capsys):
    store = make_store(tmp_path / "s.h5", n=90)
    outcomes = []
    for _ in range(2):
        assert fit(store, tmp_path / "reports", "--c-grid", "0.1,1", "--seed", "3") == 0
        page = capsys.readouterr().out.strip()
        results = json.loads((tmp_path / page).with_name("results.json").read_text("utf-8"))
        results.pop("timings")
        assert results["settings"]["memory"] is None  # half of what is free, which differs
        for entry in results["strategies"].values():
            del entry["fit_seconds"], entry["predict_seconds"]
        outcomes.append(results)
    assert outcomes[0] == outcomes[1]
    assert len(list((tmp_path / "reports" / "cifar10-s").iterdir())) == 2


def test_what_is_printed_where(tmp_path, make_store, capsys):
    store = make_store(tmp_path / "s.h5", n=60)
    options = ["--strategy", "ovo", "--strategy", "ovr", "--strategy", "ovo", "--c", "0.5"]
    assert fit(store, tmp_path / "reports", *options) == 0
    out, err = capsys.readouterr()
    (path,) = out.splitlines()
    assert path.endswith("report.html")
    assert os.path.exists(path)
    assert "\x1b[1m" not in err
    lines = err.strip().splitlines()
    assert re.search(r"OvR and OvO|than OvR|than OvO", lines[-1])
    results = read_results(Path(path).with_name("results.json"))
    assert list(results["strategies"]) == ["ovo", "ovr"]
    assert (results["comparisons"][0]["a"], results["comparisons"][0]["b"]) == ("ovr", "ovo")
    assert all(e["C"] == 0.5 and e["validation"] == [] for e in results["strategies"].values())
    assert results["settings"]["c"] == 0.5
    assert "--c 0.5" in results["command"]


def test_several_stores(tmp_path, make_store, capsys):
    stores = [make_store(tmp_path / f"s{i}.h5", n=60, seed=i, model=f"m{i}") for i in range(2)]
    options = ["--c", "1", str(stores[1]), "--strategy", "ovr"]
    assert fit(stores[0], tmp_path / "reports", *options) == 0
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 2
    assert "nothing to compare" in err


def test_two_classes_half_precision_and_absent_classes(tmp_path, make_store, capsys):
    two = make_store(tmp_path / "two.h5", names=("no", "yes"), n=60, dtype="float16")
    assert fit(two, tmp_path / "reports", "--c", "1") == 0
    absent = make_store(
        tmp_path / "absent.h5",
        names=("a", "b", "never trained", "never tested"),
        labels_train=[0, 1, 3] * 20,
        labels_test=[0, 1, 2] * 8,
        provenance={"skipped_images": ["x.png"]},
    )
    capsys.readouterr()
    assert fit(absent, tmp_path / "reports", "--c", "auto", "--c-grid", "0.1,1") == 0
    out, err = capsys.readouterr()
    assert "No training image has the class never trained" in err
    assert "No test image has the class never tested" in err
    assert "left out 1 images" in err
    folder = Path(out.strip()).parent
    results = read_results(folder / "results.json")
    for entry in results["strategies"].values():
        assert entry["test"]["per_class"]["never trained"]["recall"] == 0
        assert len(entry["test"]["confusion_matrix"]) == 4
    head = load_head(folder / "heads" / "ovo.safetensors")
    assert head.class_names == ("a", "b", "never tested")


def test_an_unconverged_fit_is_marked(tmp_path, make_store, capsys):
    store = make_store(tmp_path / "s.h5", n=120)
    assert fit(store, tmp_path / "reports", "--c", "100", "--max-iter", "1") == 0
    out, err = capsys.readouterr()
    assert "did not converge" in err
    assert "--max-iter" in err
    assert "No verdict on OvR against OvO" in err.strip().splitlines()[-1]
    html = Path(out.strip()).read_text("utf-8")
    assert "not converged: no verdict" in html


def test_c_at_the_end_of_its_grid_is_said(tmp_path, make_store, capsys):
    store = make_store(tmp_path / "s.h5", n=120)
    options = ["--c-grid", "1e-9,1e-8", "--full-path", "--strategy", "ovr"]
    assert fit(store, tmp_path / "reports", *options) == 0
    assert "of those tried" in capsys.readouterr().err


CASES = [
    (["--strategy", "ovx"], "did you mean ovr, ovo"),
    (["--strategy", "softmax"], "must be one of multinomial, ovr, ovo"),
    (["--c", "0"], "--c is '0', expected auto or a positive number"),
    (["--c", "-1"], "--c is '-1'"),
    (["--c", "nan"], "--c is 'nan'"),
    (["--c", "inf"], "--c is 'inf'"),
    (["--c", "big"], "--c is 'big'"),
    (["--c-grid", "0.1,0"], "--c-grid is '0'"),
    (["--c-grid", ""], "--c-grid is ''"),
    (["--c", "1", "--c-grid", "1,2"], "--c-grid is for --c auto"),
    (["--c", "1", "--full-path"], "--full-path is for --c auto"),
    (["--device", "gpu"], "invalid choice: 'gpu'"),
    (["--jobs", "0"], "--jobs is '0'"),
    (["--seed", "-1"], "--seed is '-1'"),
    (["--max-iter", "many"], "--max-iter is 'many'"),
    (["--memory", "0"], "--memory is '0', expected a size above 0, such as 2GB"),
    (["--memory", "-1GB"], "--memory"),
    (["--memory", "nan"], "--memory is 'nan'"),
    (["--memory", "inf"], "--memory is 'inf'"),
    (["--memory", "much"], "--memory is 'much'"),
    (["--memory", "2 bananas"], "--memory is '2 bananas'"),
    (["--memory", ""], "--memory is ''"),
    (["--stratgy", "ovr"], "did you mean --strategy?"),
]


@pytest.fixture(scope="module")
def small_store(tmp_path_factory, make_store):
    return make_store(tmp_path_factory.mktemp("small") / "s.h5", n=30)


@pytest.mark.parametrize(("options", "told"), CASES)
def test_bad_options(tmp_path, small_store, capsys, options, told):
    assert fit(small_store, tmp_path / "reports", *options) == 2
    out, err = capsys.readouterr()
    assert told in err
    assert "Traceback" not in err
    assert len(err.splitlines()) <= 5
    assert out == ""
    assert not (tmp_path / "reports").exists()


def test_bad_stores(tmp_path, make_store, capsys):
    good = make_store(tmp_path / "good.h5", n=30)
    text = tmp_path / "text.h5"
    text.write_text("no")
    truncated = tmp_path / "truncated.h5"
    truncated.write_bytes(good.read_bytes()[:-200])
    flipped = tmp_path / "flipped.h5"
    content = bytearray(good.read_bytes())
    content[len(content) // 2] ^= 1
    flipped.write_bytes(content)
    single = make_store(tmp_path / "single.h5", labels_train=[1] * 20, labels_test=[1] * 5)
    for path, told in [
        (tmp_path / "none.h5", "does not exist"),
        (text, "not an HDF5 file"),
        (truncated, "truncated"),
        (flipped, "damaged"),
        (single, "hold 1 class of 3"),
    ]:
        assert fit(path, tmp_path / "reports", "--c", "1") == 2
        out, err = capsys.readouterr()
        assert told in err, err
        assert str(path) in err
        assert len(err.splitlines()) <= 5
        assert out == ""
    assert not list((tmp_path / "reports").glob("*"))


def test_a_bad_second_store_is_found_before_the_first_fit(tmp_path, small_store, capsys):
    assert fit(small_store, tmp_path / "reports", str(tmp_path / "none.h5"), "--c", "1") == 2
    assert not (tmp_path / "reports").exists()


def test_one_row_per_class_leaves_nothing_to_choose_c_on(tmp_path, make_store, capsys):
    store = make_store(tmp_path / "s.h5", labels_train=[0, 1, 2], labels_test=[0, 1, 2])
    assert fit(store, tmp_path / "reports") == 2
    assert "--c 1" in capsys.readouterr().err
    assert fit(store, tmp_path / "reports", "--c", "1") == 0


def test_unwritable_reports_folder_is_found_before_the_fits(
    tmp_path, small_store, capsys, monkeypatch
):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setattr(run_module, "_fit_all", lambda *_: pytest.fail("fits were started"))
    assert fit(small_store, tmp_path / "file" / "reports") == 2
    err = capsys.readouterr().err
    assert "is not a folder" in err


@pytest.mark.parametrize(
    "target",
    ["classify.analysis.significance.compare_strategies", "classify.fit.output.write_report"],
)
def test_an_interrupted_fit_leaves_nothing(tmp_path, small_store, capsys, monkeypatch, target):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(target, interrupted)
    assert fit(small_store, tmp_path / "reports", "--c", "1") == 130
    out, err = capsys.readouterr()
    assert "nothing was written" in err
    assert out == ""
    assert list((tmp_path / "reports").iterdir()) == []


def test_a_failure_while_writing_leaves_nothing_and_earlier_runs_alone(
    tmp_path, small_store, capsys, monkeypatch
):
    assert fit(small_store, tmp_path / "reports", "--c", "1", "--strategy", "ovr") == 0
    before = sorted(p.name for p in (tmp_path / "reports" / "cifar10-s").iterdir())

    def full(*_):
        raise OSError(28, "No space left on device", "results.json")

    monkeypatch.setattr("classify.fit.output.write_json", full)
    assert fit(small_store, tmp_path / "reports", "--c", "1") == 2
    assert "the disk is full: it needs" in capsys.readouterr().err
    assert sorted(p.name for p in (tmp_path / "reports" / "cifar10-s").iterdir()) == before


@pytest.mark.figures
def test_report_is_drawn_again(fitted_run, tmp_path, capsys):
    folder, _ = fitted_run
    copy = tmp_path / "run"
    copy.mkdir()
    shutil.copy(folder / "results.json", copy)
    assert run(main, ["report", str(copy)]) == 0
    assert capsys.readouterr().out.strip() == str(copy / "report.html")
    assert (copy / "figures" / "accuracy.svg").read_bytes() == (
        folder / "figures" / "accuracy.svg"
    ).read_bytes()
    assert run(main, ["report", str(tmp_path)]) == 2


def test_the_names_of_strategies_are_those_of_the_solver():
    assert {name for name in HEADS if is_solved(name)} == set(STRATEGIES)
    assert all(is_solved(name) for name in DEFAULT)


def test_no_arguments_and_unknown_commands(capsys):
    assert run(main, []) == 2
    assert run(main, ["fti"]) == 2
    assert "did you mean fit?" in capsys.readouterr().err


def test_help_and_bad_options_import_nothing_heavy():
    code = (
        "import sys; from classify.__main__ import main; from data.common.cli import run\n"
        "code = run(main, ['fit', 'x.h5', '--c', '0'])\n"
        "heavy = {'torch', 'sklearn', 'scipy', 'matplotlib', 'jinja2', 'numpy', 'h5py'}\n"
        "print(code, sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "2 []"


def test_a_fit_never_imports_torch_or_stage_one(tmp_path, small_store, monkeypatch):
    leave_figures_empty_in_processes(monkeypatch, tmp_path / "site")
    code = (
        "import sys; from classify.__main__ import main\n"
        f"main(['fit', {str(small_store)!r}, '--c', '1', '--reports-dir', {str(tmp_path)!r},"
        " '--jobs', '1'])\n"
        "print(sorted({'torch', 'timm', 'extract'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().splitlines()[-1] == "[]"
