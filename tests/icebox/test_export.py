"""`icebox export`: a head and a store are told apart, and each has its own formats."""

import shutil

import numpy as np
import pytest

from classify.export.command import FORM_NAMES
from data.__main__ import FORMATS
from data.common.cli import run
from icebox.__main__ import main


def test_a_store_is_exported_whatever_its_name_is(store, tmp_path, capsys):
    for name in ("s.h5", "s.store"):
        copy, out = tmp_path / name, tmp_path / f"{name}.npz"
        shutil.copy(store, copy)
        assert run(main, ["export", str(copy), "--to", "npz", f"--out={out}"]) == 0
        assert capsys.readouterr().out.strip() == str(out)
        with np.load(out) as found:
            assert {len(found[name]) for name in found} >= {60, 30}


@pytest.mark.parametrize(
    ("name", "form", "kind", "other", "forms"),
    [
        ("ovr.safetensors", "parquet", "head", "stores", FORM_NAMES),
        ("forest.skops", "csv", "head", "stores", FORM_NAMES),
        ("s.h5", "onnx", "store", "heads", FORMATS),
        ("s.store", "sklearn", "store", "heads", FORMATS),
    ],
)
def test_a_format_of_the_other_kind_is_refused(
    name, form, kind, other, forms, store, tmp_path, capsys
):
    file = tmp_path / name
    shutil.copy(store, file)
    assert run(main, ["export", str(file), "--to", form]) == 2
    out, err = capsys.readouterr()
    [message] = err.strip().splitlines()
    assert (
        out == "" and f"--to {form} is for {other}, and {file} is a {kind}; give one of" in message
    )
    assert message.endswith(", ".join(forms))


def test_options_of_heads_are_refused_for_a_store(store, capsys):
    assert run(main, ["export", str(store), "--to=npz", "--weights=bundled"]) == 2
    assert f"--weights is for heads, and {store} is a store" in capsys.readouterr().err


def test_a_head_goes_to_the_export_of_heads(tmp_path, capsys):
    missing = tmp_path / "ovr.safetensors"
    assert run(main, ["export", str(missing), "--to=sklearn"]) == 2
    assert str(missing) in capsys.readouterr().err
    assert run(main, ["export", str(missing), "--to=oxnn"]) == 2
    err = capsys.readouterr().err
    assert "did you mean onnx" in err and all(name in err for name in (*FORM_NAMES, *FORMATS))
