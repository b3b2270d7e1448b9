"""`harmbench check`: the data sheet and every problem, as text and as a page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer

from harmbench import registry
from harmbench.cli import EXIT_USER_ERROR
from harmbench.cli.check_text import text_of
from harmbench.config import RunConfig, build_dataset, resolve
from harmbench.data.problems import Problem
from harmbench.data.sheet import DataSheet, make_sheet
from harmbench.errors import HarmbenchError

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
        from harmbench.files import write_text

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
