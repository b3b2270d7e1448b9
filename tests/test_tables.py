"""Tables of features: what is read, what is refused, and a run from the file to the scores."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from harmbench.config import resolve
from harmbench.data.sheet import make_sheet
from harmbench.data.tables import TableDataset
from harmbench.engine.run import run
from harmbench.errors import HarmbenchError
from harmbench.files.atomic import read_json
from reports.html import write_report


def table(n: int = 72, features: int = 7, seed: int = 0) -> pd.DataFrame:
    """Return features of unlike units, with an offset per site and an effect of age."""
    rng = np.random.default_rng(seed)
    site = np.array(["a", "b", "c"] * (n // 3))
    age = rng.uniform(20, 80, n).round(1)
    x = rng.normal(size=(n, features)) + np.outer((age - 50) / 15, np.linspace(-1, 1, features))
    x += pd.Series(site).map({"a": 0.0, "b": 3.0, "c": -2.0}).to_numpy()[:, None]
    columns = {f"region {i}": 10.0**i * (x[:, i] + 20) for i in range(features)}
    named = {"participant_id": [f"p{i:03d}" for i in range(n)], "site": site, "age": age}
    return pd.DataFrame(named | {"sex": rng.choice(["F", "M"], n), "scanner": "X"} | columns)


def units(content: pd.DataFrame) -> pd.DataFrame:
    """Return a row of units, as some programs write below the header."""
    row = {name: "mm" if name.startswith("region") else "text" for name in content}
    return pd.DataFrame([row | {"age": "years"}])


def save(folder: Path, content: pd.DataFrame, name: str = "features.csv") -> Path:
    content.to_csv(folder / name, index=False, sep="\t" if name.endswith("tsv") else ",")
    return folder / name


@pytest.mark.parametrize("name", ["features.csv", "features.tsv"])
def test_numbers_are_features_and_the_rest_are_columns(tmp_path, name):
    content = table()
    cohort = TableDataset(save(tmp_path, content, name)).load()
    assert cohort.space == "table" and cohort.shape == (7,) and cohort.mask.all()
    np.testing.assert_allclose(cohort.images.mean(0), 0, atol=1e-6)
    np.testing.assert_allclose(cohort.images.std(0), 1, rtol=1e-5)
    raw = content["region 3"].to_numpy()
    assert np.corrcoef(cohort.images[:, 3], raw)[0, 1] == pytest.approx(1)
    assert list(cohort.participants) == [
        "participant_id", "session_id", "slice", "site", "age", "sex", "scanner"
    ]  # fmt: skip
    np.testing.assert_array_equal(cohort.column("age"), content["age"])


def test_other_names_and_codes_of_the_columns(tmp_path):
    content = table().rename(columns={"site": "center", "sex": "gender"})
    content["gender"] = content["gender"].map({"F": 2, "M": 1})
    path = save(tmp_path, content)
    with pytest.raises(HarmbenchError, match=r"no column 'site'.*--site-column"):
        TableDataset(path).load()
    named = TableDataset(path, "center", age_column="", sex_column="gender", sex_codes="1=M,2=F")
    cohort = named.load()
    assert set(cohort.column("sex")) == {"F", "M"} and np.isnan(cohort.column("age")).all()
    assert cohort.shape == (7,)  # neither a covariate nor what is left out is a feature
    assert named.fingerprint != TableDataset(path).fingerprint


def test_a_table_has_no_slices(tmp_path):
    cohort = TableDataset(save(tmp_path, table(9).assign(slice="x"))).load()
    assert {key.slice for key in cohort.keys} == {0} and cohort.shape == (7,)


def test_a_constant_feature_is_zero(tmp_path):
    cohort = TableDataset(save(tmp_path, table().assign(constant=0.1))).load()
    np.testing.assert_array_equal(cohort.images[:, -1], 0)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda t: t.assign(site="a"), "one site"),
        (lambda t: t.iloc[:, :5], "no feature"),
        (lambda t: t.mask(t == t["region 2"][4]), "line 6, p004: feature 'region 2' is missing"),
        (lambda t: pd.concat([t, t.iloc[:1]]), "line 74: it names the same scan"),
        (lambda t: t.assign(age=["old", *t["age"][1:]]), "line 2, p000: age 'old'"),
        (lambda t: t.assign(sex=["x", *t["sex"][1:]]), "line 2, p000: sex 'x'"),
        (lambda t: t.assign(age="old"), "column 'age': it holds 'old', which are not ages"),
        (lambda t: t.assign(sex="x"), "column 'sex' holds 'x', which are not sexes"),
        (lambda t: pd.concat([units(t), t]), "line 2 looks like a second header .*'years' is"),
        (lambda t: t.drop(columns="participant_id"), "no column 'participant_id'"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, spoil, said):
    with pytest.raises(HarmbenchError, match=said):
        TableDataset(save(tmp_path, spoil(table()))).load()


def test_a_file_is_found_by_its_ending(tmp_path):
    path = save(tmp_path, table(), "features.tsv")
    config = resolve(data=str(path))
    assert (config.data.name, config.data.params) == ("table", {"path": str(path)})


def test_a_run_from_the_file_to_the_scores(tmp_path):
    path, out = save(tmp_path, table(n=108)), tmp_path / "run"
    metrics = "distance_pcc mmd ilisi site_bacc site_bacc_cnn kd_reference truth_ssim"
    config = resolve(
        data=str(path), methods=["combat"], metrics=metrics.split(), preset="smoke", threads=1
    )
    scores = run(config, out).scores
    kept = read_json(out / "config.json")
    assert "7 features: region 0, region 1, region 2, region 3, region 4" in kept["read"][3]
    assert kept["set_aside"] == ["column scanner: text, such as 'X'"]
    scores = scores[scores["group"] == "all"].set_index(["label", "metric"])
    value = scores["value"]
    assert value["combat", "distance_pcc"] > 0.9 > value["shuffle", "distance_pcc"]
    assert value["combat", "site_bacc"] < 0.6 < 0.75 < value["identity", "site_bacc"]
    assert value["combat", "mmd"] < value["identity", "mmd"] / 5
    assert scores["ci_low"]["combat", "ilisi"] > scores["ci_high"]["identity", "ilisi"]
    for name in ("site_bacc_cnn", "kd_reference", "truth_ssim"):
        assert scores["status"]["combat", name] == "skipped"
    assert "table" in scores["reason"]["combat", "kd_reference"]
    assert "table" in scores["reason"]["combat", "site_bacc_cnn"]
    assert "table" in scores["reason"]["combat", "truth_ssim"]


def test_sites_called_like_missing_values_or_numbers_pass_through_a_run_and_its_report(tmp_path):
    names = {"a": "NA", "b": "inf", "c": "1e5"}
    content = table(n=72)
    path = save(tmp_path, content.assign(site=content["site"].map(names)))
    config = resolve(
        data=str(path),
        methods=["combat"],
        metrics=["distance_pcc", "mmd"],
        preset="smoke",
        threads=1,
    )
    scores = run(config, tmp_path / "run").scores
    assert set(scores["group"]) >= {"all", *names.values()} - {"1e5"}  # one is the reference
    page = write_report(tmp_path / "run").read_text()
    assert all(f">{name}" in page for name in names.values())


def test_no_site_is_called_like_all_sites(tmp_path):
    path = save(tmp_path, table().replace({"site": {"a": "all"}}))
    with pytest.raises(HarmbenchError, match="called 'all', which stands for all sites"):
        TableDataset(path).load()


def test_a_table_has_a_data_sheet_without_pictures(tmp_path):
    sheet = make_sheet(TableDataset(save(tmp_path, table())))
    assert not sheet.problems and not sheet.thumbnails
    assert ("Rows", "72 of 7 features") in sheet.facts
    assert sheet.contrast > 0.9
