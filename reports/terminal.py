"""The main results as plain text for a terminal."""

from __future__ import annotations

from textwrap import fill
from typing import Any

import pandas as pd

from reports.results import Results
from reports.tables import NONE, Band, Column, ResultsTable, TableCell, budgets, results_table

WIDTH = 100
MAIN_LEVELS = ("five", "core")


def terminal_text(results: Results) -> str:
    """Return the main metrics of every axis, then what was skipped or failed, and why.

    Parameters
    ----------
    results : Results
        The run.

    Returns
    -------
    str
        Lines of at most `WIDTH` characters where labels are short.
    """
    table = results_table(results, _main_metrics(results))
    blocks = [_block(table, band) for band in table.bands]
    legend = ["value [95 % interval]; ↓ lower, ↑ higher, → nearer to the target is better"]
    if any(row.control for row in table.rows):
        legend.append("* control")
    if any(row.sees_truth for row in table.rows):
        legend.append("† sees the truth")
    notes = [f"[{i}] {note}" for i, note in enumerate(table.footnotes, start=1)]
    notes += _left_out(results)
    notes += [trained] if (trained := budgets(results)) else []
    more = len(results.metrics) - sum(len(band.columns) for band in table.bands)
    if more:
        notes.append(f"{more} more metrics, shown or left out, stand in the report and in tables/")
    lines = [fill(line, WIDTH, subsequent_indent="    ") for line in ("; ".join(legend), *notes)]
    return "\n\n".join([*blocks, "\n".join(lines)])


def _left_out(results: Results) -> list[str]:
    """Return one line for each reason why a metric has no value at all."""
    reasons: dict[str, list[str]] = {}
    for metric in results.metrics:
        scores = [results.score(row, metric["name"]) for row in results.rows]
        if not any(score.ok for score in scores):
            said = dict.fromkeys(f"{s.status}: {s.reason}" for s in scores)
            reasons.setdefault("; ".join(said), []).append(metric["label"])
    return [f"{', '.join(labels)} {said}" for said, labels in reasons.items()]


def _main_metrics(results: Results) -> list[dict[str, Any]]:
    """Return the paper's metrics, and those of the axes that these leave empty."""
    main = []
    for _, metrics in results.axes():
        kept = [m for level in MAIN_LEVELS for m in metrics if m["level"] == level]
        five = [m for m in kept if m["level"] == "five"]
        main += five or kept[:3] or metrics[:3]
    # A metric without any value is a note, not a column, where others of its axis have values.
    return [m for m in main if any(results.score(row, m["name"]).ok for row in results.rows)]


def _block(table: ResultsTable, band: Band) -> str:
    heads = [f"{band.axis}", *(column.head for column in band.columns)]
    lines = [[row.marked for row in table.rows]]
    lines += [[_short(cell) for cell in column.cells] for column in band.columns]
    if any(column.target for column in band.columns):
        lines[0].append("target")
        for line, column in zip(lines[1:], band.columns, strict=True):
            line.append(column.target)
    frame = pd.DataFrame(dict(enumerate(lines)))
    return "\n\n".join(_pieces(frame, heads)) + _floors(band.columns)


def _short(cell: TableCell) -> str:
    return cell.plain if cell.status != "absent" else NONE


def _pieces(frame: pd.DataFrame, heads: list[str]) -> list[str]:
    """Return the table, cut into several where it is wider than the terminal."""
    from tabulate import tabulate

    def text(columns: list[int]) -> str:
        rows = frame[columns].to_numpy().tolist()
        return str(
            tabulate(rows, [heads[c] for c in columns], tablefmt="simple", disable_numparse=True)
        )

    pieces, now = [], [0]
    for column in range(1, len(heads)):
        widest = max(len(line) for line in text([*now, column]).splitlines())
        if widest > WIDTH and len(now) > 1:
            pieces.append(text(now))
            now = [0]
        now.append(column)
    return [*pieces, text(now)]


def _floors(columns: list[Column]) -> str:
    lines = [f"floors of {c.metric['label']}: {'; '.join(c.floors)}" for c in columns if c.floors]
    return "".join("\n" + line for line in lines)
