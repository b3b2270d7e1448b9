"""Figures as the page holds them: small PNG files in base64, each in its section."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from reports.figures import Saved

if TYPE_CHECKING:
    from PIL.Image import Image

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
    ("pull", "leakage"),
)
"""Beginnings of figures' names and the section of the page where they stand."""
ELSEWHERE = "more"
SCREEN_DPI = 96


@dataclass(frozen=True)
class Inline:
    """A figure inside the page; `width` in CSS pixels."""

    name: str
    title: str
    caption: str
    width: int
    base64: str


def inline_png(figure: Saved) -> Inline:
    """Return a figure for the page, in 256 colors where that makes the file smaller.

    The file in ``figures/`` keeps all of its colors.
    """
    from PIL import Image

    data = figure.png.read_bytes()
    with Image.open(io.BytesIO(data)) as image:
        dpi = float(image.info.get("dpi", (SCREEN_DPI, SCREEN_DPI))[0])
        width = round(image.width * SCREEN_DPI / dpi)
        small = _few_colors(image)
    shorter = min(data, small, key=len)
    return Inline(
        figure.name, figure.title, figure.caption, width, base64.b64encode(shorter).decode()
    )


def place_figures(figures: Sequence[Inline]) -> dict[str, list[Inline]]:
    """Return the figures by the section they belong to, by the beginnings of their names."""
    places = [*(place for _, place in PLACES), ELSEWHERE]
    placed: dict[str, list[Inline]] = {place: [] for place in places}
    for figure in figures:
        place = next((p for start, p in PLACES if figure.name.startswith(start)), ELSEWHERE)
        placed[place].append(figure)
    return placed


def _few_colors(image: Image) -> bytes:
    from PIL.Image import Dither, Quantize

    flat = image.convert("RGB")
    few = flat.quantize(256, method=Quantize.MAXCOVERAGE, dither=Dither.NONE)
    file = io.BytesIO()
    few.save(file, "PNG")
    return file.getvalue()
