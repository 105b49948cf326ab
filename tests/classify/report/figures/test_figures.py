"""Figures measured as they are drawn: no text on another, no axis of shares beyond 0 and 100 %."""

import os
import random
import string
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text

from classify.report import run_report as report
from classify.report.figures import accuracy, tradeoffs
from classify.report.figures import style as figures
from classify.report.figures.style import fit_text, shorten, text_width

pytestmark = pytest.mark.filterwarnings("ignore:Glyph")
LETTERS = string.ascii_letters + " _-|<&猫W"


@pytest.fixture
def drawn(monkeypatch):
    """Every figure that is drawn, by name."""
    found = {}
    write = figures.write_svg

    def keep(figure, name, title):
        svg = write(figure, name, title)
        found[name] = figure
        return svg

    modules = [*report.FIGURES, tradeoffs]
    for module in modules:
        monkeypatch.setattr(module, "write_svg", keep)
    return found


def boxes(figure):
    """Draw a figure: what each visible text covers, the cells of a matrix left out."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    unseen = set()  # matplotlib keeps ticks beyond the ends of an axis, and does not draw them
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            for tick in axis.get_major_ticks():
                if not low <= tick.get_loc() <= high:
                    unseen |= {tick.label1, tick.label2}
    texts = [
        t
        for t in figure.findobj(Text)
        if t.get_visible() and t.get_text().strip() and t not in unseen
    ]
    return [(t, Text.get_window_extent(t, renderer)) for t in texts if t.get_in_layout()]


def overlaps(found, slack=1.0):
    for i, (one, a) in enumerate(found):
        for other, b in found[i + 1 :]:
            if one.get_rotation() or other.get_rotation():
                continue  # slanted: their boxes are wider than they are; see below
            wide = min(a.x1, b.x1) - max(a.x0, b.x0)
            high = min(a.y1, b.y1) - max(a.y0, b.y0)
            if wide > slack and high > slack:
                yield one.get_text(), other.get_text()


def beyond(figure, found):
    width, height = figure.get_size_inches() * figure.dpi
    for text, box in found:
        if box.x0 < -2 or box.x1 > width + 2 or box.y0 < -2 or box.y1 > height + 2:
            yield text.get_text()


def names_of(length, k, seed=0):
    draw = random.Random(f"{seed} {length}")
    names = set()
    while len(names) < k:
        if length == 1 and k > len(LETTERS):
            names.add(chr(0x4E00 + len(names)))
        else:
            names.add("".join(draw.choice(LETTERS) for _ in range(length)))
    return sorted(names)


SIZES = [(k, length) for k in (2, 10, 100) for length in (1, 12, 200)]
if not os.environ.get("ICEBOX_FAULTS"):
    SIZES = [(2, 200), (10, 200), (100, 12)]


@pytest.mark.parametrize(("k", "length"), SIZES)
def test_no_text_covers_another_or_leaves_the_figure(drawn, make_results, k, length):
    names = ["W" * length, *names_of(length, k)][:k]
    results, _, _ = make_results(names=list(dict.fromkeys(names)), n=10 * k)
    results["majority"] = {"class": names[0], "train_share": 0.5, "test_accuracy": 0.1}
    for entry in results["strategies"].values():
        entry["converged"] = length == 12
    report.draw_figures(results)
    for name, figure in drawn.items():
        found = boxes(figure)
        assert list(overlaps(found)) == [], name
        assert list(beyond(figure, found)) == [], name


@pytest.mark.figures
def test_backbones_of_any_name_keep_their_rows_apart(drawn):
    for length in (1, 40, 200):
        rows = [
            {
                "label": f"{'mW_'[i % 3] * length} {i} px", "strategy": strategy,
                "accuracy": 0.9 + i / 100, "accuracy_ci95": [0.85, 1.0], "n_features": 10 + i,
                "extraction_seconds_per_1000": 1.0, "fit_seconds": 0.1,
            }
            for i in range(4)
            for strategy in ("ovr", "ovo")
        ]  # fmt: skip
        svg = tradeoffs.backbones(rows)
        found = boxes(drawn["backbones"])
        assert list(overlaps(found)) == []
        assert list(beyond(drawn["backbones"], found)) == []
        for row in rows:
            assert f"<title>{row['label']}</title>" in svg


@pytest.mark.figures
def test_full_names_are_the_titles_of_what_is_cut(make_results):
    names = [f"<class> & {'long ' * 30}{i}" for i in range(5)]
    results, _, _ = make_results(names=names, n=80)
    svgs = report.draw_figures(results)
    for figure in ("class-f1", "confusion-ovr", "confusion-difference", "pairs", "roc", "lda"):
        root = ElementTree.fromstring(svgs[figure])
        titles = [t.text for t in root.iter("{http://www.w3.org/2000/svg}title")]
        assert set(names) <= set(titles), figure
        assert "full name" not in svgs[figure]


SHARES = {
    "accuracy": "x", "decoding": "x", "backbones": "x", "few-shot": "y", "roc": "y", "cost": "y",
    "reliability-multinomial": "xy", "reliability-ovr": "xy", "reliability-ovo": "xy",
    "class-f1": "y", "validation": "y",
}  # fmt: skip


def at_share(results, share):
    """Bring every accuracy of some results to 0 or to 1."""
    n = results["n_test"]
    interval = [0.0, 4 / n] if share == 0 else [1 - 4 / n, 1.0]
    told = {"accuracy": float(share), "accuracy_ci95": interval}
    for entry in results["strategies"].values():
        entry["test"] |= told
        for scores in entry["test"]["per_class"].values():
            scores["f1"] = float(share)
        for step in entry["validation"]:
            step["accuracy"] = float(share)
        for side in ("before", "after"):
            for bin_ in entry["calibration"][side]["bins"]:
                bin_ |= {"confidence": float(share), "accuracy": float(share)}
    for way in results["decoding"]:
        way |= told
    results["own_c"] = {name: {**own, **told} for name, own in results["own_c"].items()}
    results["majority"] = {"class": "cat", "train_share": 0.5, "test_accuracy": float(share)}

    def points(count):
        return {
            "per_class": count, "n_train": 10 * (count or 9), "accuracies": [float(share)] * 5,
            "mean": float(share), "ci95": interval,
        }  # fmt: skip

    curve = [points(1), points(2), {**points(None), "ci95": None}]
    results["few_shot"] = {
        "draws": 5, "level": 0.95, "near": 0.01, "curves": {"ovr": curve, "ovo": curve},
        "enough": {"ovr": 1, "ovo": 1}, "left_out": [],
    }  # fmt: skip
    return told


@pytest.mark.parametrize("share", [0, 1])
def test_axes_of_shares_end_at_0_and_100(drawn, results, share):
    told = at_share(results, share)
    report.draw_figures(results)
    rows = [
        {"label": f"m{i}", "strategy": "ovr", "n_features": 9 + i, "fit_seconds": 0.1 + i,
         "extraction_seconds_per_1000": 1.0, **told}
        for i in range(2)
    ]  # fmt: skip
    tradeoffs.backbones(rows)
    tradeoffs.draw_tradeoffs(rows, "cost")
    for name, which in SHARES.items():
        drawn[name].draw_without_rendering()
        panels = drawn[name].axes[:1] if name == "validation" else drawn[name].axes
        for axes in panels:
            for side in which:
                low, high = getattr(axes, f"get_{side}lim")()
                low, high = min(low, high), max(low, high)
                assert 0 <= low < high <= 100, (name, low, high)
                assert low <= 100 * share <= high or name == "roc"
    check_that_marks_are_drawn_whole(drawn)


def check_that_marks_are_drawn_whole(drawn):
    """At the ends of an axis, where half of a mark lies beyond it."""
    for name in ("accuracy", "decoding", "few-shot", "class-f1"):
        lines = [
            line for axes in drawn[name].axes for line in axes.lines if line.get_marker() != "None"
        ]
        assert lines
        assert not any(line.get_clip_on() for line in lines), name


def test_a_reference_line_stands_where_the_most_frequent_class_is(drawn, results):
    for always in (0.1, results["strategies"]["ovr"]["test"]["accuracy"] - 0.01):
        results["majority"] = {"class": "cat", "train_share": 0.1, "test_accuracy": always}
        accuracy.draw(results)
        lines = [line for axes in drawn["accuracy"].axes for line in axes.lines]
        (reference,) = [line for line in lines if line.get_label().startswith("always")]
        assert reference.get_xdata() == pytest.approx([100 * always] * 2)
        low, high = reference.axes.get_xlim()
        assert low <= 100 * always <= high


def test_texts_are_cut_to_a_width():
    for name in ("short", "W" * 90, "i" * 90, "猫" * 40, "a b\nc" * 20):
        for width in (30, 72, 130):
            cut = fit_text(name, width)
            assert text_width(cut, 9) <= width
            if text_width(name.replace("\n", " "), 9) > width:
                assert cut[0] == name[0]
                assert cut[-1] == name[-1]
                longer = shorten(name, len(cut) + 1)
                assert text_width(longer, 9) > width
    assert np.isclose(text_width("WW", 18), 4 * text_width("W", 9))


def test_names_of_models_are_broken_between_their_parts():
    from classify.report.figures.tradeoffs import _wrap

    nbsp = "\N{NO-BREAK SPACE}"
    assert _wrap("tf_efficientnet_lite0 128 px") == ["tf_efficientnet_", f"lite0 128{nbsp}px"]
    assert _wrap("raw pixels 8 px") == [f"raw pixels 8{nbsp}px"]
    lines = _wrap("vit_base_patch14_reg4_dinov2.lvd142m 224 px, random weights")
    assert "".join(lines).replace(" ", "").startswith("vit_base_patch14_")
    assert all(len(line) <= 20 for line in lines)
