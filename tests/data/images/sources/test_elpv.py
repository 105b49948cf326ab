"""The solar cells of a package: which there are, how they are split, what is refused."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from data.common.errors import UserError
from data.common.packages import package_folder
from data.dataset import dataset_name, load_dataset, source_fingerprint, source_sha256
from data.images.lookup import find_pictures
from data.images.sources import elpv

needs_package = pytest.mark.skipif(
    package_folder(elpv.PACKAGE) is None, reason="the extra example is not installed"
)


@pytest.fixture
def few(monkeypatch, tmp_path):
    """A package of the same form: 20 cells of each share of experts, with a list of their own."""
    from hashlib import sha256

    from PIL import Image

    root = tmp_path / "site" / elpv.PACKAGE / "data"
    (root / "images").mkdir(parents=True)
    (root.parent / "__init__.py").write_text("raise SystemExit('imported')")
    lines = []
    shares = ("0.0", "0.3333333333333333", "0.6666666666666666", "1.0")
    for number in range(80):
        name = f"images/cell{number:04}.png"
        Image.fromarray(np.full((30, 30), number, dtype=np.uint8)).save(root / name)
        lines.append(f"{name}  {shares[number % 4]}  {'mono' if number % 8 < 4 else 'poly'}\n")
    (root / elpv.LABELS).write_text("".join(lines))
    digest = sha256("".join(lines).encode()).hexdigest()
    monkeypatch.setattr(elpv, "LABELS_SHA256", digest)
    monkeypatch.syspath_prepend(tmp_path / "site")
    return root


def test_classes_follow_the_share_of_experts(few, tmp_path):
    cells = load_dataset("elpv", data_dir=tmp_path)
    assert cells.class_names == ("defective", "functional", "uncertain")
    expected = {0: "functional", 1: "uncertain", 2: "uncertain", 3: "defective"}
    for split in (cells.train, cells.test):
        for row, name in enumerate(split.ids):
            number = int(name.removeprefix("images/cell").removesuffix(".png"))
            assert cells.class_names[split.labels[row]] == expected[number % 4]
            assert split.images.decode(row)[0, 0, 0] == number
    assert Counter(cells.test.labels.tolist()) == {0: 4, 1: 4, 2: 8}
    assert not set(cells.train.ids) & set(cells.test.ids)
    assert cells.origin["license"] == "CC-BY-NC-SA-4.0"
    assert cells.origin["home"] == "https://github.com/zae-bayern/elpv-dataset"


def test_the_split_is_fixed_and_pictures_are_found_by_id(few, tmp_path):
    cells = load_dataset("elpv", data_dir=tmp_path)
    again = load_dataset("elpv", data_dir=tmp_path / "other", seed=3)
    assert cells.digest == again.digest
    stamp = source_fingerprint("elpv", data_dir=tmp_path)
    assert stamp["path"] == str(few)
    assert source_sha256("elpv", data_dir=tmp_path) is None
    assert dataset_name("elpv") == "elpv"
    asked = {"options": {"dataset": "elpv"}, "files": {"dataset": stamp}}
    ids = cells.test.ids[:3]
    for name, picture in zip(ids, find_pictures(asked, ids, tmp_path), strict=True):
        assert picture[0, 0, 0] == int(name[-8:-4])
    image = few / cells.train.ids[0]
    image.write_bytes((few / cells.train.ids[1]).read_bytes())
    assert source_fingerprint("elpv", data_dir=tmp_path) != stamp
    assert load_dataset("elpv", data_dir=tmp_path).digest != cells.digest


def test_what_is_missing_or_altered_is_said(few, tmp_path, monkeypatch):
    with (few / elpv.LABELS).open("a") as stream:
        stream.write("images/cell9999.png 1.0 mono\n")
    with pytest.raises(UserError, match=r"labels\.csv is not the file that is expected"):
        load_dataset("elpv", data_dir=tmp_path)
    (few / elpv.LABELS).unlink()
    with pytest.raises(UserError, match=r"has no labels\.csv in"):
        load_dataset("elpv", data_dir=tmp_path)
    monkeypatch.setitem(sys.modules, elpv.PACKAGE, None)
    with pytest.raises(UserError, match=r"is not installed; pip install '.*\[example\]'.*90 MB"):
        load_dataset("elpv", data_dir=tmp_path)
    with pytest.raises(UserError, match="--test-fraction is for data"):
        load_dataset("elpv", data_dir=tmp_path, test_fraction=0.2)


@needs_package
def test_the_real_package_has_its_2624_cells(tmp_path):
    names = elpv.elpv_files()
    assert len(names) == len(set(names)) == 2625
    cells = load_dataset("elpv", data_dir=Path("."))
    counts = Counter(np.concatenate([cells.train.labels, cells.test.labels]).tolist())
    assert counts == {0: 715, 1: 1508, 2: 401}
    assert len(cells.test) == 525
    assert cells.test.images.decode(0).shape == (300, 300, 3)
    assert elpv.PACKAGE not in sys.modules
