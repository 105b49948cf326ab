"""``predict --html``: the images with their answers, on one page that needs no network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from classify.analysis.gallery import data_uri, thumbnail_size
from classify.report.pages import render_html
from classify.results.names import has_random_weights
from classify.saved.heads import SavedHead
from classify.saved.models import SavedModel
from data.common.cli import log, progress
from data.common.errors import UserError
from data.common.files import check_writable, write_text
from data.images.decode import MAX_PIXELS, decode_image

# A page with more images than this is slow to open: the least sure answers are worth a look.
MOST = 2000
SUFFIXES = (".html", ".htm")


def check_page(path: Path) -> Path:
    """See to it that a page can be written, and that it replaces nothing but a page."""
    if path.suffix.lower() not in SUFFIXES or path.is_dir():
        raise UserError(
            f"--html {path} is {'a folder' if path.is_dir() else 'no name of a page'}; give the "
            "name of a file to write, such as answers.html"
        )
    check_writable(path.resolve().parent)
    return path


def write_page(
    path: Path,
    head: SavedHead | SavedModel,
    found: Sequence[Mapping[str, Any]],
    max_pixels: int = MAX_PIXELS,
) -> None:
    """Write the page."""
    shown = least_sure(found, MOST)
    if len(shown) < len(found):
        log(f"{path} shows the {len(shown):,} least sure of {len(found):,} answers")
    with (
        ThreadPoolExecutor(max_workers=4) as pool,
        progress(len(shown), "thumbnails", "image") as bar,
    ):
        thumbnail, pictures = partial(_thumbnail, max_pixels), []
        for uri in pool.map(thumbnail, [answer["image"] for answer in shown]):
            pictures.append(uri)
            bar.update(1)
    page = render_html(
        "answers.html.j2",
        {},
        head=head,
        backbone=str((head.spec.get("model") or {}).get("name", "an unknown backbone")),
        random_weights=has_random_weights(head.spec),
        n_images=len(found),
        answers=list(zip(shown, pictures, strict=True)),
    )
    write_text(path, page)


def _thumbnail(max_pixels: int, path: str) -> str:
    return data_uri(decode_image(path, max_pixels=max_pixels, wanted=thumbnail_size))


def least_sure(found: Sequence[Mapping[str, Any]], most: int) -> list[Mapping[str, Any]]:
    """Choose the answers whose most probable class is the least probable."""
    order = sorted(range(len(found)), key=lambda i: found[i]["top"][0]["probability"])
    return [found[i] for i in sorted(order[:most])]
