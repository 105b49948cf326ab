import csv
import json
import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pytest

from classify.report.figures import classes as figures_classes
from classify.report.figures import style as figures
from classify.report.figures.course import spent
from classify.report.figures.pairs import pair_matrix
from classify.report.pages import (
    count,
    general,
    interval,
    markdown_text,
    number,
    percent,
    seconds,
    span,
)
from classify.report.run_report import extract_command, most_confused, write_report
from classify.report.runs import read_results
from classify.report.terminal import printable, results_table, table, width
from classify.results.file import json_ready
from classify.wording import decoding_sentence
from data.common.errors import UserError

HOSTILE = "<script>alert(1)</script>"


class Page(HTMLParser):
    """Collects what a test asks about."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.text = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += [(tag, *pair) for pair in attributes]

    def handle_data(self, data):
        self.text.append(data)


def rendered(tmp_path, results, name="run"):
    folder = tmp_path / name
    folder.mkdir()
    (folder / "results.json").write_text(json.dumps(results), encoding="utf-8")
    path = write_report(folder)
    return folder, path.read_text(encoding="utf-8"), (folder / "report.md").read_text("utf-8")


@pytest.fixture(scope="module")
def usual(tmp_path_factory, make_results):
    return rendered(tmp_path_factory.mktemp("report"), make_results()[0])


@pytest.mark.figures
def test_report_needs_results_json_alone_and_is_always_the_same(tmp_path, usual, results):
    first, html, markdown = usual
    assert sorted(p.name for p in first.iterdir()) == [
        "figures", "metrics.csv", "report.html", "report.md", "results.json",
    ]  # fmt: skip
    second, html_again, markdown_again = rendered(tmp_path, results, "again")
    assert html == html_again
    assert markdown == markdown_again
    drawn = sorted(p.name for p in (first / "figures").iterdir())
    assert drawn == [
        "accuracy.svg", "class-f1.svg", "confusion-difference.svg", "confusion-multinomial.svg",
        "confusion-ovo.svg", "confusion-ovr.svg", "course.svg", "decoding.svg", "lda.svg",
        "pairs.svg", "pca.svg", "reliability-multinomial.svg", "reliability-ovo.svg",
        "reliability-ovr.svg", "roc.svg", "time.svg", "validation.svg",
    ]  # fmt: skip
    for name in drawn:
        assert (first / "figures" / name).read_bytes() == (second / "figures" / name).read_bytes()
        assert f"figures/{name}" in markdown


@pytest.mark.figures
def test_the_page_fetches_nothing(usual):
    _, html, _ = usual
    page = Page(html)
    assert not {"script", "img", "iframe", "object", "base"} & set(page.tags)
    for tag, name, value in page.attributes:
        if name in ("src", "href", "xlink:href", "data", "action"):
            assert value.startswith(("#", "data:")), (tag, name, value)
        if name == "style":
            assert "url(" not in value.replace("url(#", "")
    assert "@import" not in html
    assert "default-src 'none'" in html


@pytest.mark.figures
def test_identifiers_are_unique_and_references_resolve(usual):
    _, html, _ = usual
    page = Page(html)
    ids = [value for _, name, value in page.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    wanted = {
        value[1:] for _, name, value in page.attributes if name.endswith("href") and value[0] == "#"
    }
    wanted |= set(re.findall(r"url\(#([^)]+)\)", html))
    wanted |= {value for _, name, value in page.attributes if name == "aria-labelledby"}
    assert wanted <= set(ids)


@pytest.mark.figures
def test_headings_tables_and_figures_are_accessible(usual):
    _, html, _ = usual
    page = Page(html)
    assert page.tags.count("h1") == 1
    assert page.tags.count("table") == page.tags.count("caption")
    assert page.tags.count("svg") == sum(
        1 for tag, name, value in page.attributes if (tag, name, value) == ("svg", "role", "img")
    )
    assert page.tags.count("th") == sum(
        1 for tag, name, _ in page.attributes if (tag, name) == ("th", "scope")
    )
    assert ("html", "lang", "en") in page.attributes


def test_every_number_of_the_table_is_shown(usual, results):
    _, html, markdown = usual
    for document in (html, markdown):
        for entry in results["strategies"].values():
            test = entry["test"]
            for shown in (
                percent(test["accuracy"]), span(test["accuracy_ci95"]), percent(test["macro_f1"]),
                number(test["log_loss"]), number(test["brier"]), percent(test["ece"]),
                percent(test["top2_accuracy"]), percent(test["balanced_accuracy"]),
                general(entry["C"]), seconds(entry["fit_seconds"]),
            ):  # fmt: skip
                assert shown in document
        for comparison in results["comparisons"]:
            assert interval(comparison["difference_ci95"]) in document
        question = results["comparisons"][0]
        for key in ("both_right", "only_a_right", "only_b_right", "both_wrong"):
            assert count(question[key]) in document
    assert results["verdict"].split(".")[0] in html


@pytest.mark.figures
def test_class_names_show_as_text(tmp_path, make_results):
    names = [HOSTILE, "a|b", "$\\foo$", "`c` *x* _y_", "q\"u&o'te", "猫\n犬", "dog"]
    hostile, _, _ = make_results(names=names, n=90)
    folder, html, markdown = rendered(tmp_path, hostile)
    assert "<script" not in html.lower()
    shown = "".join(Page(html).text)
    for name in names:
        assert name in shown
    assert HOSTILE not in markdown
    part = markdown[markdown.index("F1 of every class") : markdown.index("## What is taken")]
    rows = [line for line in part.splitlines() if line.startswith("|")]
    assert len(rows) == 2 + len(names)
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {7}
    for path in (folder / "figures").iterdir():
        ElementTree.parse(path)
        assert HOSTILE not in path.read_text("utf-8")


def test_random_weights_are_said_first(tmp_path, make_results, usual):
    random, _, _ = make_results(source="random")
    _, html, markdown = rendered(tmp_path, random)
    assert html.index("weights are random.") < html.index("The verdict")
    assert "make features" in html
    assert markdown.index("weights are random.") < markdown.index("## The verdict")
    assert "weights are random" not in usual[1]


def test_warnings_and_unconverged_fits_are_shown(tmp_path, results):
    results["warnings"] = ["The OvO fit did not converge."]
    results["comparisons"][0]["converged"] = False
    results["strategies"]["ovo"]["converged"] = False
    results["strategies"]["ovo"]["certificate"]["gap_bound"] = None
    _, html, markdown = rendered(tmp_path, results)
    for document in (html, markdown):
        assert "The OvO fit did not converge." in document
        assert "not converged: no verdict" in document


@pytest.mark.figures
def test_one_strategy_with_given_c_and_two_classes(tmp_path, make_results):
    single, _, _ = make_results(names=["no", "yes"], strategies=["ovr"], n=50)
    single["strategies"]["ovr"]["validation"] = []
    folder, html, markdown = rendered(tmp_path, single)
    assert "C was given: OvR 0.01" in html
    assert "nothing to compare" in markdown
    assert not (folder / "figures" / "validation.svg").exists()


@pytest.mark.figures
def test_results_of_before_these_parts_are_still_shown(tmp_path, results):
    for key in ("class_order", "decoding", "own_c", "views"):
        del results[key]
    for entry in results["strategies"].values():
        for key in ("calibration", "course", "pairs", "detection"):
            entry.pop(key, None)
    folder, html, markdown = rendered(tmp_path, results)
    for document in (html, markdown):
        assert "The verdict" in document
        assert "The embedding seen" not in document
        assert "Can the probabilities be believed" not in document
    assert not (folder / "figures" / "pairs.svg").exists()
    assert (folder / "metrics.csv").read_text().count("\n") == 4


def test_metrics_are_one_row_a_strategy(usual, results):
    with open(usual[0] / "metrics.csv", encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["strategy"] for row in rows] == list(results["strategies"])
    for row, entry in zip(rows, results["strategies"].values(), strict=True):
        assert float(row["accuracy"]) == entry["test"]["accuracy"]
        assert float(row["accuracy_low"]) == entry["test"]["accuracy_ci95"][0]
        assert float(row["calibrated_ece"]) == entry["calibration"]["after"]["ece"]
        assert float(row["gap_bound"]) == entry["certificate"]["gap_bound"]
        assert row["relative_gap"] == ""  # not known


def test_every_number_of_the_parts_is_shown(usual, results):
    _, html, markdown = usual
    strategies = results["strategies"]
    for document in (html, markdown):
        for entry in strategies.values():
            calibration = entry["calibration"]
            for side in ("before", "after"):
                assert percent(calibration[side]["ece"]) in document
                assert number(calibration[side]["log_loss"]) in document
        for pair in strategies["ovo"]["pairs"]["hardest"]:
            assert percent(pair["accuracy"]) in document
        for entry in strategies["ovr"]["detection"]["classes"]:
            assert percent(entry["auc"]) in document
            assert percent(entry["average_precision"]) in document
        for way in results["decoding"]:
            assert number(way["log_loss"]) in document
        for own in results["own_c"].values():
            assert percent(own["accuracy"]) in document


def test_decoding_in_words():
    share = {"accuracy": 0.9}
    results = {
        "strategies": {"ovr": {"test": {"accuracy": 0.88}}, "ovo": {"test": {"accuracy": 0.9}}},
        "decoding": [
            {"way": "votes", **share}, {"way": "coupling", "accuracy": 0.91},
            {"way": "summed margins", "accuracy": 0.85},
        ],
        "own_c": {"ovr": {"accuracy": 0.87}, "ovo": {"accuracy": 0.9}},
    }  # fmt: skip
    assert decoding_sentence(results) == (
        "The same OvO heads reach 91.00 % decoded by coupling, and 85.00 % by summed margins: "
        "decoding is worth up to 6.00 points. A C for each problem, in place of one for all, moves "
        "OvR by −1.00 and OvO by 0.00 points. For comparison: OvO is +2.00 points from OvR."
    )
    assert decoding_sentence({**results, "decoding": None}) == ""


def test_labels_of_a_slope_chart_keep_apart_and_in_order():
    values = np.array([80.0, 80.1, 95.0, 80.0, 79.9])
    moved = figures_classes._spread(values, 1.0)
    assert np.diff(np.sort(moved)).min() > 1.0 - 1e-9
    assert moved[2] == 95.0
    assert (np.argsort(moved, kind="stable") == np.argsort(values, kind="stable")).all()
    assert moved[[0, 1, 3, 4]].mean() == pytest.approx(values[[0, 1, 3, 4]].mean())


def test_cells_of_many_classes_stand_for_neighbours():
    values = np.arange(401 * 401).reshape(401, 401)
    cells = figures_classes.coarsened(values, np.sum)
    assert figures_classes.group_size(401) == 3
    assert cells.shape == (134, 134)
    assert cells.sum() == values.sum()
    assert cells[1, 2] == values[3:6, 6:9].sum()
    assert figures_classes.coarsened(values[:200, :200], np.sum) is not cells
    np.testing.assert_array_equal(
        figures_classes.coarsened(values[:200, :200], np.sum), values[:200, :200]
    )


def test_pairs_lie_below_the_diagonal_in_any_order():
    pairs = {"classes": [0, 2, 3], "accuracy": [[0.1, 0.2], [0.3]]}
    matrix = pair_matrix(pairs, [3, 0, 2])
    nan = np.nan
    np.testing.assert_array_equal(matrix, [[nan, nan, nan], [0.2, nan, nan], [0.3, 0.1, nan]])


def test_seconds_by_bar():
    timings = {"started": "x", "load": 1.0, "select": {"ovr": 2.0}, "fit": {"ovr": 3.0},
               "few_shot": 4.0, "memory": 10**9, "peak_memory_mb": 5.0, "total": 12.0}  # fmt: skip
    assert spent(timings) == [
        ("reading the store", [("reading the store", 1.0)]),
        ("OvR", [("choosing the setting", 2.0), ("fitting", 3.0)]),
        ("few-shot curves", [("few-shot curves", 4.0)]),
    ]


def test_strategies_that_answer_the_same_have_no_matrix_of_differences(tmp_path, results):
    results["strategies"]["ovo"]["test"] = results["strategies"]["ovr"]["test"]
    folder, html, markdown = rendered(tmp_path, results)
    assert not (folder / "figures" / "confusion-difference.svg").exists()
    for document in (html, markdown):
        assert "Their confusion matrices are the same." in document


@pytest.mark.figures
def test_many_classes(tmp_path, make_results):
    many, _, _ = make_results(names=[f"class {i}" for i in range(60)], n=900)
    _, html, _ = rendered(tmp_path, many)
    assert "no room for names and numbers" in html
    assert "of the 20 classes that differ most" in html
    assert 'src="' not in html


def test_most_confused_counts_by_hand():
    def entry(matrix):
        return {"test": {"confusion_matrix": matrix}}

    strategies = {
        "ovr": entry([[5, 2, 0], [1, 3, 0], [0, 0, 4]]),
        "ovo": entry([[6, 1, 0], [0, 1, 3], [0, 0, 4]]),
    }
    assert most_confused(strategies, ["a", "b", "c"]) == [
        {"truth": "a", "answer": "b", "support": 7, "counts": [2, 1]},
        {"truth": "b", "answer": "c", "support": 4, "counts": [0, 3]},
        {"truth": "b", "answer": "a", "support": 4, "counts": [1, 0]},
    ]
    assert len(most_confused(strategies, ["a", "b", "c"], n=1)) == 1


@pytest.mark.figures
def test_figures_are_standalone_svg_and_inline_svg(usual):
    drawn = sorted((usual[0] / "figures").iterdir())
    assert len(drawn) == 17
    for path in drawn:
        svg = path.read_text(encoding="utf-8")
        root = ElementTree.fromstring(svg)
        assert root.tag.endswith("svg")
        assert root.find("{http://www.w3.org/2000/svg}title").text
        assert "<style" not in svg
        inline = figures.inline(svg)
        assert inline.startswith("<svg ")
        assert "currentColor" in inline
        assert figures.INK not in inline
        assert figures.PAPER not in inline
        assert not re.match(r"<svg [^>]*\swidth=", inline), path.name


def test_long_names_keep_both_ends():
    assert figures.shorten("short") == "short"
    shortened = figures.shorten("a very long name of class 17", 12)
    assert len(shortened) == 12
    assert shortened.startswith("a very")
    assert shortened.endswith("17")


def test_extract_command_is_rebuilt_from_the_request():
    store = {
        "request": {
            "options": {
                "dataset": "cifar10", "data_url": None, "model": "mobilenetv2_100",
                "weights": "file", "model_args": {"pad_type": "same"}, "image_size": 128,
                "pool": "default", "mean": [0.5, 0.25, 0.5], "precision": "auto", "limit": None,
                "store_dtype": "float16",
            },
            "files": {
                "dataset": {"path": "my data/cifar-10-binary.tar.gz"},
                "weights": {"path": "w.safetensors"},
            },
        }
    }  # fmt: skip
    assert extract_command(store) == (
        "python -m extract --dataset=cifar10 '--data-dir=my data' --model=mobilenetv2_100 "
        "--weights=w.safetensors --model-arg=pad_type=same --image-size=128 --mean=0.5,0.25,0.5 "
        "--store-dtype=float16"
    )
    assert extract_command({}) == ""


DELETE = object()


@pytest.mark.parametrize(
    ("path", "value", "told"),
    [
        (("schema_version",), 2, "newer than 1"),
        (("schema_version",), DELETE, "no schema_version"),
        (("kind",), DELETE, "kind is missing"),
        (("strategies", "ovr", "test", "accuracy"), "high", "strategies.ovr.test.accuracy is text"),
        (
            ("strategies", "ovr", "converged"),
            1,
            "ovr.converged is a whole number, expected tr",
        ),
        (("strategies", "ovr", "n_iter"), True, "expected a whole number"),
        (("strategies", "ovr", "test", "confusion_matrix"), [[1]], "is not 10 x 10"),
        (("strategies",), {}, "no strategy"),
        (("comparisons", 0, "a"), "svm", "not in strategies"),
        (("comparisons", 0, "difference_ci95"), [0.1], "is not a pair"),
        (("class_names", 0), "zeppelin", "does not name the classes"),
        (("store", "key"), None, "store.key is null, expected text"),
        (("class_order", 0), 3, "class_order does not name every class once"),
        (("own_c", "svm"), {"C": [], "accuracy": 1, "accuracy_ci95": []}, "own_c names a strategy"),
        (("views", "labels", 0), 99, "views names a class that is not in class_names"),
        (("views", "pca", "points", 0), [1.0], "views.pca.points are not a pair for each label"),
        (("strategies", "ovr", "course", "classes"), [10], "ovr.course names a class that is not"),
        (("strategies", "ovr", "course", "relative_gaps"), [], "relative_gaps is empty"),
        (("strategies", "ovo", "pairs", "accuracy", 1), [], "accuracy is not a triangle"),
        (("strategies", "ovo", "pairs", "hardest", 0, "a"), -1, "pairs names a class that is not"),
        (("strategies", "ovr", "detection", "curves", 0), [1.0], "not the length of false_alarms"),
        (
            ("strategies", "ovr", "calibration", "before"),
            None,
            "calibration.before is null",
        ),
        (("decoding", 0, "log_loss"), "low", "decoding[0].log_loss is text"),
    ],
)
def test_damaged_results_are_refused_with_the_place(tmp_path, results, path, value, told):
    parent = results
    for key in path[:-1]:
        parent = parent[key]
    if value is DELETE:
        del parent[path[-1]]
    else:
        parent[path[-1]] = value
    file = tmp_path / "results.json"
    file.write_text(json.dumps(results))
    with pytest.raises(UserError) as error:
        read_results(file)
    assert told in str(error.value)
    assert str(file) in str(error.value)


@pytest.mark.parametrize("content", ["", "{", "[]", '"text"', "\x00\xff", "[" * 100_000])
def test_what_is_not_results_is_refused(tmp_path, content):
    file = tmp_path / "results.json"
    file.write_bytes(content.encode("latin-1"))
    with pytest.raises(UserError, match=re.escape(str(file))):
        read_results(file)


def test_json_has_no_nan():
    import numpy as np

    value = {"a": float("nan"), "b": [np.float32(1.5), np.inf], "c": np.arange(2), 3: (True, None)}
    assert json_ready(value) == {"a": None, "b": [1.5, None], "c": [0, 1], "3": [True, None]}


def test_markdown_text():
    assert markdown_text("a_b.h5") == "a_b.h5"
    assert markdown_text("_a_ *b* `c` [d](e) <f> |") == (r"\_a\_ \*b\* \`c\` \[d\](e) &lt;f&gt; \|")
    assert markdown_text("__a__ a__b $1") == r"\_\_a\_\_ a\_\_b \$1"
    assert markdown_text("- a\r\nb") == r"\- a b"
    assert markdown_text("1. a") == r"1\. a"
    assert markdown_text(3) == 3


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "–"), (0.0412, "0.04 s"), (12.34, "12.3 s"), (200.0, "3 min 20 s"), (119.6, "119.6 s")],
)
def test_seconds(value, text):
    assert seconds(value) == text


def test_terminal_table_is_aligned(results, monkeypatch):
    lines = results_table(results, colour=False).splitlines()
    assert lines[0].split()[0] == "strategy"
    assert [line.split()[0] for line in lines[1:]] == ["multinomial", "OvR", "OvO"]
    ends = {len(line) for line in lines}
    assert len(ends) == 1
    assert "\x1b" not in results_table(results, colour=False)
    assert "\x1b[1m" in results_table(results, colour=True)


def test_terminal_text_cannot_steer_the_terminal():
    assert "\x1b" not in printable("\x1b]0;x\x07")
    assert printable("128\N{NO-BREAK SPACE}px") == "128 px"
    assert width("猫") == 2
    assert table(["a", "b"], [["猫", "1"], ["xy", "22"]]).splitlines()[1:] == ["猫   1", "xy  22"]


def test_colour_is_for_terminals_without_no_color(monkeypatch):
    from classify.report.terminal import wants_colour

    class Terminal:
        def isatty(self):
            return True

    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert wants_colour(Terminal())
    monkeypatch.setenv("NO_COLOR", "1")
    assert not wants_colour(Terminal())
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("TERM", "dumb")
    assert not wants_colour(Terminal())
