"""The tables of a report: the text of each cell, and how tables are written to files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from harmbench.files.atomic import write_atomic, write_text
from harmbench.results.folder import SCORE_COLUMNS
from harmbench.stats.scores import Rank
from reports.latex import PREAMBLE, latex, latex_text
from reports.regions import write_regions
from reports.results import Results, Row, Score
from reports.shading import merit, shades

NONE = "—"
SCORE_DIGITS = 2
"""Decimals of the scores on both axes."""
ARROWS = {"lower": "↓", "higher": "↑", "target": "→"}
DIRECTIONS = {
    "lower": "lower is better",
    "higher": "higher is better",
    "target": "nearer to the target is better",
}


class TableCell(NamedTuple):
    """One cell of the results table.

    `interval` is ``"[low, high]"`` or empty, `notes` the numbers of its footnotes, `status` that
    of the score, `shade` a number from 0 to 1 (see `reports.shading`; NaN for none), and `merit`
    the key for sorting the column, in which less is better.
    """

    text: str
    interval: str = ""
    notes: Sequence[int] = ()
    status: str = "ok"
    shade: float = np.nan
    merit: float = np.nan

    @property
    def plain(self) -> str:
        """The whole cell as one line of text."""
        return " ".join(filter(None, (self.text, self.interval))) + _marks(self.notes)


@dataclass(frozen=True)
class Column:
    """One metric as a column: its declaration, its cells in row order, target and floors."""

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
        """Numbers of the footnotes of its head and of its cells, without repetition."""
        return sorted({*self.notes, *(number for cell in self.cells for number in cell.notes)})

    @property
    def head(self) -> str:
        """Label with unit, direction and footnotes."""
        unit = f" ({self.metric['unit']})" if self.metric["unit"] else ""
        arrow = ARROWS[self.metric["direction"]]
        return f"{self.metric['label']}{unit} {arrow}{_marks(self.notes)}"


class Band(NamedTuple):
    """The columns of one axis."""

    axis: str
    columns: list[Column]


class ResultsTable(NamedTuple):
    """Methods by metrics, in bands, with numbered footnotes."""

    rows: list[Row]
    bands: list[Band]
    footnotes: list[str]


def _marks(notes: Sequence[int]) -> str:
    return "".join(f" [{number}]" for number in notes)


def results_table(results: Results) -> ResultsTable:
    """Return the table of methods by metrics."""
    footnotes: list[str] = []
    bands = [
        Band(axis, [_column(results, metric, footnotes) for metric in members])
        for axis, members in results.axes()
    ]
    return ResultsTable(results.rows, bands, footnotes)


def _column(results: Results, metric: dict[str, Any], footnotes: list[str]) -> Column:
    def note(text: str) -> list[int]:
        if text and text not in footnotes:
            footnotes.append(text)
        return [footnotes.index(text) + 1] if text else []

    scores = results.column(metric)
    digits = decimals([_size(s) for s in scores if s.ok])
    reasons = {s.reason for s in scores}
    # A reason that all rows share is given once, at the head of the column.
    shared = reasons.pop() if len(reasons) == 1 else ""
    marks = note(shared)
    cells = [
        _cell(s, digits, [] if shared else note(s.reason), depth, merit(s, metric))
        for s, depth in zip(scores, shades(scores, results.rows, metric), strict=True)
    ]
    floors = results.floors(metric["name"]).items()
    lines = [f"{name}: {number(value, digits)}" for name, value in floors]
    target = _target_text(metric, results.target(metric["name"]), digits)
    return Column(metric, cells, target, lines, marks)


def _target_text(metric: dict[str, Any], target: tuple[float, float], digits: int) -> str:
    if np.isfinite(target[0]):
        return " to ".join(dict.fromkeys(number(end, digits) for end in target))
    return "" if metric["goal"] is None else f"{metric['goal']:g}"


def _cell(
    score: Score, digits: int, notes: Sequence[int] = (), shade: float = np.nan, key: float = np.nan
) -> TableCell:
    if not score.ok:
        return TableCell(NONE, notes=notes, status=score.status)
    ends = interval(score.low, score.high, digits)
    return TableCell(number(score.value, digits), ends, notes, "ok", shade, key)


def _size(score: Score) -> float:
    """Return the size of the value, or that of its uncertainty if this is larger."""
    half = (score.high - score.low) / 2
    return max(abs(score.value), half if np.isfinite(half) else 0.0)


# -- numbers as text ------------------------------------------------------------------------------


def decimals(values: Sequence[float]) -> int:
    """Return the number of decimals that shows three digits of the median of these values.

    The median, because one broken method must not round all other values away.
    """
    sizes = [abs(v) for v in values if np.isfinite(v)]
    middle = float(np.median(sizes)) if sizes else 0.0
    if middle == 0:
        return 3
    # 1.000 belongs with 0.950, so the power of ten is that of a number just below.
    return int(np.clip(2 - np.floor(np.log10(middle * (1 - 1e-9))), 0, 6))


def number(value: float, digits: int) -> str:
    """Return a number with that many decimals, without a minus before zero."""
    if not np.isfinite(value):
        return NONE
    text = f"{value:.{digits}f}"
    return text.lstrip("-") if float(text) == 0 else text


def interval(low: float, high: float, digits: int) -> str:
    """Return ``"[low, high]"``, or an empty text if an end is not finite."""
    if not np.isfinite([low, high]).all():
        return ""
    return f"[{number(low, digits)}, {number(high, digits)}]"


def measured(value: float, low: float, high: float, digits: int) -> str:
    """Return a value with its interval."""
    return f"{number(value, digits)} {interval(low, high, digits)}".rstrip()


def rank_text(rank: Rank | None, none: str = NONE) -> str:
    """Return a rank with the interval of the ranks, or `none` if there is no rank."""
    if rank is None or not np.isfinite(rank.value):
        return none
    ends = f" [{rank.low:g}, {rank.high:g}]" if np.isfinite(rank.low) else ""
    return f"{rank.value:g}{ends}"


def three_digits(value: object) -> str:
    """Return a float with three digits, and any other value as it is."""
    if isinstance(value, float):
        return f"{value:.3g}" if np.isfinite(value) else NONE
    return str(value)


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
    """Return a sentence on how long and where each method was trained; empty if none was."""
    texts: dict[str, list[str]] = {}
    for row in results.rows:
        for made in results.weights(row.label):
            if made.get("images") and made.get("seed", 0) == row.seed:
                here = made.get("origin", "trained") == "trained"
                where = "in this run" if here else f"{made['origin']} weights"
                texts.setdefault(row.title, []).append(f"{int(made['images']):,} ({where})")
    said = [f"{title} {' and '.join(dict.fromkeys(each))}" for title, each in texts.items()]
    brief = dict.fromkeys(row.label for row in results.rows if results.too_brief(row))
    warning = f" Trained too briefly to be judged: {', '.join(brief)}." if brief else ""
    return f"Images seen in training: {', '.join(said)}.{warning}" if said else ""


# -- files --------------------------------------------------------------------------------------


def long_table(results: Results) -> pd.DataFrame:
    """Return ``scores.csv`` with the declarations of metrics and methods added to each row."""
    metrics = {m["name"]: m for m in results.metrics}
    kinds = {row.label: row for row in results.rows}
    table = results.scores[[c for c in SCORE_COLUMNS if c in results.scores]].copy()
    for name in ("label", "axis", "unit", "direction"):
        column = "metric_label" if name == "label" else name
        table[column] = [metrics.get(m, {}).get(name, "") for m in table["metric"]]
    for name in ("control", "sees_truth"):
        table[name] = [getattr(kinds[label], name) for label in table["label"]]
    return table


def wide_table(results: Results) -> pd.DataFrame:
    """Return a row for each method and seed with value, low and high of every metric."""
    records = []
    for row in results.rows:
        record = row.record
        for name in (m["name"] for m in results.metrics):
            score = results.score(row, name)
            record |= {name: score.value, f"{name}_low": score.low, f"{name}_high": score.high}
        records.append(record)
    return pd.DataFrame(records)


def site_tables(results: Results) -> list[tuple[dict[str, Any], pd.DataFrame]]:
    """Return a table of methods by sites, as texts, for every metric with values of sites."""
    tables = []
    for metric in results.metrics:
        mine = results.scores[results.scores["metric"] == metric["name"]]
        sites = sorted(set(mine["group"]) - {"all"})
        digits = decimals(mine["value"].tolist())
        data = {"Method": [row.marked for row in results.rows]}
        for site in sites:
            data[site] = [_cell(s, digits).plain for s in results.column(metric, site)]
        if sites:
            tables.append((metric, pd.DataFrame(data)))
    return tables


def write_tables(results: Results, folder: Path) -> None:
    """Write ``results``, ``long`` and ``sites``, each as CSV, Markdown and LaTeX.

    Parameters
    ----------
    results : Results
        The run.
    folder : Path
        The folder ``tables`` of the report.
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
    write_regions(results, folder)


def joined(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table with the columns ``*low`` and ``*high`` as one column of intervals."""
    shown = table.copy()
    for low in [c for c in table if c.endswith("low")]:
        high = low.removesuffix("low") + "high"
        ends = zip(table[low], table[high], strict=True)
        shown[low] = [f"[{a:.3g}, {b:.3g}]" if np.isfinite([a, b]).all() else "" for a, b in ends]
        shown = shown.drop(columns=high).rename(columns={low: "interval"})
    return shown


def _printed(long: pd.DataFrame) -> pd.DataFrame:
    """Return the columns of the long table for the printed versions, with three digits."""
    names = {"label": "Method", "seed": "Seed", "metric": "Metric", "group": "Group"}
    names |= {"value": "Value", "interval": "Interval", "status": "Status", "reason": "Reason"}
    ends = long.rename(columns={"ci_low": "low", "ci_high": "high"}).fillna({"reason": ""})
    return joined(ends)[[*names]].rename(columns=names).map(three_digits)


def write_table(
    folder: Path,
    stem: str,
    csv: pd.DataFrame,
    parts: list[tuple[str, pd.DataFrame]],
    notes: list[str],
) -> None:
    """Write a table as ``stem.csv``, and its titled parts as Markdown and LaTeX."""
    write_atomic(folder / f"{stem}.csv", lambda path: csv.to_csv(path, index=False))
    texts = [f"## {markdown_text(title)}\n\n{markdown(frame)}" for title, frame in parts]
    texts += ["\n".join(f"- {markdown_text(note)}" for note in notes)] if notes else []
    write_text(folder / f"{stem}.md", "\n\n".join(texts) + "\n")
    blocks = [
        rf"\noindent\textbf{{{latex_text(title)}}}\par\smallskip" + f"\n{latex(frame)}"
        for title, frame in parts
    ]
    said = [rf"\noindent{{\footnotesize\raggedright {latex_text(note)}\par}}" for note in notes]
    blocks += ["\n".join(said)] if said else []
    write_text(folder / f"{stem}.tex", "\n\n\\bigskip\n".join([PREAMBLE, *blocks]) + "\n")


def markdown_text(text: object) -> str:
    """Return text that Markdown shows unchanged, on one line."""
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
