"""The README quotes the reference results as they lie in reports/reference."""

from pathlib import Path

import pandas as pd
import pytest

ROOT = Path(__file__).parents[1]
TABLES = ROOT / "reports/reference/tables"
COLUMNS = {  # metric: digits
    "site_excess": 3,
    "age_mae": 2,
    "sex_bacc": 3,
    "distance_pcc_truth": 3,
    "truth_mae": 4,
    "leakage_age": 3,
}
NAMES = {"unharmonized": "identity", "true rescan": "oracle"}


def _quoted() -> dict[str, list[str]]:
    """Return the cells of each row of the README's first table."""
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("|"))
    rows = {}
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        name, *cells = (cell.strip() for cell in line.strip("|").split("|"))
        rows[NAMES.get(name, name.strip("`"))] = cells
    return rows


@pytest.fixture(scope="module")
def results() -> pd.DataFrame:
    return pd.read_csv(TABLES / "results.csv").set_index("label")


@pytest.mark.parametrize("label", list(_quoted()))
def test_the_readme_quotes_the_reference(label: str, results: pd.DataFrame) -> None:
    row = results.loc[label]
    for cell, (metric, digits) in zip(_quoted()[label], COLUMNS.items(), strict=False):
        value, low, high = (row[metric + end] for end in ("", "_low", "_high"))
        assert cell == f"{value:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]", metric


def test_the_readme_quotes_the_reference_ranks() -> None:
    scores = pd.read_csv(TABLES / "scores.csv").set_index("label")
    for label, cells in _quoted().items():
        row = scores.loc[label]
        wanted = "" if pd.isna(row["rank"]) else (
            f"{row['rank']:g} [{row['rank_low']:g}, {row['rank_high']:g}]"
        )  # fmt: skip
        assert cells[len(COLUMNS)] == wanted, label
