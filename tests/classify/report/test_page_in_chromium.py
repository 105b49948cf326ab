"""Pages of real runs in a real browser: nothing is fetched, nothing fails, nothing overflows."""

import json
import re
import shutil
import subprocess

import pytest

from classify.report.run_report import write_report

NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next((path for path in map(shutil.which, NAMES) if path), None)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.figures,
    pytest.mark.skipif(not CHROMIUM, reason="Chromium is not installed"),
]


def browse(page, profile):
    """Open a page: its document after a while, and what the console said."""
    done = subprocess.run(
        [
            CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic",
            "--no-first-run", "--disable-background-networking", "--disable-component-update",
            "--disable-sync", "--allow-file-access-from-files", "--virtual-time-budget=3000",
            "--enable-logging=stderr", f"--user-data-dir={profile}", "--dump-dom", page.as_uri(),
        ],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    return done.stdout, [line for line in done.stderr.splitlines() if ":CONSOLE" in line]


def width_on_a_phone(page, folder):
    """How wide a page wants to be in 390 pixels; in a frame, since windows are not so narrow."""
    html = page.read_text(encoding="utf-8")
    probe = html.replace("default-src 'none'", "default-src 'none'; script-src 'unsafe-inline'")
    # The details are opened, since what is in them must fit too.
    probe = probe.replace("<details>", "<details open>").replace(
        "</body>",
        "<script>document.title = 'width ' + document.documentElement.scrollWidth</script></body>",
    )
    (folder / "probe.html").write_text(probe, encoding="utf-8")
    frame = folder / "frame.html"
    frame.write_text(
        '<!doctype html><body style="margin:0"><iframe src="probe.html" width="390" height="800" '
        'style="border:0" onload="document.title = this.contentDocument.title"></iframe>'
        "<script>setTimeout(() => { document.body.append(document.title) }, 500)</script>"
    )
    document, _ = browse(frame, folder / "profile")
    found = re.search(r"width (\d+)", document)
    assert found, document[-500:]
    return int(found.group(1))


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """The report of a small `make demo`: digits, and a backbone with random weights."""
    from classify.__main__ import main as classify
    from extract.__main__ import main as extract

    root = tmp_path_factory.mktemp("demo")
    extract(
        ["--dataset=digits", "--model=test_efficientnet", "--weights=random", "--image-size=32",
         "--limit=300", "--engine=torch", "--batch-size=32", f"--features-dir={root}"]
    )  # fmt: skip
    (store,) = root.glob("digits/*.h5")
    words = [f"--reports-dir={root / 'reports'}", "--c-grid=0.1,1,10", "--jobs=1"]
    classify(["fit", str(store), *words])
    (page,) = root.glob("reports/*/*/report.html")
    return page


def test_the_page_of_the_demo(tmp_path, demo):
    page = demo
    document, said = browse(page, tmp_path / "profile")
    assert "The verdict" in document
    assert "data:image/png" in document  # there are images, which are part of the page
    # The page forbids every request, so one that was tried would be an error in the console.
    assert said == []
    assert width_on_a_phone(page, tmp_path) <= 390
    greedy = tmp_path / "greedy.html"
    fetching = '<img src="http://127.0.0.1:9/x.png"></body>'
    greedy.write_text(page.read_text(encoding="utf-8").replace("</body>", fetching))
    _, said = browse(greedy, tmp_path / "profile")
    assert any("Content Security Policy" in line for line in said)


def test_long_names_push_nothing_out(tmp_path, make_results):

    results, _, _ = make_results(names=["x" * 70, *(f"class {i}" for i in range(59))], n=700)
    (tmp_path / "results.json").write_text(json.dumps(results), encoding="utf-8")
    assert width_on_a_phone(write_report(tmp_path), tmp_path) <= 390
