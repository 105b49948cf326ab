"""Heads that no classifier of timm is like are refused before stage one is asked."""

import numpy as np
import pytest

from classify.export.for_timm import check_for_timm
from classify.export.head_file import export_head
from classify.saved.heads import SavedHead, save_head
from data.common.errors import UserError


def saved(name, k=3, **more):
    n = 1 if k == 2 else k
    coef = np.arange(n * 4, dtype=np.float32).reshape(n, 4)
    names = tuple("abc"[:k])
    return SavedHead(name, names, coef, coef[:, 0], {}, "", 1.0, **more)


@pytest.mark.parametrize(
    "head", [saved("multinomial"), saved("lda", coding="multinomial"), saved("ovr", 2)]
)
def test_a_softmax_of_scores_is_taken(head, tmp_path):
    check_for_timm(head, tmp_path / "head.safetensors")


def test_one_vs_rest_is_refused_and_the_multinomial_head_of_its_run_is_named(tmp_path):
    path = tmp_path / "heads" / "ovr.safetensors"
    path.parent.mkdir()
    save_head(path, saved("ovr"))
    wanted = r"--to timm: the OvR head .*ovr\.safetensors does not give the softmax"
    with pytest.raises(UserError, match=f"{wanted}.*; fit a multinomial head, or give --to torch"):
        export_head(path, "timm")
    other = path.with_name("multinomial.safetensors")
    save_head(other, saved("multinomial"))
    with pytest.raises(UserError, match=f"{wanted}.*; export .*multinomial.safetensors, or give"):
        export_head(path, "timm")
    assert not (tmp_path / "exports" / "ovr-timm").exists()


def test_of_normalised_features_no_head_is_taken(tmp_path):
    with pytest.raises(UserError, match=r"norms.*; fit a multinomial head without --normalize, or"):
        check_for_timm(saved("multinomial", normalize="l2"), tmp_path / "head.safetensors")
