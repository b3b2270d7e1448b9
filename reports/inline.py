"""Figures inside the page: small PNG files in base64, each in its section."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import NamedTuple

from reports.figures import Saved

PLACES = (
    ("scores-leakage", "leakage"),
    ("scores-", "results"),
    ("pareto", "tradeoff"),
    ("slices", "images"),
    ("differences", "images"),
    ("errors", "images"),
    ("histograms", "histograms"),
    ("embedding", "embeddings"),
    ("confusion", "embeddings"),
    ("distances", "distances"),
    ("age", "age"),
    ("leakage", "leakage"),
)
"""Prefixes of figure names, each with its section of the page."""
ELSEWHERE = "more"
SCREEN_DPI = 96


class Inline(NamedTuple):
    """A figure inside the page; `width` in CSS pixels."""

    name: str
    title: str
    caption: str
    width: int
    base64: str


def inline_png(figure: Saved) -> Inline:
    """Return a figure for the page, with 256 colors if that makes the file smaller.

    The file in ``figures/`` keeps all colors.
    """
    from PIL import Image
    from PIL.Image import Dither, Quantize

    data, small = figure.png.read_bytes(), io.BytesIO()
    with Image.open(io.BytesIO(data)) as image:
        dpi = float(image.info.get("dpi", (SCREEN_DPI, SCREEN_DPI))[0])
        width = round(image.width * SCREEN_DPI / dpi)
        flat = image.convert("RGB")
    flat.quantize(256, method=Quantize.MAXCOVERAGE, dither=Dither.NONE).save(small, "PNG")
    text = base64.b64encode(min(data, small.getvalue(), key=len)).decode()
    return Inline(figure.name, figure.title, figure.caption, width, text)


def place_figures(figures: Sequence[Inline]) -> dict[str, list[Inline]]:
    """Return the figures of each section, by the prefixes of their names."""
    places = [*(place for _, place in PLACES), ELSEWHERE]
    placed: dict[str, list[Inline]] = {place: [] for place in places}
    for figure in figures:
        place = next((p for start, p in PLACES if figure.name.startswith(start)), ELSEWHERE)
        placed[place].append(figure)
    return placed
