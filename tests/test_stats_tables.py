"""Tables of regions as FreeSurfer and FastSurfer write them, and the intracranial volume."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import f_oneway

from harmbench.contracts.cohort import Cohort
from harmbench.contracts.metric import MetricInputs
from harmbench.data.sheet import make_sheet
from harmbench.data.stats_tables import adjusted_for_icv
from harmbench.data.tables import TableDataset, standardize
from harmbench.errors import HarmbenchError
from harmbench.protocol.site.regions import site_effects, site_regions

N = 24
RNG = np.random.default_rng(0)
PEOPLE = [f"sub-{i:02d}" for i in range(N)]
ICV = (1.5e6 + 1e5 * RNG.normal(size=N)).round(1)
THICKNESS = 2.5 + 0.2 * RNG.normal(size=(N, 4))


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """A participants table, and the tables of both hemispheres in another order."""
    known = pd.DataFrame({"participant_id": PEOPLE, "site": ["a", "b"] * (N // 2)})
    known = known.assign(age=np.linspace(20, 80, N), sex=["F", "F", "M", "M"] * (N // 4), iq=100)
    known.to_csv(tmp_path / "participants.tsv", sep="\t", index=False)
    order = np.random.default_rng(1).permutation(N)
    for side, values in (("lh", THICKNESS[:, :2]), ("rh", THICKNESS[:, 2:])):
        names = [f"{side}_{region}_thickness" for region in ("cuneus", "insula")]
        table = pd.DataFrame(values, columns=names).assign(eTIV=ICV)
        table.insert(0, f"{side}.aparc.thickness", PEOPLE)
        table.iloc[order].to_csv(tmp_path / f"{side}.tsv", sep="\t", index=False)
    return tmp_path


def joined(study: Path, *tables: str, **options: object) -> TableDataset:
    files = [study / table for table in tables or ("lh.tsv", "rh.tsv")]
    return TableDataset(study / "participants.tsv", tables=files, **options)


def test_hemispheres_are_joined_to_the_participants(study: Path) -> None:
    data = joined(study)
    cohort = data.load()
    assert data.feature_names == [
        *("lh_cuneus_thickness", "lh_insula_thickness", "eTIV"),
        *("rh_cuneus_thickness", "rh_insula_thickness"),
    ]
    expected = standardize(np.column_stack([THICKNESS[:, :2], ICV, THICKNESS[:, 2:]]))
    np.testing.assert_allclose(cohort.images, expected, atol=1e-5)
    assert cohort.column("iq").tolist() == ["100"] * N, "a participant's column is no feature"
    assert any("intracranial volume" in note.text for note in data.notes)


def test_a_long_table_is_the_same(study: Path) -> None:
    wide = joined(study).load()
    for side in ("lh", "rh"):
        table = pd.read_csv(study / f"{side}.tsv", sep="\t")
        long = table.melt(id_vars=table.columns[0], var_name="region", value_name="value")
        long.to_csv(study / f"{side}-long.csv", index=False)
    data = joined(study, "lh-long.csv", "rh-long.csv")
    columns = [sorted(joined_names(one)) for one in (data, joined(study))]
    assert columns[0] == columns[1]
    order = np.argsort(data.feature_names), np.argsort(joined_names(joined(study)))
    np.testing.assert_allclose(data.load().images[:, order[0]], wide.images[:, order[1]], atol=1e-5)


def joined_names(data: TableDataset) -> list[str]:
    data.load()
    return list(data.feature_names)


def test_sessions_and_names_without_sub_are_matched(study: Path) -> None:
    known = pd.read_csv(study / "participants.tsv", sep="\t")
    known["participant_id"] = [name.removeprefix("sub-") for name in PEOPLE]
    known.assign(session_id="b").to_csv(study / "participants.tsv", sep="\t", index=False)
    table = pd.read_csv(study / "lh.tsv", sep="\t")
    first = table.columns[0]
    two = pd.concat([table.assign(**{first: table[first] + f"_ses-{one}"}) for one in "ab"])
    two.iloc[:N, 1:] = 0.0
    two.to_csv(study / "lh.tsv", sep="\t", index=False)
    cohort = joined(study, "lh.tsv").load()
    np.testing.assert_allclose(cohort.images[:, 0], standardize(THICKNESS)[:, 0], atol=1e-5)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda t: t.assign(eTIV=1.0), "column 'eTIV' of rh.tsv differs"),
        (lambda t: t.assign(**{t.columns[0]: "x-" + t.iloc[:, 0]}), "none of the participants"),
        (lambda t: pd.concat([t, t.iloc[:1]]), "repeats 'sub-"),
        (lambda t: t.iloc[:-1], "is missing"),
        (lambda t: t.iloc[:, :1], "one column"),
    ],
)
def test_tables_that_do_not_fit_are_refused(study: Path, change: object, sentence: str) -> None:
    table = change(pd.read_csv(study / "rh.tsv", sep="\t"))  # type: ignore[operator]
    table.to_csv(study / "rh.tsv", sep="\t", index=False)
    problems = make_sheet(joined(study)).problems
    assert any(sentence in str(problem) for problem in problems)
    with pytest.raises(HarmbenchError, match=r"cannot be read"):
        joined(study, "nothing.tsv").fingerprint  # noqa: B018


def test_every_table_is_part_of_the_fingerprint(study: Path) -> None:
    before = joined(study).fingerprint
    assert before != joined(study, icv_use="ratio").fingerprint
    with (study / "rh.tsv").open("a") as file:
        file.write("sub-99\t1\t1\t1\n")
    assert before != joined(study).fingerprint
    assert any("1 subjects are no participants" in n.text for n in joined(study).survey().notes)


def test_the_intracranial_volume_is_removed_within_sites(study: Path) -> None:
    sites = pd.Series(["a", "b"] * (N // 2))
    size = pd.Series(ICV) + np.where(sites == "a", 0, 4e5)
    features = pd.DataFrame({"x": 3 * size + 2e5 * (sites == "b"), "eTIV": size})
    left = adjusted_for_icv(features, sites, "eTIV", "regress")["x"]
    assert left.groupby(sites).std().max() < 1e-3 * features["x"].std()
    assert left.groupby(sites).mean().diff().iloc[1] == pytest.approx(2e5), "the site's own effect"
    ratio = adjusted_for_icv(features, sites, "eTIV", "ratio")["x"]
    np.testing.assert_allclose(ratio, features["x"] / size)
    data = joined(study, icv_use="regress")
    data.load()
    assert "eTIV" not in data.feature_names and len(data.feature_names) == 4
    for options in ({"icv": "TIV", "icv_use": "ratio"}, {"icv_use": "divide"}):
        assert any("--icv" in str(one) for one in make_sheet(joined(study, **options)).problems)


def test_effects_of_the_site_agree_with_an_analysis_of_variance() -> None:
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"site": np.repeat(list("abc"), 20), "age": 50.0, "sex": "F", "fold": ""})
    values = rng.normal(size=(60, 1)) + 0.5 * (table["site"] == "c").to_numpy()[:, None]
    expected = f_oneway(*(values[table["site"] == site, 0] for site in "abc"))
    effect, q = site_effects(values, table)
    assert q[0] == pytest.approx(expected.pvalue)
    # Epsilon squared from the F value.
    f = expected.statistic
    assert effect[0] == pytest.approx((f - 1) * 2 / (f * 2 + 57))


def test_effects_are_zero_without_a_site_effect_and_found_with_one() -> None:
    rng = np.random.default_rng(1)
    n, k = 100, 60
    table = pd.DataFrame(
        {
            "participant_id": [f"p{i}" for i in range(n)],
            "session_id": "",
            "slice": 0,
            "site": rng.choice(list("abcd"), n),
            "age": rng.uniform(20, 80, n),
            "sex": rng.choice(["F", "M"], n),
        }
    )
    values = rng.normal(size=(n, k)) + 0.05 * table["age"].to_numpy()[:, None]
    values[:, :10] += 3.0 * (table["site"] == "a").to_numpy()[:, None]
    images = values.astype(np.float32)
    cohort = Cohort(images, table, np.ones(images.shape, bool), "table")
    for folds in (None, np.tile(list("12345"), 20)):
        result = site_regions(MetricInputs({"harmonized.test": cohort}, "a", folds), rng)
        assert 10 / k <= result.overall.value <= 12 / k
        assert (
            result.arrays["effect"][:10].min() > 0.4 > 0.1 > np.mean(result.arrays["effect"][10:])
        )
    pictures = Cohort(images.reshape(n, 6, 10), table, np.ones((n, 6, 10), bool))
    assert "images" in site_regions(MetricInputs({"harmonized.test": pictures}, "a"), rng).reason
