"""The tables of a report: what stands in each cell, and how it is written to files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from harmbench.files.atomic import write_atomic, write_text
from harmbench.results.folder import SCORE_COLUMNS
from reports.latex import PREAMBLE, latex, latex_text
from reports.results import Results, Row, Score
from reports.shading import merit, shades

NONE = "—"
ARROWS = {"lower": "↓", "higher": "↑", "target": "→"}
DIRECTIONS = {
    "lower": "lower is better",
    "higher": "higher is better",
    "target": "nearer to the target is better",
}


@dataclass(frozen=True)
class TableCell:
    """One cell of the results table.

    Attributes
    ----------
    text : str
        The value, or a dash.
    interval : str
        ``"[low, high]"``, empty where there is none.
    notes : list of int
        Numbers of the footnotes that belong to it.
    status : str
        ``"ok"``, ``"skipped"``, ``"failed"`` or ``"absent"``.
    shade : float
        The share of the methods that are not clearly better, see `reports.shading`; NaN for none.
    merit : float
        Sorts the column: the less, the better; NaN for no value.
    """

    text: str
    interval: str = ""
    notes: list[int] = field(default_factory=list)
    status: str = "ok"
    shade: float = np.nan
    merit: float = np.nan

    @property
    def plain(self) -> str:
        """All of it as one line of text."""
        marks = "".join(f" [{number}]" for number in self.notes)
        return " ".join(part for part in (self.text, self.interval) if part) + marks


@dataclass(frozen=True)
class Column:
    """One metric as a column: its declaration, its cells in row order, and what stands below."""

    metric: dict[str, Any]
    cells: list[TableCell]
    target: str
    floors: list[str]
    notes: list[int] = field(default_factory=list)

    @property
    def known(self) -> bool:
        """Whether any row has a value."""
        return any(cell.status == "ok" for cell in self.cells)

    @property
    def all_notes(self) -> list[int]:
        """Numbers of the footnotes of its head and of its cells, each once."""
        return sorted({*self.notes, *(number for cell in self.cells for number in cell.notes)})

    @property
    def head(self) -> str:
        """Label with unit, direction and footnotes."""
        unit = f" ({self.metric['unit']})" if self.metric["unit"] else ""
        marks = "".join(f" [{number}]" for number in self.notes)
        return f"{self.metric['label']}{unit} {ARROWS[self.metric['direction']]}{marks}"


@dataclass(frozen=True)
class Band:
    """The columns of one axis."""

    axis: str
    columns: list[Column]


@dataclass(frozen=True)
class ResultsTable:
    """Methods by metrics, in bands, with numbered footnotes."""

    rows: list[Row]
    bands: list[Band]
    footnotes: list[str]


class _Footnotes:
    def __init__(self) -> None:
        self.texts: list[str] = []

    def number(self, text: str) -> list[int]:
        """Return the number of a footnote, once for each text; none for an empty one."""
        if not text:
            return []
        if text not in self.texts:
            self.texts.append(text)
        return [self.texts.index(text) + 1]


def results_table(results: Results, metrics: Sequence[dict[str, Any]] = ()) -> ResultsTable:
    """Lay out methods by metrics.

    Parameters
    ----------
    results : Results
        The run.
    metrics : sequence of dict
        Which metrics; all where empty.
    """
    names = {m["name"] for m in metrics or results.metrics}
    footnotes = _Footnotes()
    bands = []
    for axis, members in results.axes():
        columns = [_column(results, m, footnotes) for m in members if m["name"] in names]
        if columns:
            bands.append(Band(axis, columns))
    return ResultsTable(results.rows, bands, footnotes.texts)


def _column(results: Results, metric: dict[str, Any], footnotes: _Footnotes) -> Column:
    scores = [results.score(row, metric["name"]) for row in results.rows]
    target = results.target(metric["name"])
    floors = results.floors(metric["name"])
    digits = decimals([_size(s) for s in scores if s.ok])
    reasons = {s.reason for s in scores}
    # What is said of every row alike is said once, at the head of the column.
    shared = reasons.pop() if len(reasons) == 1 else ""
    marks = footnotes.number(shared)
    depths = shades(scores, results.rows, metric)
    cells = [
        _cell(s, depth, merit(s, metric), digits, [] if shared else footnotes.number(s.reason))
        for s, depth in zip(scores, depths, strict=True)
    ]
    lines = [f"{name}: {number(value, digits)}" for name, value in floors.items()]
    return Column(metric, cells, _target_text(metric, target, digits), lines, marks)


def _target_text(metric: dict[str, Any], target: tuple[float, float], digits: int) -> str:
    low, high = (number(t, digits) for t in target)
    if np.isfinite(target[0]):
        return low if low == high else f"{low} to {high}"
    goal = metric["goal"]
    return "" if goal is None else f"{goal:g}"


def _cell(score: Score, shade: float, distance: float, digits: int, notes: list[int]) -> TableCell:
    if not score.ok:
        return TableCell(NONE, notes=notes, status=score.status)
    text = number(score.value, digits)
    return TableCell(text, interval(score, digits), notes, "ok", shade, distance)


def _size(score: Score) -> float:
    """Return the value's size, or that of its uncertainty where this is larger."""
    half = (score.high - score.low) / 2
    return max(abs(score.value), half if np.isfinite(half) else 0.0)


def decimals(values: Sequence[float]) -> int:
    """Return how many decimals show three digits of the middle one of these values.

    Not of the largest: one broken method must not round all others away.
    """
    sizes = [abs(v) for v in values if np.isfinite(v)]
    middle = float(np.median(sizes)) if sizes else 0.0
    if middle == 0:
        return 3
    # 1.000 belongs with 0.950, so the power of ten is that of a number just below.
    return int(np.clip(2 - np.floor(np.log10(middle * (1 - 1e-9))), 0, 6))


def number(value: float, digits: int) -> str:
    """Return a number with that many decimals; never a minus before zero."""
    if not np.isfinite(value):
        return NONE
    text = f"{value:.{digits}f}"
    return text.lstrip("-") if float(text) == 0 else text


def interval(score: Score, digits: int) -> str:
    """Return ``"[low, high]"``, empty where there is no interval."""
    if not (np.isfinite(score.low) and np.isfinite(score.high)):
        return ""
    return f"[{number(score.low, digits)}, {number(score.high, digits)}]"


def band_frame(table: ResultsTable, band: Band) -> pd.DataFrame:
    """Return one band as a table of texts, with rows for targets and floors."""
    data: dict[str, list[str]] = {"Method": [row.marked for row in table.rows]}
    for column in band.columns:
        data[column.head] = [cell.plain for cell in column.cells]
    below = {"Target": [c.target for c in band.columns]}
    below["Floors"] = ["; ".join(c.floors) for c in band.columns]
    for name, texts in below.items():
        if any(texts):
            for values, text in zip(data.values(), [name, *texts], strict=True):
                values.append(text or NONE)
    return pd.DataFrame(data)


def budgets(results: Results) -> str:
    """Return a sentence that says how long each method was trained, and where; "" for none."""
    texts: dict[str, list[str]] = {}
    for row in results.rows:
        held = (results.methods.get(row.label) or {}).get("weights") or []
        for made in held:
            if made.get("images") and made.get("seed", 0) == row.seed:
                here = made.get("origin", "trained") == "trained"
                where = "in this run" if here else f"{made['origin']} weights"
                text = f"{int(made['images']):,} ({where})"
                texts.setdefault(row.title, []).append(text)
    said = [f"{title} {' and '.join(dict.fromkeys(each))}" for title, each in texts.items()]
    brief = dict.fromkeys(row.label for row in results.rows if results.too_brief(row))
    warning = f" Trained too briefly to be judged: {', '.join(brief)}." if brief else ""
    return f"Images seen in training: {', '.join(said)}.{warning}" if said else ""


# -- files --------------------------------------------------------------------------------------


def long_table(results: Results) -> pd.DataFrame:
    """Return ``scores.csv`` with the declarations of its metrics and methods beside each row."""
    metrics = {m["name"]: m for m in results.metrics}
    kinds = {row.label: row for row in results.rows}
    table = results.scores[[c for c in SCORE_COLUMNS if c in results.scores]].copy()
    for name in ("label", "axis", "unit", "direction"):
        column = "metric_label" if name == "label" else name
        table[column] = [metrics.get(m, {}).get(name, "") for m in table["metric"]]
    table["control"] = [kinds[label].control for label in table["label"]]
    table["sees_truth"] = [kinds[label].sees_truth for label in table["label"]]
    return table


def wide_table(results: Results) -> pd.DataFrame:
    """Return one row a method and seed, and value, low and high of every metric; full precision."""
    records = []
    for row in results.rows:
        record: dict[str, Any] = {"label": row.label, "seed": row.seed, "control": row.control}
        record["sees_truth"] = row.sees_truth
        for metric in results.metrics:
            name = metric["name"]
            score = results.score(row, name)
            record |= {name: score.value, f"{name}_low": score.low, f"{name}_high": score.high}
        records.append(record)
    return pd.DataFrame(records)


def site_tables(results: Results) -> list[tuple[dict[str, Any], pd.DataFrame]]:
    """Return, for every metric that says something of single sites, methods by sites as texts."""
    tables = []
    for metric in results.metrics:
        mine = results.scores[results.scores["metric"] == metric["name"]]
        sites = sorted(set(mine["group"]) - {"all"})
        if not sites:
            continue
        digits = decimals(mine["value"].tolist())
        data = {"Method": [row.marked for row in results.rows]}
        for site in sites:
            scores = [results.score(row, metric["name"], site) for row in results.rows]
            data[site] = [_cell(s, np.nan, np.nan, digits, []).plain for s in scores]
        tables.append((metric, pd.DataFrame(data)))
    return tables


def write_tables(results: Results, folder: Path) -> None:
    """Write ``results``, ``long`` and ``sites``, each as CSV, Markdown and LaTeX.

    Parameters
    ----------
    results : Results
        The run.
    folder : Path
        The run's ``tables``.
    """
    table = results_table(results)
    bands = [(band.axis.capitalize(), band_frame(table, band)) for band in table.bands]
    per_site = [(f"{m['label']}, by site", frame) for m, frame in site_tables(results)]
    long = long_table(results)
    notes = [f"[{i}] {text}" for i, text in enumerate(table.footnotes, start=1)]
    notes += [trained] if (trained := budgets(results)) else []
    write_table(folder, "results", wide_table(results), bands, notes)
    write_table(folder, "long", long, [("All rows", _printed(long))], [])
    write_table(folder, "sites", long[long["group"] != "all"], per_site, [])


def _printed(long: pd.DataFrame) -> pd.DataFrame:
    """Return of the long table what people read, with three digits; all of it is in the CSV."""
    text = {"Method": long["label"], "Seed": long["seed"].astype(str), "Metric": long["metric"]}
    text["Group"] = long["group"]
    text["Value"] = [f"{v:.3g}" if np.isfinite(v) else NONE for v in long["value"]]
    ends = zip(long["ci_low"], long["ci_high"], strict=True)
    text["Interval"] = [f"[{a:.3g}, {b:.3g}]" if np.isfinite([a, b]).all() else "" for a, b in ends]
    text |= {"Status": long["status"], "Reason": long["reason"].fillna("")}
    return pd.DataFrame(text)


def write_table(
    folder: Path,
    stem: str,
    csv: pd.DataFrame,
    parts: list[tuple[str, pd.DataFrame]],
    notes: list[str],
) -> None:
    """Write one table as ``stem.csv``, and its parts, titled texts, as Markdown and LaTeX."""
    write_atomic(folder / f"{stem}.csv", lambda path: csv.to_csv(path, index=False))
    texts = [f"## {markdown_text(title)}\n\n{markdown(frame)}" for title, frame in parts]
    texts += ["\n".join(f"- {markdown_text(note)}" for note in notes)] if notes else []
    write_text(folder / f"{stem}.md", "\n\n".join(texts) + "\n")
    blocks = [rf"\noindent\textbf{{{latex_text(title)}}}\par\smallskip" for title, _ in parts]
    blocks = [f"{head}\n{latex(frame)}" for head, (_, frame) in zip(blocks, parts, strict=True)]
    said = [rf"\noindent{{\footnotesize\raggedright {latex_text(note)}\par}}" for note in notes]
    blocks += ["\n".join(said)] if said else []
    write_text(folder / f"{stem}.tex", "\n\n\\bigskip\n".join([PREAMBLE, *blocks]) + "\n")


def markdown_text(text: object) -> str:
    """Return text that Markdown shows as it is, on one line."""
    plain = " ".join(str(text).split())
    for sign in "\\`*_|[]":
        plain = plain.replace(sign, "\\" + sign)
    return plain.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def markdown(frame: pd.DataFrame) -> str:
    """Return a table of texts as Markdown."""
    from tabulate import tabulate

    safe = [[markdown_text(value) for value in row] for row in frame.itertuples(index=False)]
    heads = [markdown_text(name) for name in frame]
    return str(tabulate(safe, heads, tablefmt="pipe", disable_numparse=True))
