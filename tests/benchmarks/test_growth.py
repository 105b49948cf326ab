"""What the part ``growth`` makes and concludes; a run of it takes minutes."""

import pytest

from benchmarks import growth
from data.dataset import load_dataset


def rows(seconds, peaks):
    return [
        {"images": images, "seconds": s, "peak_bytes": peak, "found_seconds": 0.3, "heavy": []}
        for images, s, peak in zip((10, 30, 60), seconds, peaks, strict=True)
    ]


def test_a_line_through_the_times_and_growth_of_memory():
    facts = growth.judge(rows([5.0, 7.0, 10.0], [100, 101, 104]))
    assert facts["seconds_per_image"] == pytest.approx(0.1)
    assert facts["fixed_seconds"] == pytest.approx(4.0)
    assert facts["off_the_line"] < 1e-12
    assert facts["memory_growth"] == pytest.approx(0.04)
    assert "(within 5%)" in growth.verdict("folder", rows([5.0, 7.0, 10.0], [100, 101, 104]))
    assert "(NOT within 5%)" in growth.verdict("folder", rows([5.0, 7.0, 10.0], [100, 101, 106]))
    assert growth.judge(rows([5.0, 7.0, 20.0], [1, 1, 1]))["off_the_line"] > 0.1


def test_made_images_are_a_dataset_of_either_kind(tmp_path, monkeypatch):
    (option,) = growth.as_folder(tmp_path / "folder", 60)
    found = load_dataset(option.partition("=")[2], data_dir=tmp_path)
    assert (len(found.train), len(found.test)) == (50, 10)
    options = growth.as_archive(tmp_path)
    raw = options[1].partition("=")[2]
    found = load_dataset("cifar10", data_dir=tmp_path / raw, limit=50)
    assert (len(found.train), len(found.test)) == (50, 10)
