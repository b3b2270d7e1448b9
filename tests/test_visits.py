"""Which second scans of a person are taken for the truth of the first."""

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from harmbench.cli.app import app
from harmbench.contracts.cohort import Cohort
from harmbench.contracts.visits import days_apart, late_repeats
from harmbench.data.arrays import save_npz
from harmbench.data.toy import ToyDataset
from harmbench.protocol.truth.errors import scans_at_reference


def visits(**columns):
    """Return a person's two visits: at site a, which is the reference, and at site b."""
    table = {"participant_id": ["p", "p"], "session_id": ["1", "2"], "slice": [0, 0],
             "site": ["a", "b"], "age": [40.0, 40.0], "sex": ["F", "F"]}  # fmt: skip
    return pd.DataFrame(table | columns)


GAPS = [
    ({}, 0),
    ({"age": [40.0, 40.4]}, 146),
    ({"age": [40.0, 43.0]}, 1096),
    ({"age": [40.0, np.nan]}, 0),
    ({"acq_time": ["2020-01-01T10:00:00", "2020-01-31T10:00:00"], "age": [40.0, 43.0]}, 30),
    ({"acq_time": ["2020-01-01", "2022-01-01"]}, 731),
    ({"acq_time": ["1880-01-01T00:00:00", "1880-03-01"]}, 60),
    ({"acq_time": ["2020-01-01", np.nan], "age": [40.0, 41.0]}, 365),
    ({"acq_time": ["soon", "later"], "age": [40.0, 41.0]}, 365),
]


@pytest.mark.parametrize(("columns", "days"), GAPS)
def test_days_between_visits(columns, days):
    table = visits(**columns)
    assert days_apart(table.iloc[[0]], table.iloc[[1]])[0] == pytest.approx(days, abs=1)
    assert days_apart(table.iloc[[1]], table.iloc[[0]])[0] == pytest.approx(days, abs=1)


@pytest.mark.parametrize(("columns", "days"), GAPS)
@pytest.mark.parametrize("within", [0, 180, 2000])
def test_a_scan_is_the_truth_only_within_the_days(columns, days, within):
    images = np.arange(2, dtype=np.float32).reshape(2, 1, 1) + np.zeros((2, 3, 3), np.float32)
    cohort = Cohort(images, visits(**columns), np.ones(images.shape, bool))
    found = scans_at_reference(cohort, "a", within).images
    assert np.isfinite(found[0]).all()  # of the reference itself
    assert np.isfinite(found[1]).all() == (days <= within)
    assert late_repeats(cohort.participants, within) == (1, int(days > within))


def test_of_several_visits_the_first_within_the_days_counts():
    table = pd.concat([visits(), visits()]).reset_index(drop=True)
    table = table.assign(session_id=list("1234"), site=["a", "a", "a", "b"], age=[30, 40, 40.1, 40])
    images = np.arange(4, dtype=np.float32).reshape(4, 1, 1) + np.zeros((4, 3, 3), np.float32)
    cohort = Cohort(images, table, np.ones(images.shape, bool))
    assert scans_at_reference(cohort, "a", 180).images[3, 0, 0] == 1
    assert scans_at_reference(cohort, "a", 1e6).images[3, 0, 0] == 0


def test_check_says_who_came_back_late_and_a_run_takes_the_option(tmp_path):
    cohort = ToyDataset(60).load()
    age = np.clip(cohort.column("age").astype(float), 20, 80)
    table = cohort.participants.assign(age=age)
    again = table.iloc[:6].assign(site="site-b", session_id="late", age=age[:6] + 4)
    both = pd.concat([table, again], ignore_index=True)
    rows = [*range(60), *range(6)]
    images = cohort.images[rows] + 0.01 * (both["session_id"] == "late").to_numpy()[:, None, None]
    file = tmp_path / "late.npz"
    late = Cohort(images.astype(np.float32), both, cohort.mask[rows])
    save_npz(late, file)
    said = " ".join(CliRunner().invoke(app, ["check", str(file), "--quiet"]).output.split())
    assert "people scanned at several sites came back after more than 180 days" in said
    words = ["run", "--methods", "blur", "--data", str(file), "--repeat-within", "2000"]
    result = CliRunner().invoke(app, [*words, "--metrics", "truth_mae", "--dry-run"])
    assert result.exit_code == 0, result.exception
