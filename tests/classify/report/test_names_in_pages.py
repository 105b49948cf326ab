"""Names as the pages show them, read by a Markdown parser and an HTML parser of others."""

import json
import re
from html.parser import HTMLParser

import pytest
from markdown_it import MarkdownIt

from classify.report.comparison import compare
from classify.report.run_report import write_report

# GitHub's Markdown, but for the links that it makes of bare addresses.
PARSER = MarkdownIt("commonmark").enable(["table", "strikethrough"])
NASTY = [
    "a|b", r"a\|b", "|", "\\", "*star*", "**bold**", "_under_", "__dunder__", "snake_case_name",
    "`code`", "``", "<b>", "</table>", "<!-- x -->", "&", "&amp;", "&lt;b&gt;", "&#124;",
    "~~gone~~", "[link](http://x.y)", "![image](x)", "# head", "- item", "1. first", "+", "---",
    "$x$", "$\\foo$", "two\nlines", "carriage\rreturn", "line\u2028separator", "tab\tstop",
    "  padded  ",     "x" * 200,
    "猫犬", "e\u0301", "שלום (עולם)", "مرحبا", "quote\"s'", "{{ jinja }}", "{% raw %}",
    "http://a.b", "a@b.c", "\x07bell", "^up^", "é ñ ü", "🐈‍⬛",
]  # fmt: skip


def flat(text):
    """What is left of a name where line ends and runs of spaces are one space."""
    return re.sub(r"[\s\x00-\x1f\x7f-\x9f]+", " ", text).strip()


def tables_of_markdown(document):
    """The cells of every table, as text, and the text of everything else."""
    tables, rest = [], []
    inside = False
    for token in PARSER.parse(document):
        if token.type == "table_open":
            tables.append([])
        inside = token.type == "table_open" or (inside and token.type != "table_close")
        if token.type == "tr_open":
            tables[-1].append([])
        if token.type == "inline":
            text = "".join(child.content for child in token.children)
            (tables[-1][-1] if inside else rest).append(flat(text))
    return tables, rest


class Cells(HTMLParser):
    def __init__(self, document):
        super().__init__()
        self.tables, self.cell, self.text, self.alt = [], None, [], []
        self.feed(document)

    def handle_starttag(self, tag, attributes):
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.cell = []
        elif tag == "img":
            self.alt.append(flat(dict(attributes)["alt"]))

    def handle_endtag(self, tag):
        if tag in ("td", "th"):
            self.tables[-1][-1].append(flat("".join(self.cell)))
            self.cell = None

    def handle_data(self, data):
        self.text.append(data)
        if self.cell is not None:
            self.cell.append(data)


def gallery_of(names):
    """Images whose ids are as nasty as the names of their classes."""

    def picture(i):
        answer = {"class": names[i - 1], "probability": 0.5, "right": False}
        answers = dict.fromkeys(("multinomial", "ovr", "ovo"), answer)
        return {"id": f"{i}/{names[i]}.png", "truth": names[i], "answers": answers}

    pictures = [picture(i) for i in range(len(names))]
    thumbnails = {entry["id"]: "data:image/png;base64,AA==" for entry in pictures}
    return {
        "disagreements": pictures, "confident_errors": pictures, "n_disagreements": len(names),
        "thumbnails": thumbnails, "missing": "",
    }  # fmt: skip


@pytest.fixture(scope="module")
def pages(make_results, tmp_path_factory):
    folder = tmp_path_factory.mktemp("nasty")
    results, _, _ = make_results(
        names=NASTY, n=900, dataset="da|ta *set* <b>", model="mo|del_ & `x`"
    )
    results["images"] = gallery_of(NASTY)
    (folder / "results.json").write_text(json.dumps(results), encoding="utf-8")
    write_report(folder)
    return results, (folder / "report.md").read_text("utf-8"), (folder / "report.html").read_text()


def check_tables(tables):
    for table in tables:
        assert len({len(row) for row in table}) == 1, table
        assert len(table) > 1, table


def test_every_table_of_the_markdown_report_is_a_table_of_the_names_themselves(pages):
    results, document, _ = pages
    tables, rest = tables_of_markdown(document)
    check_tables(tables)
    # Whatever looks like a row is one: none is left behind as text.
    rows = [line for line in document.splitlines() if line.startswith("|")]
    assert len(rows) == sum(len(table) + 1 for table in tables)
    assert not any("---|" in text or r"\|" in text for text in rest)
    by_head = {(table[0][0], table[0][-1]): table for table in tables}
    names = [flat(name) for name in NASTY]
    assert [row[0] for row in by_head["class", "images"][1:]] == names
    assert {row[0] for row in by_head["class", "ROC area, %"][1:]} == set(names)
    images = [table for table in tables if table[0][:2] == ["image", "truth"]]
    assert len(images) == 2
    for table in images:
        for row, entry in zip(table[1:], results["images"]["disagreements"], strict=True):
            assert row[:2] == [flat(entry["id"]), flat(entry["truth"])]
            answer = flat("✗ " + entry["answers"]["ovo"]["class"] + " 50 %")
            assert row[2:] == [answer] * 3
    for pair in by_head["truth", "of"][1:]:
        assert {pair[0], pair[1]} <= set(names)
    assert rest[0] == "da|ta *set* <b>: mo|del_ & `x` 128 px"


@pytest.mark.figures
def test_the_html_report_escapes_names_exactly_once(pages):
    results, _, document = pages
    page = Cells(document)
    check_tables([[row for row in table if len(row) > 1] for table in page.tables])
    names = [flat(name) for name in NASTY]
    (per_class,) = [
        table for table in page.tables if table[0][0] == "class" and table[0][-1] == "images"
    ]
    assert [row[0] for row in per_class[1:]] == names
    text = flat("".join(page.text))
    for entry in results["images"]["disagreements"]:
        assert flat(entry["id"]) in text
        assert flat(f"{entry['id']}: {entry['truth']}") in page.alt
    assert "<b>" not in re.sub(r"<svg.*?</svg>", "", document, flags=re.DOTALL)


def test_every_table_of_a_comparison_is_a_table(make_run, tmp_path):
    for i, name in enumerate(("mo|del_", "<b>*x*</b> & `y`", "\\|")):
        make_run(tmp_path / f"run{i}", key=f"{i}" * 64, model=name, dataset="a|b <i>", seed=i)
    page, comparison, _ = compare([], tmp_path)
    tables, rest = tables_of_markdown(page.with_name("report.md").read_text("utf-8"))
    check_tables(tables)
    assert len(tables) == 5
    labels = {flat(run["label"]) for run in comparison["runs"]}
    assert {row[0] for row in tables[0][1:]} == labels
    assert {row[0] for row in tables[-1][1:]} == labels
    assert {row[0] for row in tables[1][1:]} == labels  # each against the best
    assert {row[0] for row in tables[3][1:]} == {
        flat(f"{pair['a']} − {pair['b']}") for pair in comparison["backbones"]
    }
    assert "a|b <i>" in rest
    html = Cells(page.read_text("utf-8"))
    check_tables(html.tables)
    assert {row[0] for row in html.tables[0][1:]} == labels


def test_every_table_of_a_real_report_is_a_table(fitted_run):
    tables, rest = tables_of_markdown((fitted_run[0] / "report.md").read_text("utf-8"))
    check_tables(tables)
    assert not any("|" in text for text in rest)
    assert ["image", "truth"] in [table[0][:2] for table in tables]
