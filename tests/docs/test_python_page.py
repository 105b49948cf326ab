"""The example of `embed` in the reference: what it prints is what the page says."""

from __future__ import annotations

import doctest
import re
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "python.md"


def test_the_example_of_embed(tmp_path, monkeypatch, capsys):
    from extract import embed

    monkeypatch.chdir(tmp_path)  # it writes features/
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    (code,) = [block for block in blocks if ">>>" in block]
    assert "from extract import embed" in code
    examples = doctest.DocTestParser().get_doctest(code, {"embed": embed}, PAGE.name, PAGE.name, 0)
    assert len(examples.examples) > 4
    told = []
    results = doctest.DocTestRunner(verbose=False).run(examples, out=told.append)
    assert not results.failed, "".join(told)
    capsys.readouterr()
    assert list(tmp_path.glob("features/made/*.h5"))
