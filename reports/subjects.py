"""Scores against the number of subjects per site: a table, a figure and a sentence."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from harmbench.errors import HarmbenchError
from harmbench.files.atomic import write_atomic
from reports.drawing import GRAY, STYLE, colors, panels
from reports.figures import PRINT_DPI
from reports.results import Results, read_results
from reports.tables import ARROWS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SHOWN = ("site_excess", "age_mae", "sex_bacc", "distance_pcc", "truth_mae", "site_regions")
"""Metrics of the figure, in this order, if they are in the runs; else all."""
COLUMNS = ["subjects", "label", "metric", "value", "ci_low", "ci_high", "target", "n"]


def write_curve(runs: Mapping[int, Path], out: Path) -> pd.DataFrame:
    """Write ``curve.csv`` and ``curve.png`` for the runs by their number of subjects per site.

    Returns
    -------
    DataFrame
        The content of ``curve.csv``.

    Raises
    ------
    HarmbenchError
        If no metric has a value.
    """
    results = {number: read_results(folder) for number, folder in runs.items()}
    frames = [
        one.scores.query("group == 'all' and status == 'ok'").assign(subjects=number)
        for number, one in results.items()
    ]
    table = pd.concat(frames, ignore_index=True)[COLUMNS]
    if table.empty:
        raise HarmbenchError("no metric has a value for any number of subjects")
    write_atomic(out / "curve.csv", lambda path: table.to_csv(path, index=False))
    _draw(table, results[max(results)], out / "curve.png")
    return table


def sentence(table: pd.DataFrame) -> str:
    """Say from how many subjects on each method removes the site effect."""
    excess = table[table["metric"] == "site_excess"]
    if excess.empty:
        return f"scores for {', '.join(map(str, sorted(set(table['subjects']))))} subjects per site"
    said = []
    for label, rows in excess.groupby("label", sort=False):
        # From the largest number downwards, as long as the interval contains 0.
        enough = None
        for row in rows.sort_values("subjects", ascending=False).itertuples():
            if row.ci_low > 0:
                break
            enough = row.subjects
        said.append(
            f"{label}: a site effect remains with all numbers of subjects"
            if enough is None
            else f"{label}: no remaining site effect is detected from {enough} subjects per site on"
        )
    return (
        "; ".join(said) + " (95 % intervals; with fewer subjects, weaker effects stay undetected)"
    )


def _draw(table: pd.DataFrame, results: Results, file: Path) -> None:
    import matplotlib

    held = [m for m in results.metrics if m["name"] in set(table["metric"])]
    wanted = sorted((m for m in held if m["name"] in SHOWN), key=lambda m: SHOWN.index(m["name"]))
    metrics = wanted or held
    labels = [row.label for row in results.first_seeds]
    controls = {row.label for row in results.first_seeds if row.control}
    looks = colors([label for label in labels if label not in controls])
    with matplotlib.rc_context(STYLE):
        figure, axes = panels(len(metrics), 3, (3.2, 2.6))
        for panel, metric in zip(axes, metrics, strict=True):
            mine = table[table["metric"] == metric["name"]]
            for label in labels:
                rows = mine[mine["label"] == label].sort_values("subjects")
                color, marker = looks.get(label, (GRAY, "s"))
                _line(panel, rows, label, color, marker)
            panel.set_title(f"{metric['label']} {ARROWS[metric['direction']]}", loc="left")
            panel.set_xscale("log")
            numbers = sorted(set(table["subjects"]))
            panel.set_xticks(numbers, [str(number) for number in numbers])
            panel.minorticks_off()
            panel.set_xlabel("subjects per site")
            panel.set_ylabel(metric["unit"])
            panel.grid(axis="y", color="0.9", lw=0.6)
        axes[0].legend(fontsize=7)
        write_atomic(file, lambda path: figure.savefig(path, dpi=PRINT_DPI, format="png"))


def _line(panel: Axes, rows: pd.DataFrame, label: str, color: str, marker: str) -> None:
    if rows.empty:
        return
    x, value = rows["subjects"].to_numpy(), rows["value"].to_numpy()
    low, high = rows["ci_low"].to_numpy(), rows["ci_high"].to_numpy()
    style = "--" if color == GRAY else "-"
    panel.plot(x, value, marker=marker, ms=4, lw=1.2, ls=style, color=color, label=label)
    known = np.isfinite(low) & np.isfinite(high)
    panel.fill_between(x[known], low[known], high[known], color=color, alpha=0.15, lw=0)
