"""The effect of the site on every feature of a table: a figure and a CSV file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from harmbench.files.atomic import write_atomic
from reports.drawing import GRAY, Drawn, NoFigure, colors, short
from reports.results import Results

METRIC = "site_regions"
LEVEL = 0.05
MOST = 30
"""Largest number of features in the figure; the CSV file holds all."""


def effects(results: Results) -> pd.DataFrame:
    """Return one row for each method and feature: ``label``, ``feature``, ``effect``, ``q``."""
    frames = []
    for row in results.first_seeds:
        for arrays in results.arrays(row, METRIC):
            count = len(arrays["effect"])
            names = results.config.get("features") or []
            features = names or [f"feature {i + 1}" for i in range(count)]
            frame = pd.DataFrame({"label": row.label, "feature": features})
            frames.append(frame.assign(effect=arrays["effect"], q=arrays["q"]))
    columns = ["label", "feature", "effect", "q"]
    return pd.concat(frames)[columns] if frames else pd.DataFrame(columns=columns)


def write_regions(results: Results, folder: Path) -> None:
    """Write ``regions.csv``, if the run is of a table of features."""
    table = effects(results)
    if len(table):
        write_atomic(folder / "regions.csv", lambda path: table.to_csv(path, index=False))


def region_effects(results: Results) -> list[Drawn]:
    """Return a figure of the features by methods, sorted by the effect before harmonization."""
    from matplotlib.figure import Figure

    table = effects(results)
    if table.empty:
        raise NoFigure("needs a table of features and the metric site_regions")
    controls = {row.label for row in results.first_seeds if row.control} - {"identity"}
    table = table[~table["label"].isin(controls)]
    labels = list(dict.fromkeys(table["label"]))
    wide = table.pivot_table(index="feature", columns="label", values="effect", sort=False)
    q = table.pivot_table(index="feature", columns="label", values="q", sort=False)
    first = "identity" if "identity" in labels else labels[0]
    order = wide[first].sort_values(ascending=False).index[:MOST]
    figure = Figure(figsize=(7.0, 1.3 + 0.22 * len(order)), layout="constrained")
    panel = figure.subplots()
    y = np.arange(len(order))
    shades = colors([label for label in labels if label != "identity"])
    for label in labels:
        color = GRAY if label == "identity" else shades[label][0]
        x, told = wide.loc[order, label], q.loc[order, label] <= LEVEL
        marker = "s" if label == "identity" else "o"
        panel.plot(x[told], y[told], marker, ms=5, color=color, label=short(label, 26))
        panel.plot(x[~told], y[~told], marker, ms=5, mec=color, mfc="white", ls="none")
    panel.set_yticks(y, [short(str(name), 34) for name in order])
    panel.set_ylim(len(order) - 0.4, -0.6)
    panel.set_xlabel("share of variance explained by the site (partial ε²)")
    panel.grid(axis="x", color="0.9", lw=0.6)
    panel.set_axisbelow(True)
    panel.legend(loc="lower right", fontsize=7)
    more = f" The {MOST} of {len(wide)} features with the largest effect before harmonization are "
    caption = (
        "How much of the variance of each feature the site explains, given age and sex. Filled "
        "marks: significant at a false discovery rate of 5 %."
        + (f"{more}shown; tables/regions.csv holds all." if len(wide) > MOST else "")
    )
    return [Drawn("regions", "Features that differ between sites", caption, figure)]
