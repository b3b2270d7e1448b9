"""`harmbench check`: the data sheet and every problem, as text and as a page."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import typer
from tabulate import tabulate

from harmbench import registry
from harmbench.cli import EXIT_USER_ERROR
from harmbench.config import RunConfig, build_dataset, resolve
from harmbench.data.problems import Problem, printable
from harmbench.data.sheet import DataSheet, make_sheet
from harmbench.errors import HarmbenchError

WIDTH = 80
STRONG = 0.14
"""Eta squared from which site is said to show in the images' brightness (Cohen 1988: large)."""


def check(
    data: str, preset: str, options: dict[str, Any], html: Path | None, *, quiet: bool
) -> int:
    """Print the data sheet of a data set and write it as a page where asked for.

    Returns
    -------
    int
        0 where a run with the same options would start, else 2.
    """
    from harmbench.cli.run import make_progress

    if html is not None and (html.is_dir() or not html.parent.is_dir()):
        raise HarmbenchError(f"--html {html}: name a file in a folder that exists")
    config = resolve(data=data, preset=preset, protocol="full", data_options=options)
    with make_progress(quiet) as progress:
        sheet = make_sheet(build_dataset(config), progress=progress)
    skip_bad = bool(options.get("skip_bad"))
    verdict = verdict_on(sheet.problems, skip_bad)
    outlook = outlook_of(sheet, config)
    typer.echo("\n".join(text_of(sheet, verdict, outlook)))
    if html is not None:
        from harmbench.cli.check_page import page
        from harmbench.store import write_text

        write_text(html, page(sheet, verdict, outlook))
        typer.echo(f"\npage: {html}")
    return 0 if not blocking(sheet.problems, skip_bad) else EXIT_USER_ERROR


def blocking(problems: list[Problem], skip_bad: bool) -> list[Problem]:
    """Return the problems that keep a run from starting."""
    return [p for p in problems if p.scan is None or not skip_bad]


def verdict_on(problems: list[Problem], skip_bad: bool) -> str:
    """Say in one sentence whether a run starts."""
    if not problems:
        return "No problem found."
    whole = sum(problem.scan is None for problem in problems)
    scans = len({problem.scan for problem in problems} - {None})
    count = f"{len(problems)} problem{'s' if len(problems) > 1 else ''}"
    those = "this scan" if scans == 1 else f"these {scans} scans"
    if whole:
        also = f"; --skip-bad would leave out {those}, not mend the rest" if scans else ""
        return f"{count}. A run refuses these data{also}."
    if skip_bad:
        return f"{count}. A run leaves out {those}."
    return f"{count}. A run refuses these data; --skip-bad goes on without {those}."


def outlook_of(sheet: DataSheet, config: RunConfig) -> list[str]:
    """Say what a run on these data can and cannot compute."""
    if sheet.split is None:
        return []
    n = sheet.test_scans
    said = [
        f"Two-fold cross-fitting: {n} images are scored in the smaller half."
        if sheet.split.cross_fitting
        else f"Three parts by subject: {n} images are scored, in the test part."
    ]
    skipped: dict[int, list[str]] = {}
    for name in config.metrics:
        least = registry.load("metric", name).info.min_n
        if least > n:
            skipped.setdefault(least, []).append(name)
    said += [
        f"Fewer than {least} scored images, so these metrics are skipped: {', '.join(names)}."
        for least, names in sorted(skipped.items())
    ]
    if sheet.contrast >= STRONG:
        said.append(
            f"Site explains {sheet.contrast:.0%} of the variance of the images' mean intensity: "
            "site effects are plain to see."
        )
    return said


def text_of(sheet: DataSheet, verdict: str, outlook: list[str]) -> Iterator[str]:
    """Yield the lines of the data sheet, at most 80 columns wide but for single long words."""
    yield printable(sheet.label)
    yield "=" * min(len(sheet.label), WIDTH)
    yield from _wrapped(verdict)
    for number, problem in enumerate(sheet.problems, 1):
        yield from _wrapped(str(problem), f"{number:>3}. ")
    for note in sheet.notes:
        yield from _wrapped(note, "  - ")
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
