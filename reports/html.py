"""The pages of a report: one self-contained HTML file, and the same content as Markdown."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

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

if TYPE_CHECKING:
    from jinja2 import Template

TEMPLATES = Path(__file__).parent / "templates"


def write_report(folder: Path, results: Results | None = None) -> Path:
    """Write tables, figures and pages, and return the path of ``report.html``.

    Parameters
    ----------
    folder : Path
        Where to write.
    results : Results, optional
        What to show; by default the run in `folder`.
    """
    results = results or read_results(folder)
    content = page_content(results)
    left_out, tables = content["left_out"], folder / "tables"
    writers: dict[str, Callable[[], None]] = {
        "Tables of results": lambda: write_tables(results, tables)
    }
    if content["run_scores"]:
        scores = content["run_scores"]
        writers["Tables of scores"] = lambda: write_score_tables(results, scores, tables)
    if content["judged"]:
        claims = content["judged"]
        writers["Table of claims"] = lambda: write_claim_table(results, claims, tables)
    for title, write in writers.items():
        attempt(title, write, left_out)
    figures, not_drawn = write_figures(results, folder / "figures")
    left_out += not_drawn
    write_text(folder / "report.md", render_markdown(content, figures))
    page = folder / "report.html"
    write_text(page, render_html(content, figures))
    return page


def page_content(results: Results) -> dict[str, Any]:
    """Return the content of both pages without the figures; None for a part that fails."""
    left_out: list[str] = []

    def part(title: str, make: Callable[[], Any]) -> Any:
        return attempt(title, make, left_out)

    scores = part("Scores", lambda: score_run(results))
    judged = part("Claims", lambda: judge_claims(results)) or []
    claims = part("Claims", lambda: claim_section(results, judged))
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
        "run_scores": scores,
        "judged": judged,
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
    """Return the page, which contains its style, script and figures.

    Its security policy forbids to load anything and to run any script but its own, given by hash.
    """
    from markupsafe import Markup

    # Every template is HTML, whatever the ending of its name.
    filters = {"data": lambda value: Markup(embedded(value))}
    template = _template("report.html.j2", filters, autoescape=True)
    script = (TEMPLATES / "report.js").read_text(encoding="utf-8")
    parts = {
        "style": Markup((TEMPLATES / "report.css").read_text(encoding="utf-8")),
        "script": Markup(script),
        "script_hash": base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        "places": place_figures([inline_png(figure) for figure in figures]),
        "chart": {"width": WIDTH, "height": HEIGHT, "steps": STEPS},
    }
    return template.render(content | parts) + "\n"


def render_markdown(content: dict[str, Any], figures: list[Saved]) -> str:
    """Return the same content as Markdown, with links to the figures' files."""
    filters = {"text": markdown_text, "table": markdown}
    template = _template("report.md.j2", filters, autoescape=False)
    frames = {"band_frame": band_frame, "claim_frame": claim_frame, "figures": figures}
    return template.render(content | frames) + "\n"


def _template(name: str, filters: Mapping[str, Callable], *, autoescape: bool) -> Template:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=autoescape,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"doi_url": doi_url, **filters}
    return environment.get_template(name)


def doi_url(doi: str) -> str:
    """Return the address of a DOI or an arXiv identifier.

    Parameters
    ----------
    doi : str
        Such as ``"10.1016/j.neuroimage.2018.01.016"`` or ``"arXiv:1706.08500"``.

    Returns
    -------
    str
        Always an address at doi.org, so that a plug-in cannot insert another one.
    """
    from urllib.parse import quote

    name = doi.strip().removeprefix("https://doi.org/").removeprefix("doi:")
    if name.lower().startswith("arxiv"):
        name = "10.48550/arXiv." + name[5:].lstrip(": ")
    return "https://doi.org/" + quote(name, safe="/().:;-_")
