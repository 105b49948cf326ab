"""Which column is which: usual names in any case, options, white space, no header."""

from __future__ import annotations

import pytest

from data.common.errors import UserError

BODY = (
    "train/cat/0.png,cat,x\ntrain/cat/1.png,cat,y\ntrain/dog/0.png,dog,x\ntrain/dog/1.png,dog,y\n"
)
HALF = {"test_fraction": 0.5}


@pytest.mark.parametrize("image", ["image", "Path", "FILE", "filename", "file_name"])
@pytest.mark.parametrize("label", ["label", "Class", "TARGET", "category"])
def test_usual_names_in_any_case(pets, image, label):
    found = pets.text(f"{image},{label},other\n{BODY}", **HALF)
    assert found.class_names == ("cat", "dog")
    assert found.origin["columns"] == {"image": image, "label": label}


@pytest.mark.parametrize(
    "role, names",
    [
        ("group", ("group", "Patient", "patient_id", "SUBJECT")),
        ("weight", ("weight", "Sample_Weight")),
        ("split", ("split", "Subset", "FOLD")),
    ],
)
def test_usual_names_of_the_others(pets, role, names):
    for name in names:
        body = BODY
        for old, new in {"group": (), "weight": (("x", "1"), ("y", "0.5")),
                         "split": ((",x", ",train"), (",y", ",test"))}[role]:  # fmt: skip
            body = body.replace(old, new)
        asked = {} if role == "split" else HALF
        found = pets.text(f"image,label,{name}\n{body}", **asked)
        assert found.origin["columns"][role] == name


def test_columns_that_are_named(pets):
    text = f"photo,species,label\n{BODY}"
    found = pets.text(text, columns={"image": "photo", "label": "Species"}, **HALF)
    assert found.class_names == ("cat", "dog")
    assert pets.text(text, columns={"image": "photo"}, **HALF).class_names == ("x", "y")
    # The only column that holds names of images needs no name.
    assert pets.text(text, **HALF).origin["columns"]["image"] == "photo"


def test_a_name_that_is_not_there(pets):
    text = f"image,label,species\n{BODY}"
    with pytest.raises(UserError) as caught:
        pets.text(text, columns={"label": "spezies"}, **HALF)
    message = str(caught.value)
    assert "--label-column spezies: " in message
    assert "no such column; it has the columns image, label, species" in message
    assert "did you mean species" in message


def test_several_candidates(pets):
    with pytest.raises(UserError, match=r"label column: label, class\nsay which: --label-column"):
        pets.text(f"image,label,class\n{BODY}", **HALF)
    named = pets.text(f"image,label,class\n{BODY}", columns={"label": "class"}, **HALF)
    assert named.class_names == ("x", "y")
    with pytest.raises(UserError, match="2 columns named label"):
        pets.text(f"image,label,label\n{BODY}", columns={"label": "label"}, **HALF)


def test_no_column_of_images_or_labels(pets):
    with pytest.raises(UserError, match="no column of images: it has the columns number, label"):
        pets.text("number,label\n1,a\n2,b\n")
    with pytest.raises(
        UserError, match=r"no column of labels.*\nname it, such as --label-column x"
    ):
        pets.text("image,x,y\na.png,1,2\n")
    with pytest.raises(UserError, match="has one column, image, and none of labels"):
        pets.text("image\na.png\n")


def test_separated_by_semicolons_bars_and_white_space(pets):
    for separator in (";", "|", "\t", " ", "   ", " \t "):
        text = f"image,label,kind\n{BODY}".replace(",", separator)
        found = pets.text(text, **HALF)
        assert found.class_names == ("cat", "dog"), separator
        assert len(found.train) == 2


def test_without_a_header(pets):
    found = pets.text(BODY, columns={"label": "2", "group": "3"}, **HALF)
    assert found.origin["columns"] == {"image": "1", "label": "2", "group": "3"}
    assert found.group_names == ("x", "y")
    assert len(found.train) + len(found.test) == 4
    with pytest.raises(UserError) as caught:
        pets.text(BODY, **HALF)
    assert "no header, and the columns 1 (train/cat/0.png), 2 (cat), 3 (x)" in str(caught.value)
    assert "--label-column 2" in str(caught.value)
    with pytest.raises(UserError, match="number of the column, counted from 1"):
        pets.text(BODY, columns={"label": "4"}, **HALF)
    two = "\n".join(line.rpartition(",")[0].replace(",", " ") for line in BODY.splitlines())
    assert pets.text(two, "list.txt", **HALF).class_names == ("cat", "dog")
    backwards = "\n".join(" ".join(line.split()[::-1]) for line in two.splitlines())
    assert pets.text(backwards, "list.txt", **HALF).class_names == ("cat", "dog")


def test_quotes_marks_and_encodings(pets):
    (pets.root / "train" / "cat" / "0.png").rename(pets.root / "a, b.png")
    text = f"image,label,other\n{BODY}".replace("train/cat/0.png", '"a, b.png"')
    assert "a, b.png" in (lambda d: d.train.ids + d.test.ids)(pets.text(text, **HALF))
    for encoding in ("utf-8-sig", "utf-16"):
        found = pets.text(text.replace("dog", "Hündin").replace("train/Hündin", "train/dog")
                          .encode(encoding), **HALF)  # fmt: skip
        assert found.class_names == ("Hündin", "cat")
    with pytest.raises(UserError) as caught:
        pets.text(text.replace(",dog", ",Hündin").encode("latin1"), **HALF)
    assert "labels.csv is not in UTF-8: line 4 has the bytes b'\\xfcndin" in str(caught.value)
    assert "iconv -f latin1" in str(caught.value)


def test_lines_of_windows_and_empty_ones(pets):
    found = pets.text(f"\nimage,label,x\n{BODY}\n\n".replace("\n", "\r\n"), **HALF)
    assert len(found.train) + len(found.test) == 4


def test_too_many_cells(pets):
    with pytest.raises(UserError, match=r"row 5 has 4 cells, and there are 3 columns .*commas"):
        pets.text(f"image,label,x\n{BODY}a, b.png,cat,x\n", **HALF)
    late = BODY * 20_000
    with pytest.raises(UserError, match="row 80001 has 4 cells"):
        pets.text(f"image,label,x\n{late}a, b.png,cat,x\n", **HALF)
    # A separator at the end of each line is no column.
    ends = f"image,label,x\n{BODY}".replace("\n", ",\n").replace("x,\n", "x\n", 1)
    assert len(pets.text(ends, **HALF).train) == 2


def test_quote_that_never_ends(pets):
    with pytest.raises(UserError, match=r"quote that opens in row \d+ is never closed"):
        pets.text(f'image,label,x\n{BODY}"a.png,cat,x\n' + BODY, **HALF)


def test_not_a_table(pets):
    with pytest.raises(UserError, match=r"labels\.csv is empty"):
        pets.text("")
    with pytest.raises(UserError, match="bytes of zero"):
        pets.text(b"image\0label\n")
    with pytest.raises(UserError, match="has no rows, only the columns"):
        pets.text("image,label\n")
    with pytest.raises(UserError, match=r"gone\.csv: No such file or directory; check the name"):
        pets.load("gone.csv")
    with pytest.raises(UserError, match=r"gone\.jsonl: No such file or directory; check the name"):
        pets.load("gone.jsonl")


@pytest.mark.parametrize(
    "text, said",
    [
        ('{"image": "a"\n', "line 1 is not JSON"),
        ('{"image": "train/cat/0.png", "label": "a"}\n[1]\n', "line 2 is no object but '[1]'"),
        ('{"image": "train/cat/0.png", "label": ["a"]}\n', "row 1 has a list in the column label"),
        ("", "is empty; a line for each image"),
    ],
)
def test_json_lines_that_cannot_be(pets, text, said):
    with pytest.raises(UserError) as caught:
        pets.text(text, "a.jsonl")
    assert said in str(caught.value)


def test_options_of_tables_are_refused_elsewhere(pets):
    for asked, said in (
        ({"columns": {"label": "x"}}, "--label-column is for tables"),
        ({"image_root": pets.root}, "--image-root is for tables"),
    ):
        with pytest.raises(UserError, match=said):
            pets.load(".", **asked)
