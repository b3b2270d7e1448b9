"""The pages of a report: one self-contained HTML file, and the same as Markdown."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harmbench.files.atomic import write_text
from reports import sheet
from reports.answer import short_answer
from reports.attempts import attempt
from reports.cards import method_cards
from reports.claim_tables import LEGEND, claim_frame, claim_section, write_claim_table
from reports.claims import judge_claims
from reports.figures import Saved, write_figures
from reports.inline import inline_png, place_figures
from reports.results import Results, read_results
from reports.score_tables import score_frame, score_note, write_score_tables
from reports.scores import score_run
from reports.stepper import stepper
from reports.tables import (
    ARROWS,
    DIRECTIONS,
    band_frame,
    budgets,
    markdown,
    markdown_text,
    results_table,
    site_tables,
    write_tables,
)
from reports.weighting import HEIGHT, STEPS, WIDTH, embedded, weighting

TEMPLATES = Path(__file__).parent / "templates"


def write_report(folder: Path, results: Results | None = None) -> Path:
    """Write everything that `reports.build` promises; return the path of ``report.html``.

    Parameters
    ----------
    folder : Path
        Where to.
    results : Results, optional
        What to show; by default the run that lies in `folder`.
    """
    results = results or read_results(folder)
    content = page_content(results)
    left_out, tables = content["left_out"], folder / "tables"
    attempt("Tables of results", lambda: write_tables(results, tables), left_out)
    attempt(
        "Tables of scores",
        lambda: write_score_tables(results, score_run(results), tables),
        left_out,
    )
    attempt(
        "Table of claims",
        lambda: write_claim_table(results, judge_claims(results), tables),
        left_out,
    )
    figures, not_drawn = write_figures(results, folder / "figures")
    left_out += not_drawn
    write_text(folder / "report.md", render_markdown(content, figures))
    page = folder / "report.html"
    write_text(page, render_html(content, figures))
    return page


def page_content(results: Results) -> dict[str, Any]:
    """Return all that both pages say, but for the figures; None for a part that fails."""
    left_out: list[str] = []

    def part(title: str, make: Callable[[], Any]) -> Any:
        return attempt(title, make, left_out)

    scores = part("Scores", lambda: score_run(results))
    claims = part("Claims", lambda: claim_section(results, judge_claims(results)))
    of_scores = {
        "answer": ("The answer in short", lambda: short_answer(results, scores, claims)),
        "scores": ("Table of scores", lambda: score_frame(scores)),
        "score_note": ("Note on the scores", lambda: score_note(scores)),
        "weighting": ("Other weights", lambda: weighting(scores)),
    }
    return {
        **{name: scores and part(*how) for name, how in of_scores.items()},
        "title": f"Harmonization benchmark: {results.config['dataset']['label']}",
        "lead": part("First sentence", lambda: sheet.lead(results)),
        "sheet": part("Data", lambda: sheet.data_sheet(results)),
        "claims": claims,
        "claim_legend": LEGEND,
        "table": part("Results", lambda: results_table(results)),
        "budgets": part("Images seen in training", lambda: budgets(results)),
        "site_tables": part("Results by site", lambda: site_tables(results)),
        "stepper": part("Images to step through", lambda: stepper(results)),
        "problems": part("Skipped and failed", lambda: sheet.problems(results)),
        "cards": part("Methods", lambda: method_cards(results)),
        "metrics": results.metrics,
        "provenance": part("Provenance", lambda: sheet.provenance(results)),
        "command": part("Command", lambda: sheet.command(results)),
        "settings": part("All settings", lambda: sheet.settings(results)),
        "left_out": left_out,
        "arrows": ARROWS,
        "directions": DIRECTIONS,
    }


def render_html(content: dict[str, Any], figures: list[Saved]) -> str:
    """Return the page, with its style, script and figures inside.

    The page forbids itself to load anything and to run any script but its own, whose hash it names.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    # Every template is HTML, whatever its name ends with.
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"doi_url": doi_url, "data": lambda value: Markup(embedded(value))}
    script = (TEMPLATES / "report.js").read_text(encoding="utf-8")
    parts = {
        "style": Markup((TEMPLATES / "report.css").read_text(encoding="utf-8")),
        "script": Markup(script),
        "script_hash": base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        "places": place_figures([inline_png(figure) for figure in figures]),
        "chart": {"width": WIDTH, "height": HEIGHT, "steps": STEPS},
    }
    return environment.get_template("report.html.j2").render(content | parts) + "\n"


def render_markdown(content: dict[str, Any], figures: list[Saved]) -> str:
    """Return the same as Markdown, with the figures by their relative path."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=False,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "text": markdown_text, "table": markdown, "doi_url": doi_url
    }  # fmt: skip
    template = environment.get_template("report.md.j2")
    frames = {"band_frame": band_frame, "claim_frame": claim_frame}
    return template.render(content | frames | {"figures": figures}) + "\n"


def doi_url(doi: str) -> str:
    """Return the address of a DOI or an arXiv identifier.

    Parameters
    ----------
    doi : str
        Such as ``"10.1016/j.neuroimage.2018.01.016"`` or ``"arXiv:1706.08500"``.

    Returns
    -------
    str
        Always of doi.org, whatever the text says, so that a plug-in cannot plant another address.
    """
    from urllib.parse import quote

    name = doi.strip().removeprefix("https://doi.org/").removeprefix("doi:")
    if name.lower().startswith("arxiv"):
        name = "10.48550/arXiv." + name[5:].lstrip(": ")
    return "https://doi.org/" + quote(name, safe="/().:;-_")
