"""``program.pt2``: from images of any size and number to probabilities and labels."""

from __future__ import annotations

import zipfile

import numpy as np
import pytest
import torch
from small_programs import backbone, inputs, pictures, program, saved_head, vectors
from torch import nn

from data.common.errors import UserError
from extract.exporting.exported import run_exported, write_exported


def test_a_program_takes_any_number_of_images_of_any_size(tmp_path):
    one = backbone("pixels", 8)
    head = saved_head(one.width, scale=0.2)
    path = tmp_path / "program.pt2"
    write_exported(program(head, one), path)
    paths = pictures(tmp_path, (40, 70), (8, 8), (5, 9), (1, 1))
    rows = vectors(one, inputs(one, paths))
    found, labels = run_exported(path, paths)
    assert np.ptp(found, axis=0).max() > 0.01
    np.testing.assert_allclose(found, head.probabilities(rows), atol=1e-5)
    np.testing.assert_array_equal(labels, head.predict(rows))

    run = torch.export.load(path).module()
    for n in (1, 2, 5):
        probabilities, answers = run(torch.zeros(n, 11, 7, 3, dtype=torch.uint8))
        assert probabilities.shape == (n, 4) and answers.shape == (n,)

    with zipfile.ZipFile(path) as archive:  # nothing of where it was made
        content = b"".join(map(archive.read, archive.namelist()))
    assert str(tmp_path).encode() not in content and b"exporting/" not in content


def test_a_network_that_branches_on_its_numbers_is_refused_with_the_reason(tmp_path):
    class Branching(nn.Module):
        def forward(self, images):
            return images.mean((2, 3)) if images.sum() > 0 else images.amax((2, 3))

    one = backbone("pixels", 8)
    one.module = Branching()
    with pytest.raises(UserError, match=r"pixels cannot be traced by torch\.export: .*\w+"):
        write_exported(program(saved_head(3), one), tmp_path / "program.pt2")
