"""The images of a report: which ones, and how they are shown."""

import base64
import io
import json
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from classify.analysis.gallery import (
    SHOWN,
    SIDE,
    confident_errors,
    data_uri,
    disagreements,
    gallery,
)
from classify.report.run_report import write_report
from classify.report.runs import read_results
from data.common.errors import UserError
from data.dataset import load_dataset


def fits(labels, k, seed=0, names=("multinomial", "ovr", "ovo")):
    rng = np.random.default_rng(seed)
    found = {}
    for name in names:
        p = rng.dirichlet(np.ones(k), len(labels))
        p[np.arange(len(labels)), labels] += 0.4
        p /= p.sum(axis=1, keepdims=True)
        found[name] = SimpleNamespace(predictions=p.argmax(axis=1), probabilities=p, entry={})
    return found


@pytest.fixture
def digits():
    test = load_dataset("digits", data_dir=Path(".")).test
    request = {
        "options": {"dataset": "digits"},
        "files": {"dataset": {"path": "scikit-learn", "stat": "x"}},
    }
    return SimpleNamespace(
        parts=(),
        test=SimpleNamespace(labels=test.labels, ids=list(test.ids)),
        class_names=tuple("0123456789"),
        request=request,
        provenance={},
    )


def test_rows_are_chosen_as_a_slow_search_chooses_them(digits):
    labels, k = digits.test.labels, 10
    fitted = fits(labels, k)
    predictions = {name: fit.predictions for name, fit in fitted.items()}
    chances = {name: fit.probabilities for name, fit in fitted.items()}

    def sure(name, row):
        return chances[name][row, predictions[name][row]]

    apart = [r for r in range(len(labels)) if predictions["ovr"][r] != predictions["ovo"][r]]
    apart.sort(key=lambda row: -(sure("ovr", row) + sure("ovo", row)))
    assert disagreements(predictions, chances).tolist() == apart
    wrong = {
        row: np.mean([sure(n, row) if a[row] != labels[row] else 0 for n, a in predictions.items()])
        for row in range(len(labels))
    }
    expected = sorted((row for row in wrong if wrong[row]), key=lambda row: -wrong[row])
    assert confident_errors(labels, predictions, chances).tolist() == expected
    del predictions["ovo"]
    assert len(disagreements(predictions, chances)) == 0


def test_the_page_shows_the_very_pixels(digits, make_results, tmp_path):
    found = gallery(digits, fits(digits.test.labels, 10))
    assert found["missing"] == ""
    assert len(found["disagreements"]) == len(found["confident_errors"]) == SHOWN
    assert found["n_disagreements"] > SHOWN
    test = load_dataset("digits", data_dir=Path(".")).test
    for name, uri in found["thumbnails"].items():
        with Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))) as image:
            row = test.ids.index(name)
            assert np.array_equal(np.asarray(image), test.images.array[row])

    results, *_ = make_results(names=list("0123456789"))
    results["images"] = found
    (tmp_path / "results.json").write_text(json.dumps(results))
    page = write_report(tmp_path).read_text(encoding="utf-8")
    section = re.search(r'<section aria-labelledby="images">.*?</section>', page, re.DOTALL)[0]
    assert section.count('<img src="data:image/png;base64,') == 2 * SHOWN
    wrong = [
        answer
        for part in ("disagreements", "confident_errors")
        for entry in found[part]
        for answer in entry["answers"].values()
        if not answer["right"]
    ]
    assert section.count('class="wrong"') == section.count("✗") == len(wrong)
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    for entry in found["confident_errors"]:
        assert entry["id"] in section and entry["id"] in text


def test_the_worst_errors_of_the_hardest_pairs_are_fetched_too(digits):
    fitted = fits(digits.test.labels, 10)
    row = 5
    pair = {"examples": [{"id": digits.test.ids[row]}]}
    fitted["ovo"].entry = {"pairs": {"hardest": [pair]}}
    assert digits.test.ids[row] in gallery(digits, fitted)["thumbnails"]


def test_images_that_are_not_at_hand_are_left_out_with_a_sentence(digits, make_results, tmp_path):
    digits.request = {
        "options": {"dataset": "<b>pets"},
        "files": {"dataset": {"path": str(tmp_path / "gone")}},
    }
    found = gallery(digits, fits(digits.test.labels, 10))
    assert found["thumbnails"] == {} and "gone is not there" in found["missing"]
    results, *_ = make_results(names=list("0123456789"))
    results["images"] = found
    (tmp_path / "results.json").write_text(json.dumps(results))
    page = write_report(tmp_path).read_text(encoding="utf-8")
    assert "not at hand" in page and "gone is not there" in page
    assert "not at hand" in (tmp_path / "report.md").read_text(encoding="utf-8")


def test_a_page_shows_nothing_but_images(digits, make_results, tmp_path):
    results, *_ = make_results(names=list("0123456789"))
    results["images"] = gallery(digits, fits(digits.test.labels, 10))
    name = results["images"]["disagreements"][0]["id"]
    results["images"]["thumbnails"][name] = "https://example.org/x.png"
    (tmp_path / "results.json").write_text(json.dumps(results))
    with pytest.raises(UserError, match=r"images\.thumbnails"):
        read_results(tmp_path / "results.json")


def test_large_images_become_small_ones():
    rng = np.random.default_rng(0)
    pixels = np.kron(rng.integers(0, 256, (30, 60, 3)), np.ones((10, 10, 1))).astype(np.uint8)
    uri = data_uri(pixels)
    assert uri.startswith("data:image/jpeg;base64,")
    with Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))) as image:
        assert image.size == (SIDE, SIDE // 2)
    assert len(uri) < 12_000


def test_a_run_says_where_it_looked_in_vain(make_store, tmp_path):
    from classify.__main__ import main

    store = make_store(tmp_path / "features" / "toys" / "toynet-8px-00000000.h5", dataset="toys")
    reports, data = tmp_path / "reports", tmp_path / "data"
    main(
        ["fit", str(store), f"--reports-dir={reports}", "--c=1", "--jobs=1", "--no-few-shot",
         f"--data-dir={data}"]
    )  # fmt: skip
    (folder,) = next(reports.iterdir()).iterdir()
    results = read_results(folder / "results.json")
    assert any("shows no images" in text for text in results["warnings"])
