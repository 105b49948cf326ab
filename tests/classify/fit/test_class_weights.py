"""``--class-weight``: the files that are read, and those that are refused."""

import pytest

from classify.fit.class_weights import read_class_weights
from data.common.errors import UserError

NAMES = ("ant", "bee", "cat 1")


@pytest.mark.parametrize(
    "text",
    [
        '{"ant": 1, "cat 1": 0.5, "bee": 2.0}',
        "ant,1\nbee,2\ncat 1,0.5\n",
        "class,weight\nant,1\nbee,2\ncat 1,0.5",
        "\ufeffname;weight\nant;1\n\nbee; 2\ncat 1;.5\n",
        "ant\t1e0\nbee\t2\n cat 1\t0.5\n",
        '"ant",1\n"bee","2"\n"cat 1",0.5\n',
    ],
)
def test_json_and_tables_are_read(tmp_path, text):
    file = tmp_path / "weights"
    file.write_text(text, encoding="utf-8")
    assert read_class_weights(str(file), NAMES) == {0: 1.0, 1: 2.0, 2: 0.5}


def test_words_that_are_no_file():
    assert read_class_weights(None, NAMES) is None
    assert read_class_weights("balanced", NAMES) == "balanced"


@pytest.mark.parametrize(
    "text, words",
    [
        ("", "holds no class; expected a JSON object"),
        ("class,weight\n", "holds no class"),
        ('{"ant": 1, ', "is not JSON"),
        ("[1, 2, 3]", "holds a JSON list"),
        ('[{"ant": 1}]', "holds a JSON list"),
        ('{"ant": {"bee": 1}}', "the weight of 'ant' is"),
        ("ant,1,2\n", "row 1 has 3 columns"),
        ("ant\nbee\n", "row 1 has 1 column,"),
        ("ant,1\nbee,2\nant,3\n", "names 'ant' twice"),
        ('{"ant": 1, "ant": 2, "bee": 1, "cat 1": 1}', "names 'ant' twice"),
        ("ant,1\nbe,2\ncat 1,3\n", "names 'be', which is no class of this store"),
        ("ant,1\n", "has no weight for 'bee', 'cat 1'; give each of the 3 classes one"),
        (
            "ant,1\nbee,-2\ncat 1,1\n",
            "the weight of 'bee' is '-2', expected a finite number above 0",
        ),
        ("ant,1\nbee,0\ncat 1,1\n", "the weight of 'bee' is '0'"),
        ("ant,1\nbee,nan\ncat 1,1\n", "the weight of 'bee' is 'nan'"),
        ("ant,1\nbee,inf\ncat 1,1\n", "the weight of 'bee' is 'inf'"),
        ("ant,1\nbee,two\ncat 1,1\n", "the weight of 'bee' is 'two'"),
        ('{"ant": true, "bee": 1, "cat 1": 1}', "the weight of 'ant' is True"),
        ('{"ant": null, "bee": 1, "cat 1": 1}', "the weight of 'ant' is None"),
        ('{"ant": NaN, "bee": 1, "cat 1": 1}', "the weight of 'ant' is nan"),
    ],
)
def test_what_gives_no_weight_to_every_class_is_refused(tmp_path, text, words):
    file = tmp_path / "weights"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(UserError) as refused:
        read_class_weights(str(file), NAMES)
    assert words in str(refused.value) and f"--class-weight {file}" in str(refused.value)


def test_files_that_cannot_be_read(tmp_path):
    (tmp_path / "raw").write_bytes(b"\xff\xfe\x00\xd8")
    for name, why in (
        ("gone", "No such file"),
        ("raw", "not a text file"),
        (".", "Is a directory"),
    ):
        with pytest.raises(UserError, match=why):
            read_class_weights(str(tmp_path / name), NAMES)
