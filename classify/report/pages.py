"""How pages are made: jinja2 with everything escaped, and one way to write each kind of number.

HTML is escaped by jinja2's autoescape, and Markdown by `markdown_text`, to which every expression
goes first. Both mark what they have escaped as `markupsafe.Markup`, and so does jinja2 what a macro
returns; what is marked is never escaped again. A class named ``<script>`` or ``a|b`` shows as such
in both.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from classify.report.figures.style import inline
from classify.wording import (
    display_name,
    limit,
    p_text,
    points,
    points_up,
    upper_first,
)

if TYPE_CHECKING:
    from jinja2 import Environment

TEMPLATES = Path(__file__).parents[1] / "templates"
NOTHING = "–"


def percent(share: float | None, digits: int = 2) -> str:
    """Write a share in percent, without the sign."""
    return NOTHING if share is None else points(share, digits)


def interval(ends: list[float]) -> str:
    """Write an interval of shares in percent: ``89.12 to 91.40``."""
    return f"{limit(ends[0])} to {limit(ends[1])}"


def span(ends: list[float]) -> str:
    """Write an interval of shares that cannot be negative, in percent, as short as possible."""
    return f"{points(ends[0])}–{points(ends[1])}"


def shares(pair: list[float]) -> str:
    """Write an interval of shares in percent, to the tenth."""
    return f"{points(pair[0], 1)}–{points(pair[1], 1)}"


def ends(pair: list[float] | None) -> str:
    """Write an interval of numbers that are not in percent."""
    return NOTHING if pair is None else f"{pair[0]:.3f} to {pair[1]:.3f}"


def cost_text(value: float) -> str:
    """Write a cost with three digits or more, and never in powers of ten."""
    digits = 3 if abs(value) < 10 else 2 if abs(value) < 100 else 0
    text = f"{value:,.{digits}f}"
    return (text.lstrip("-") if float(text.replace(",", "")) == 0 else text).replace("-", "−")


def cost_ends(pair: list[float]) -> str:
    """Write an interval of costs."""
    return f"{cost_text(pair[0])} to {cost_text(pair[1])}"


def number(value: float | None, digits: int = 4) -> str:
    """Write a number with a fixed count of digits after the point."""
    return NOTHING if value is None else f"{value:.{digits}f}"


def general(value: float | None) -> str:
    """Write a number of any size with three significant digits."""
    return NOTHING if value is None else f"{value:.3g}"


def count(value: int | None) -> str:
    """Write a whole number with its thousands apart."""
    return NOTHING if value is None else f"{value:,}"


def bytes_text(value: float | None) -> str:
    """Write a number of bytes as people do."""
    if value is None:
        return NOTHING
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value:,} bytes"


def seconds(value: float | None) -> str:
    """Write a duration as people do."""
    if value is None:
        return NOTHING
    if value < 10:
        return f"{value:.2f} s"
    if value < 120:
        return f"{value:.1f} s"
    return f"{int(value // 60)} min {int(value % 60)} s"


# Line ends, and characters that no document may hold.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")
# An underscore between letters or digits is no markup, and file names are full of them.
_MARKUP = re.compile(r"[\\`*\[\]|~#$]|(?<![^\W_])_|_(?![^\W_])")


def markdown_text(value: Any) -> Any:
    """Escape what Markdown and the HTML within it would take for markup."""
    if not isinstance(value, str):
        return value
    text = _CONTROL.sub(" ", value)
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    text = _MARKUP.sub(r"\\\g<0>", text)
    return re.sub(r"^(\s*)(?:([-+=])(?=[-=\s]|$)|(\d+)([.)])(?=\s|$))", _escaped_start, text)


def _escaped_start(found: re.Match[str]) -> str:
    space, sign, number, stop = found.groups()
    return f"{space}\\{sign}" if sign else f"{space}{number}\\{stop}"


def _markdown(value: Any) -> Any:
    """Escape a value for Markdown, unless that has been done."""
    from markupsafe import Markup

    return value if hasattr(value, "__html__") else Markup(markdown_text(value))  # noqa: S704


def _code(text: str) -> Any:
    """Keep a line of a fenced code block as it is: Markdown escapes nothing in there."""
    from markupsafe import Markup

    return Markup(_CONTROL.sub(" ", text))  # noqa: S704


@lru_cache(2)  # compiling thirty templates takes a third of a second
def _environment(*, html: bool) -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        finalize=None if html else _markdown,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(
        percent=percent,
        interval=interval,
        span=span,
        shares=shares,
        ends=ends,
        cost=cost_text,
        cost_ends=cost_ends,
        number=number,
        general=general,
        count=count,
        seconds=seconds,
        points=points,
        points_up=points_up,
        p=p_text,
        shown=display_name,
        capital=upper_first,
        code=_code,
    )
    return environment


def render_html(template: str, figures: Mapping[str, str], **context: Any) -> str:
    """Fill an HTML template; its figures and styles go inside, so that nothing is fetched."""
    from markupsafe import Markup

    # Our own SVG, in which matplotlib and `escape` have escaped every name.
    ready = {name: Markup(inline(svg)) for name, svg in figures.items()}  # noqa: S704
    style = Markup((TEMPLATES / "style.css").read_text(encoding="utf-8"))  # noqa: S704
    page = _environment(html=True).get_template(template)
    return page.render(figures=ready, style=style, **context)


def render_markdown(template: str, figures: Mapping[str, str], **context: Any) -> str:
    """Fill a Markdown template, which links to ``figures/NAME.svg``."""
    text = _environment(html=False).get_template(template).render(figures=figures, **context)
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def write_pages(folder: Path, html: str, markdown: str, figures: Mapping[str, str]) -> None:
    """Write report.html, report.md and the figures into a folder."""
    from data.common.files import write_text

    (folder / "figures").mkdir(exist_ok=True)
    for name, svg in figures.items():
        write_text(folder / "figures" / f"{name}.svg", svg)
    write_text(folder / "report.md", markdown)
    write_text(folder / "report.html", html)
