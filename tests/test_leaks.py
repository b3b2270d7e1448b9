"""The figures of leakage draw the relation whose slope the tables state."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from support import make_run_folder

from harmbench.files.atomic import read_json, write_arrays, write_json
from reports.drawing import NoFigure
from reports.leaks import pulls, told_ages
from reports.results import Results, read_results

SLOPES = {"combat": 0.4, "ddae": 0.0}
CALIBRATION = 0.8
PULLS = {"combat": 0.25, "ddae": 1.0}


def make_run(root: Path) -> Results:
    """Write a run whose methods follow a told age, and pull to the reference, by known slopes."""
    folder = make_run_folder(root, controls=(), images=False)
    known = read_results(folder)
    sites = known.participants["site"].to_numpy()[known.tested].astype(str)
    rng = np.random.default_rng(0)
    lie = rng.normal(0, 20, (5, len(sites)))
    cells, rows = read_json(folder / "cells.json"), []
    for cell in cells:
        label = cell["label"]
        change = CALIBRATION * SLOPES[label] * lie
        distance = np.array([0.0, 8.0, -12.0])
        kept: dict[str, dict[str, Any]] = {
            "leakage_age": {"lie": lie, "change": change},
            "population_pull": {
                "sites": np.array(known.sites), "distance": distance,
                "change": CALIBRATION * (1 + PULLS[label] * distance),
                "calibration": np.asarray(CALIBRATION),
            },
        }  # fmt: skip
        for metric, arrays in kept.items():
            stem = folder / "cells" / label / metric
            write_arrays(stem.with_suffix(".npz"), arrays)
            cell["scores"][metric] = str(stem.relative_to(folder))
            value = SLOPES[label] if metric == "leakage_age" else PULLS[label]
            groups = ["all", *known.sites] if metric == "leakage_age" else ["all"]
            rows += [score_row(label, metric, group, value) for group in groups]
    write_json(folder / "cells.json", cells)
    table = pd.concat([pd.read_csv(folder / "scores.csv"), pd.DataFrame(rows)])
    table.to_csv(folder / "scores.csv", index=False)
    return read_results(folder)


def score_row(label: str, metric: str, group: str, value: float) -> dict[str, Any]:
    return {
        "method": label, "label": label, "seed": 0, "metric": metric, "metric_version": 1,
        "group": group, "value": value, "ci_low": value - 0.1, "ci_high": value + 0.1,
        "target": 0.0, "n": 12, "status": "ok", "reason": "",
    }  # fmt: skip


def slope_of(line: Any) -> float:
    x, y = (np.asarray(values, dtype=float) for values in line.get_data())
    return float(np.polyfit(x, y, 1)[0])


def test_dots_are_calibrated_and_lie_on_the_line_of_the_table(tmp_path: Path) -> None:
    (drawn,) = told_ages(make_run(tmp_path))
    (panel,) = drawn.figure.axes
    assert panel.get_title(loc="left") == "combat: 0.40"
    dots = [line for line in panel.lines if line.get_linestyle() == "None"]
    assert len(dots) == 3 and all(slope_of(line) == pytest.approx(0.4) for line in dots)
    widest = max(panel.lines, key=lambda line: line.get_linewidth())
    assert slope_of(widest) == pytest.approx(0.4)
    assert "0: ddae." in drawn.caption


def test_the_pull_is_drawn_through_the_sites(tmp_path: Path) -> None:
    (drawn,) = pulls(make_run(tmp_path))
    assert [p.get_title(loc="left") for p in drawn.figure.axes] == ["combat: 0.25", "ddae: 1.00"]
    for panel, slope in zip(drawn.figure.axes, PULLS.values(), strict=True):
        widest = max(panel.lines, key=lambda line: line.get_linewidth())
        assert slope_of(widest) == pytest.approx(slope)
        dots = {d.get_label(): d.get_data() for d in panel.lines if d.get_linestyle() == "None"}
        x, y = dots["site-b"]
        assert float(x[0]) == 8 and float(y[0]) == pytest.approx(1 + 8 * slope)
        # The line goes through these dots, which lie on a line.
        at = np.interp(8, *widest.get_data())
        assert at == pytest.approx(1 + 8 * slope)


def test_what_was_not_measured_is_said(tmp_path: Path) -> None:
    results = read_results(make_run_folder(tmp_path, images=False))
    with pytest.raises(NoFigure, match="leakage_age"):
        told_ages(results)
    with pytest.raises(NoFigure, match="population_pull"):
        pulls(results)
