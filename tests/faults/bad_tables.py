"""What can be wrong with a table of images, and what users are told: lines of `bad_input.TABLE`."""

from __future__ import annotations

import numpy as np
from PIL import Image

HEAD = "image,label,split\n"
ROWS = (
    "a0.png,a,train\na1.png,a,train\na2.png,a,test\nb0.png,b,train\nb1.png,b,train\nb2.png,b,test\n"
)
FREE = (HEAD + ROWS).replace(",split", "").replace(",train", "").replace(",test", "")


def build(root, at):
    """Write the images and the tables; add the paths by the names that the lines use."""
    folder = root / "tables"
    folder.mkdir()
    for index, name in enumerate(("a0", "a1", "a2", "b0", "b1", "b2")):
        pixels = np.full((20, 20, 3), 10 * index, np.uint8)
        Image.fromarray(pixels).save(folder / f"{name}.png")
    tables = {
        "good": HEAD + ROWS,
        "free": FREE,
        "gone": HEAD + ROWS.replace("a1", "c1").replace("b1", "c2"),
        "paths": "image,label\n" + "".join(f"{n}.png,{n}.png\n" for n in ("a0", "a1", "b0", "b1")),
        "tset": HEAD + ROWS.replace("b2.png,b,test", "b2.png,b,tset"),
        "folds": HEAD + ROWS.replace("train", "1").replace("test", "2"),
        "one_group": FREE.replace(",label", ",label,group").replace(",a\n", ",a,p\n")
        .replace(",b\n", ",b,p\n"),
        "no_group": FREE.replace(",label", ",label,group").replace(",a\n", ",a,p\n")
        .replace(",b\n", ",b,\n"),
        "nan": HEAD + ROWS.replace("a1.png,a", "a1.png,NaN"),
        "nan_weight": FREE.replace(",label", ",label,weight").replace(",a\n", ",a,1\n")
        .replace(",b\n", ",b,nan\n"),
        "less": FREE.replace(",label", ",label,weight").replace(",a\n", ",a,1\n")
        .replace(",b\n", ",b,-2\n"),
        "twice": HEAD + ROWS + "a1.png,b,train\n",
        "singles": "image,label\na0.png,x\na1.png,y\nb0.png,z\n",
        "unseen": HEAD + ROWS.replace("b2.png,b,test", "b2.png,c,test"),
        "several": "image,label,class\na0.png,a,b\na1.png,b,a\n",
        "no_rows": HEAD,
        "latin": (HEAD + ROWS.replace("a1.png,a", "a1.png,ä")).encode("latin1"),
        "ragged": HEAD + "a0.png,a,train,more\n" + ROWS,
        "unlabelled": HEAD + ROWS.replace(",a,", ",,").replace(",b,", ",,"),
        "zeros": b"\x00\x01\x02",
    }  # fmt: skip
    for name, text in tables.items():
        at[f"{name}_csv"] = folder / f"{name}.csv"
        at[f"{name}_csv"].write_bytes(text if isinstance(text, bytes) else text.encode())
    at["text_jsonl"] = folder / "text.jsonl"
    at["text_jsonl"].write_text('{"image": "a0.png", "label": "a"}\nimage\n')
    at["text_parquet"] = folder / "text.parquet"
    at["text_parquet"].write_text("image,label\n")
    at["names_txt"] = folder / "names.txt"
    at["names_txt"].write_text("a\n")
    at["tables"] = folder
    import pyarrow
    import pyarrow.parquet

    at["other_parquet"] = folder / "other.parquet"
    rows = [{"label": "a", "width": 1.5}, {"label": "b", "width": 2.5}]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), at["other_parquet"])
    at["list_parquet"] = folder / "list.parquet"
    rows = [{"label": "a", "image": [1.5, 2.0]}, {"label": "b", "image": [2.5, 2.0]}]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), at["list_parquet"])


def lines(extract):
    """Give the lines of the table; `extract` begins a command up to the name of a data set."""

    def table(name, *said, more=""):
        return (f"{extract} {{{name}}} {more}".strip(), f"{{{name}}}", *said)

    half = "--test-fraction 0.5"
    return [
        (f"{extract} {{tables}}/no.csv", "{tables}/no.csv", "No such file", "check the name"),
        table("gone_csv", "2 of 6 images of the column image", "(row 2: 'c1.png', row 5: 'c2."),
        table("gone_csv", "2 of 6", "--image-root DIR"),
        table("good_csv", "6 of 6", "--image-root DIR", more="--image-root {root}/no"),
        table("paths_csv", "column label looks like names of images", "--label-column", more=half),
        table("tset_csv", "split of row 6 is tset in the column split", "did you mean tst, test"),
        table("folds_csv", "row 1, row 2, row 4, ... is 1", "--split-column split:test=1"),
        (
            f"{extract} {{folds_csv}} --split-column split:2",
            "--split-column split:2", "'2' is not SPLIT=VALUE", "give such as fold:test=5",
        ),
        table("one_group_csv", "1 group, none of which can be held", "finer groups", more=half),
        table("no_group_csv", "no group in the column group (row 4, row", "write", more=half),
        table("nan_csv", "1 rows is NaN in the column label (row 2)", "leave the cell empty"),
        table("nan_weight_csv", "column weight: row 4 (nan)", "a number of 0 or more", more=half),
        table("less_csv", "3 rows is negative in the column weight: row 4 (-2)", "0 or", more=half),
        table("twice_csv", "a1.png: row 2 a, row 7 b", "leave one row for each image"),
        table("singles_csv", "3 of 3 classes of the column label", "--label-col", more=half),
        table("unseen_csv", "test split has classes of the column label", "--drop-class c"),
        table("several_csv", "may be the label column: label, class", "--label-column label"),
        table("no_rows_csv", "has no rows", "add them, or give another table"),
        table("latin_csv", "line 3 has the bytes b'\\xe4,", "save it in UTF-8"),
        table("ragged_csv", "row 1 has 4 cells, and there are 3 columns", "into quotes"),
        table("unlabelled_csv", "every cell of the column label is empty", "write the labels"),
        table("zeros_csv", "bytes of zero", "save it as CSV"),
        table("text_jsonl", "line 2 is not JSON", "such as"),
        table("text_parquet", "cannot be read as Parquet", "write the file again"),
        table("other_parquet", "no column of images: it has the columns", "--image-column"),
        table("list_parquet", "holds list<", "python -m data import"),
        table("free_csv", "no test split", "--test-fraction 0.2"),
        table("good_csv", "has its own test split, of 2", "leave --test-fraction", more=half),
        table("good_csv", "no such column", "did you mean label", more="--label-column labl"),
        table("good_csv", "no such column", "it has the columns", more="--image-column photo"),
        table("good_csv", "no such column", "it has the columns", more="--split-column part"),
        table("good_csv", "no such column", "it has the columns", more="--group-column patient"),
        table("good_csv", "no such column", "it has the columns", more="--weight-column w"),
        table("good_csv", "{names_txt}", "does not list", more="--class-names {names_txt}"),
        table("good_csv", "no such class; it has a, b", "give one of", more="--drop-class xylo"),
        table("good_csv", "no such class; it has a, b", "give one", more="--merge-classes z=x,y"),
        (
            f"{extract} {{good_csv}} --merge-classes z",
            "--merge-classes z", "give NEW=CLASS,CLASS", "such as animal=cat,dog",
        ),
        table("good_csv", "1 class (b)", "at least 2", more="--drop-class a"),
        (f"{extract} digits --label-column x", "--label-column", "for tables", "leave it out"),
        (f"{extract} digits --image-root {{root}}", "--image-root", "for tables", "leave it out"),
        (f"{extract} digits --drop-class ten", "--drop-class ten", "no such class", "0, 1, 2"),
        (
            f"{extract} digits --class-names {{names_txt}}",
            "{names_txt}", "has 1 lines, for the labels 0 to 0", "a line for each label",
        ),
    ]  # fmt: skip
