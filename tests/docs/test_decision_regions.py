"""The figure of the guide on two classes: drawn again from a store, and as it is committed."""

import importlib.util
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression

from data.format.records import SplitSource
from data.writing import join

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def tool():
    place = DOCS / "tools" / "draw_decision_regions.py"
    spec = importlib.util.spec_from_file_location("draw_decision_regions", place)
    module = sys.modules["draw_decision_regions"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_figure_is_drawn_from_a_store_in_the_same_bytes(tool, tmp_path, capsys):
    rng, splits = np.random.default_rng(0), {}
    for split, n in (("train", 120), ("test", 60)):
        labels = np.arange(n) % 4
        X = (rng.normal(size=(4, 6))[labels] * 3 + rng.normal(size=(n, 6))).astype(np.float32)
        ids = [f"{split}:{i}" for i in range(n)]
        splits[split] = SplitSource(labels, ids, [(X, np.ones(n, bool))])
    store = tmp_path / "s.h5"
    join(
        store, spec={"store_dtype": "float32"}, request={}, provenance={},
        class_names=("a", "b", "c", "d"), splits=splits,
    )  # fmt: skip
    out = tmp_path / "f.svg"
    for _ in range(2):
        before = out.read_bytes() if out.exists() else None
        tool.main([str(store), "--classes", "d,a,c", "--out", str(out)])
    assert out.read_bytes() == before
    told = capsys.readouterr().out.splitlines()[:3]
    assert [line.split(":")[0] for line in told] == ["binary", "one-vs-rest", "one-vs-one"]
    text = "".join(ElementTree.parse(out).getroot().itertext())
    assert "One-vs-rest: 3 heads" in text and "one head, a or c" in text and "d" in text
    # The plane is scikit-learn's, and the binary head is theirs on it.
    plane = tool.reduce(store, ("a", "c", "d"))
    two = plane.train_labels < 2
    theirs = LogisticRegression(C=1.0, tol=1e-8)
    scale = plane.train[two].std(axis=0)
    theirs.fit(plane.train[two] / scale, plane.train_labels[two])
    right = theirs.score(
        plane.test[plane.test_labels < 2] / scale, plane.test_labels[plane.test_labels < 2]
    )
    assert f"{100 * right:.1f} %" in told[0]
    again = LinearDiscriminantAnalysis().fit(plane.train, plane.train_labels)
    spread = again.transform(plane.train).std(axis=0)
    np.testing.assert_allclose(spread, plane.train.std(axis=0), rtol=1e-6)


def test_the_committed_figure_is_small_and_shows_no_image():
    place = DOCS / "guide" / "decision-regions.svg"
    text = place.read_text("utf-8")
    assert place.stat().st_size < 300_000
    root = ElementTree.fromstring(text)
    assert not [node for node in root.iter() if node.tag.endswith("}image")]
    assert "airplane" in text and "One-vs-one: 3 heads" in text
