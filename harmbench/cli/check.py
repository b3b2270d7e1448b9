"""`harmbench check`: the data sheet and every problem, as text and as a page."""

from __future__ import annotations

import json
import shlex
import textwrap
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any, get_args

import typer

from harmbench import registry
from harmbench.cli import EXIT_USER_ERROR
from harmbench.cli.check_text import WIDTH, text_of
from harmbench.cli.data_options import as_flags
from harmbench.config import RunConfig, build_dataset, resolve
from harmbench.contracts.metric import Axis
from harmbench.contracts.product import Product
from harmbench.data.problems import Problem
from harmbench.data.sheet import DataSheet, make_sheet
from harmbench.errors import HarmbenchError
from harmbench.study import read_study

STRONG = 0.14
"""Eta squared from which site is said to show in the images' brightness (Cohen 1988: large)."""


def check(
    flags: dict[str, Any], study: Path | None, html: Path | None, save: Path | None, *, quiet: bool
) -> int:
    """Print the data sheet of a data set and write it as a page where asked for.

    Parameters
    ----------
    flags : dict
        Data, preset and data options of the command line, None where not given.
    study : Path or None
        Study file with further settings.
    html, save : Path or None
        Files for the page, and for a study file of these settings.
    quiet : bool
        Without progress.

    Returns
    -------
    int
        0 where a run with the same options would start, else 2.
    """
    from harmbench.progress import make_progress

    if html is not None and (html.is_dir() or not html.parent.is_dir()):
        raise HarmbenchError(f"--html {html}: name a file in a folder that exists")
    if save is not None and (save.exists() or save.suffix != ".toml"):
        raise HarmbenchError(f"--save {save}: name a new file that ends with .toml")
    held = read_study(study) if study else {}
    options = {**(held.get("data_options") or {}), **(flags["data_options"] or {})}
    data, preset = (flags[name] or held.get(name) for name in ("data", "preset"))
    if data is None:
        raise HarmbenchError("give the data to check: a folder, a file, or a data set's name")
    config = resolve(data=data, preset=preset or "standard", protocol="full", data_options=options)
    dataset = build_dataset(config)
    with make_progress(quiet) as progress:
        sheet = make_sheet(dataset, progress=progress)
    skip_bad = bool(options.get("skip_bad"))
    verdict = verdict_on(sheet.problems, skip_bad)
    outlook = outlook_of(sheet, config, dataset.info.has_truth)
    typer.echo(textwrap.fill(answers_of(sheet, dataset.info.has_truth), WIDTH))
    typer.echo("\n".join(text_of(sheet, verdict, outlook)))
    if starts := not blocking(sheet.problems, skip_bad):
        more = ["--preset", preset] if preset else []
        command = ["run", "--methods", "combat", "--data", data, *more, *as_flags(options)]
        typer.echo(f"\nTo run: {shlex.join(['harmbench', *command])}")
    if save is not None:
        write_study(save, data, preset, options)
        typer.echo(f"or: harmbench run --methods combat --config {shlex.quote(str(save))}")
    if html is not None:
        from harmbench.cli.check_page import page
        from harmbench.files.atomic import write_text

        write_text(html, page(sheet, verdict, outlook))
        typer.echo(f"\npage: {html}")
    return 0 if starts else EXIT_USER_ERROR


def write_study(path: Path, data: str, preset: str | None, options: dict[str, Any]) -> None:
    """Write data, preset and data options as a study file."""
    from harmbench.files.atomic import write_text

    def line(name: str, value: Any) -> str:
        return f"{name} = {json.dumps(value, ensure_ascii=False)}"  # TOML has JSON's values

    # A study file may be used from another folder.
    place = str(Path(data).resolve()) if Path(data).exists() else data
    lines = [line("data", place), *([line("preset", preset)] if preset else [])]
    if options:
        lines += ["", "[data_options]", *(line(*pair) for pair in options.items())]
    write_text(path, "\n".join(lines) + "\n")


def answers_of(sheet: DataSheet, has_truth: bool) -> str:
    """Say in one or two sentences which questions a run on these data can answer.

    A question is answered where one of the metrics of the core protocol can be computed.
    """
    if sheet.split is None:
        return "A run on these data cannot start; what has to be mended stands below."
    reasons: dict[str, list[str]] = {}
    for name in registry.names("metric"):
        info = registry.load("metric", name).info
        if info.level != "full":
            why = _why_not(info.needs, info.min_n, sheet, has_truth)
            reasons.setdefault(info.axis, []).append(why)
    if not has_truth and dict(sheet.facts).get("Scanned at several sites") == "0":
        reasons["truth"] = ["needs a known truth or subjects scanned at several sites"]
    answered = [axis for axis in get_args(Axis) if "" in reasons.get(axis, [])]
    first = f"A run can answer: {', '.join(answered) or 'nothing'}."
    others: dict[str, list[str]] = {}
    for axis, said in reasons.items():
        if axis not in answered:
            others.setdefault(said[0], []).append(axis)
    missing = "; ".join(f"{', '.join(axes)} ({why})" for why, axes in others.items())
    return f"{first} It cannot answer: {missing}." if others else first


@cache
def _products() -> dict[str, Product]:
    from harmbench.protocol import PRODUCTS

    return {product.name: product for product in PRODUCTS}


def _why_not(needs: Iterable[str], least: int, sheet: DataSheet, has_truth: bool) -> str:
    """Return why something cannot be made from these data, else ""."""
    for need in needs:
        if (need.startswith(("truth.", "oracle:"))) and not has_truth:
            return "needs a known truth"
        made = _products().get(need.rpartition(":")[2])
        if made is not None:
            if made.images and not sheet.thumbnails:
                return "needs images, not a table of features"
            why = _why_not(made.needs, made.min_n, sheet, has_truth)
            if why:
                return why
    if sheet.test_scans < least:
        return f"needs {least} scored images, there are {sheet.test_scans}"
    return ""


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


def outlook_of(sheet: DataSheet, config: RunConfig, has_truth: bool) -> list[str]:
    """Say what a run on these data can and cannot compute."""
    if sheet.split is None:
        return []
    n = sheet.test_scans
    said = [
        f"Cross-fitting in {len(sheet.split.folds)} folds: all {n} images are scored."
        if sheet.split.cross_fitting
        else f"Three parts by subject: {n} images are scored, in the test part."
    ]
    skipped: dict[str, list[str]] = {}
    for name in config.metrics:
        info = registry.load("metric", name).info
        if why := _why_not(info.needs, info.min_n, sheet, has_truth):
            skipped.setdefault(why, []).append(name)
    said += [f"Skipped ({why}): {', '.join(names)}." for why, names in skipped.items()]
    if sheet.contrast >= STRONG:
        said.append(
            f"Site explains {sheet.contrast:.0%} of the variance of the images' mean intensity: "
            "site effects are plain to see."
        )
    return said
