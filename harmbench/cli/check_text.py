"""The data sheet as text for a terminal."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator

import pandas as pd
from tabulate import tabulate

from harmbench.data.problems import printable
from harmbench.data.sheet import DataSheet

WIDTH = 80


def text_of(sheet: DataSheet, verdict: str, outlook: list[str]) -> Iterator[str]:
    """Yield the lines of the data sheet, at most 80 columns wide but for single long words."""
    yield printable(sheet.label)
    yield "=" * min(len(sheet.label), WIDTH)
    yield from _wrapped(verdict)
    for number, problem in enumerate(sheet.problems, 1):
        yield from _wrapped(str(problem), f"{number:>3}. ")
    for note in sheet.notes:
        yield from _wrapped(note, "  - ")
    for title, sentences in (("Read", sheet.read), ("Set aside", sheet.set_aside)):
        if sentences:
            yield from _titled(title)
        for sentence in sentences:
            yield from _wrapped(sentence, "- ")
    if sheet.facts:
        yield from _titled("Data")
        yield tabulate(sheet.facts, tablefmt="plain")
        yield from _titled("Sites")
        yield _table(sheet.sites)
        yield from _titled("Age, sex and site")
        for one in sheet.confounding:
            yield from _wrapped(f"{one.name}: {number_of(one.value, one.chance)}")
            yield from _wrapped(one.meaning, "    ")
        yield from _titled("Images as a run sees them (mean ± standard deviation in a site)")
        yield _table(image_rows(sheet.images))
    if not sheet.files.empty:
        yield from _titled("Files as they are stored")
        yield _table(sheet.files)
    if outlook:
        yield from _titled("What a run will do")
        for sentence in outlook:
            yield from _wrapped(sentence)


def number_of(value: float, chance: float) -> str:
    """Return a number and what to expect by chance."""
    if math.isnan(value):
        return "unknown"
    return f"{value:.2f}" + ("" if math.isnan(chance) else f" (about {chance:.2f} by chance)")


def image_rows(images: pd.DataFrame) -> pd.DataFrame:
    """Return the statistics of the images as texts, one row a site."""
    units = {"Foreground": "Foreground (%)"}
    rows = []
    for site, row in images.iterrows():
        texts = {
            units.get(name, name): _plus_minus(row[(name, "mean")], row[(name, "std")])
            for name in images.columns.get_level_values(0).unique()
        }
        rows.append({"Site": str(site), **texts})
    return pd.DataFrame(rows)


def _plus_minus(mean: float, spread: float) -> str:
    return f"{mean:.3g}" + ("" if math.isnan(spread) else f" ± {spread:.2g}")


def _titled(title: str) -> Iterator[str]:
    yield ""
    yield title
    yield "-" * len(title)


def _wrapped(text: str, lead: str = "") -> list[str]:
    return textwrap.wrap(
        printable(text), WIDTH, initial_indent=lead, subsequent_indent=" " * len(lead),
        break_long_words=False, break_on_hyphens=False,
    )  # fmt: skip


def _table(frame: pd.DataFrame) -> str:
    """Return a table; where it is too wide, its widest columns are wrapped."""
    frame = frame.map(printable)
    limits = [max([len(str(name)), *frame[name].map(len)]) for name in frame]
    while _total(limits) > WIDTH and max(limits) > 8:
        limits[limits.index(max(limits))] -= 1
    headers = [
        "\n".join(textwrap.wrap(str(name), limit))
        for name, limit in zip(frame, limits, strict=True)
    ]
    cells = [
        ["\n".join(textwrap.wrap(cell, limit)) for cell, limit in zip(row, limits, strict=True)]
        for row in frame.itertuples(index=False)
    ]
    # As a first row: tabulate pads its own headers by two.
    rule = ["-" * limit for limit in limits]
    return tabulate([headers, rule, *cells], tablefmt="plain", disable_numparse=True)


def _total(widths: list[int]) -> int:
    return sum(widths) + 2 * (len(widths) - 1)
