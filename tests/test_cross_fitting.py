"""Small studies: every image is harmonized by a fit that has not seen it, and all are scored."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import cross_val_predict

import harmbench as hb
from baselines.combat import Combat
from harmbench.contracts.cohort import Cohort
from harmbench.contracts.method import ApplyContext, FitContext
from harmbench.contracts.metric import Metric, MetricInputs
from harmbench.contracts.product import ProductContext
from harmbench.data.splits import LEFT_OUT, fewest_subjects, make_split
from harmbench.data.tables import standardize
from harmbench.data.toy import ToyDataset
from harmbench.errors import HarmbenchError
from harmbench.protocol.probes.kinds import apply_linear, make_best, make_kind
from harmbench.protocol.site.accuracy import make_floor, site_bacc, site_excess


def people(per_site: list[int], seed: int = 0) -> pd.DataFrame:
    rng, n = np.random.default_rng(seed), sum(per_site)
    sites = np.repeat([f"site-{i}" for i in range(len(per_site))], per_site)
    return pd.DataFrame(
        {
            "participant_id": [f"p{i:03d}" for i in range(n)],
            "session_id": "",
            "slice": 0,
            "site": sites,
            "age": rng.uniform(20, 80, n).round(1),
            "sex": rng.choice(["F", "M"], n),
        }
    )


def table(per_site: list[int], k: int = 20, effect: float = 1.0, seed: int = 0) -> Cohort:
    """Features of noise, to which each site adds a constant."""
    rng, known = np.random.default_rng(seed + 1), people(per_site, seed)
    code = known["site"].astype("category").cat.codes.to_numpy()
    shift = effect * rng.normal(size=(len(per_site), k))
    values = standardize(rng.normal(size=(len(known), k)) + shift[code])
    return Cohort(values, known, np.ones(values.shape, bool), "table")


# Split


@pytest.mark.parametrize("folds", [3, 5, 8])
def test_every_subject_is_scored_once_by_a_fit_and_probes_that_have_not_seen_it(folds: int) -> None:
    cohort = table([17, 22, 30])
    split = make_split(cohort, 0, folds=folds)
    assert split.cross_fitting and len(split.fits()) == folds
    tested = np.sum([fold.test for fold in split.fits().values()], axis=0)
    assert (tested == 1).all()
    sites = cohort.column("site")
    for fold in split.fits().values():
        assert not (fold.fit & fold.probe).any()
        assert not ((fold.fit | fold.probe) & fold.test).any()
        assert (fold.fit | fold.probe | fold.test).all()
        for part in (fold.fit, fold.probe):
            assert pd.Series(sites[part]).value_counts().reindex(np.unique(sites)).min() >= 2


def test_all_scans_of_a_travelling_subject_are_in_one_fold() -> None:
    known = pd.concat([people([24])] * 3, ignore_index=True)
    known["site"] = np.repeat(["a", "b", "c"], 24)
    images = np.zeros((len(known), 4), np.float32)
    split = make_split(Cohort(images, known, images == 0, "table"), 0)
    assert split.cross_fitting
    parts = pd.Series(split.part).groupby(known["participant_id"]).nunique()
    assert (parts == 1).all()
    assert set(pd.Series(split.part).value_counts() // 3) <= {4, 5}


def test_a_site_that_is_too_small_is_left_out_and_named() -> None:
    split = make_split(table([20, 20, 3]), 0)
    assert (split.part == LEFT_OUT).sum() == 3
    assert not any((fold.fit | fold.probe | fold.test)[-3:].any() for fold in split.fits().values())
    assert "site-2 (3)" in split.reason
    with pytest.raises(HarmbenchError, match="fewer than two sites"):
        make_split(table([20, 3, 3]), 0)
    with pytest.raises(HarmbenchError, match="1 site"):
        make_split(table([20]), 0)


def test_a_large_cohort_keeps_three_parts_beside_a_site_that_is_too_small() -> None:
    split = make_split(table([50, 50, 4]), 0)
    assert not split.cross_fitting
    assert set(split.part) == {"fit", "probe", "test", LEFT_OUT}


@pytest.mark.parametrize("folds", range(3, 15))
def test_the_smallest_site_has_two_subjects_for_every_probe(folds: int) -> None:
    split = make_split(table([fewest_subjects(folds)] * 2), 0, folds=folds)
    for fold in split.fits().values():
        assert fold.probe[: len(fold.probe) // 2].sum() >= 2
        assert fold.fit[: len(fold.fit) // 2].sum() >= 2


# Scores


def test_combat_reads_below_chance_on_the_scans_of_its_fit_and_not_out_of_fold(
    tmp_path: Path,
) -> None:
    """Fitted on all scans, ComBat makes the sites' means equal; a cross-validated probe then errs
    more often than by chance, which looks like perfect harmonization."""
    sizes, chance = [15] * 8, 1 / 8
    inside, outside = [], []
    for seed in range(3):
        cohort = table(sizes, k=30, seed=seed)
        method = Combat()
        method.fit(cohort.only(method.info.fit_sees), FitContext(reference_site="site-0", seed=0))
        images = method.harmonize(
            cohort.only(method.info.harmonize_sees), context=ApplyContext(seed=0)
        )
        sites = cohort.column("site").astype(str)
        probe = LogisticRegression(C=0.1, max_iter=2000)
        inside.append(balanced_accuracy_score(sites, cross_val_predict(probe, images, sites, cv=5)))
        frame = pd.DataFrame(cohort.images).add_prefix("region")
        file = tmp_path / f"{seed}.csv"
        known = cohort.participants.drop(columns=["session_id", "slice"])
        pd.concat([known, frame], axis=1).to_csv(file, index=False)
        results = hb.run(
            ["combat"], str(file), metrics=["site_bacc_linear"], threads=1,
            out=tmp_path / f"run-{seed}", quiet=True,
        )  # fmt: skip
        row = results.table(["site_bacc_linear"], intervals=True).loc[("combat", 0)]
        outside.append(row["site_bacc_linear"])
        assert row["site_bacc_linear_high"] > chance
    assert np.mean(inside) < 0.5 * chance
    assert np.mean(outside) > 0.75 * chance


def pooled(cohort: Cohort, seed: int = 0) -> MetricInputs:
    """Return the inputs of the metrics of unharmonized data, as a run passes them."""
    split = make_split(cohort, seed)
    rows = {name: np.flatnonzero(fold.probe) for name, fold in split.fits().items()}
    probe = cohort.subset(np.concatenate(list(rows.values())))
    labels = np.repeat(list(rows), [len(own) for own in rows.values()])
    images = {"raw.test": cohort, "harmonized.test": cohort}
    images |= {"raw.probe": probe, "harmonized.probe": probe}
    return MetricInputs(images, "site-0", split.part, labels)


def scored(metric: Metric, cohort: Cohort, seed: int = 0) -> Any:
    inputs, context = pooled(cohort, seed), ProductContext()
    kinds = {
        f"{kind}.site": make_kind(kind, "site", inputs, context) for kind in ("linear", "trees")
    }
    best = make_best("site", MetricInputs(kinds, "site-0"), context)
    products = {**inputs.products, "best.site": best, "floor.site": make_floor(inputs, context)}
    given = MetricInputs(products, "site-0", inputs.folds, inputs.probe_folds)
    return metric(given, np.random.default_rng(seed)).overall


def test_a_plain_site_effect_is_seen() -> None:
    found = scored(site_excess, table([15] * 3, effect=2.0))
    assert found.low > 0.2


@pytest.mark.controls
def test_without_a_site_effect_the_excess_is_zero() -> None:
    cohorts = [table([13] * 3, effect=0.0, seed=seed) for seed in range(20)]
    found = [scored(site_excess, cohort, seed) for seed, cohort in enumerate(cohorts)]
    assert sum(one.low <= 0 <= one.high for one in found) >= 19
    # Folds are stratified, so chance differences of age between sites are the same in all folds,
    # and the floor of age and sex is a little above chance.
    accuracy = [scored(site_bacc, cohort, seed).value for seed, cohort in enumerate(cohorts)]
    assert abs(np.mean(accuracy) - 1 / 3) < 0.04


def test_images_of_a_small_study_are_scored_with_the_fits_as_rows_of_the_timing(
    tmp_path: Path,
) -> None:
    file = f"{Path(str(ToyDataset.__module__.replace('.', '/')))}.py"
    source = Path(__file__).parents[1] / file
    results = hb.run(
        ["combat"], f"{source}:ToyDataset", metrics=["site_excess", "age_mae", "sex_bacc"],
        data_options={"n": 60}, threads=1, out=tmp_path / "run", quiet=True,
    )  # fmt: skip
    assert results.table().notna().all().all()
    timing = pd.read_csv(tmp_path / "run" / "timing.csv", dtype={"fold": str})
    fits = timing[(timing["label"] == "combat") & (timing["stage"] == "fit")]
    assert fits["fold"].tolist() == ["1", "2", "3", "4", "5"]
    assert set(results.scores.query("metric == 'age_mae' and group == 'all'")["n"]) == {60}


@pytest.mark.parametrize("task", ["site", "age", "sex"])
def test_a_linear_probe_is_one_map_that_can_be_applied_again(task: Any) -> None:
    inputs = pooled(table([20, 16, 17]))
    arrays = make_kind("linear", task, inputs, ProductContext())
    again = apply_linear(arrays, task, inputs.cohort("harmonized.test").images)
    np.testing.assert_allclose(again, arrays["predicted"], rtol=1e-3, atol=1e-3)
    moved = apply_linear(arrays, task, inputs.cohort("harmonized.test").images + 1)
    assert np.abs(moved - arrays["predicted"]).max() > 0.01


def test_age_that_is_written_into_a_table_leaks(tmp_path: Path) -> None:
    """Features that follow the given age for half of its effect, in a study of 60 people."""
    (tmp_path / "writer.py").write_text(WRITER)
    cohort = table([20] * 3, effect=0.0)
    slopes = np.random.default_rng(5).normal(size=20)
    age = cohort.column("age").astype(float)
    values = pd.DataFrame(cohort.images + 0.05 * np.outer(age - 50, slopes)).add_prefix("region")
    known = cohort.participants.drop(columns=["session_id", "slice"])
    pd.concat([known, values], axis=1).to_csv(tmp_path / "study.csv", index=False)
    results = hb.run(
        [f"{tmp_path / 'writer.py'}:Writer", "combat-nocov"], str(tmp_path / "study.csv"),
        metrics=["leakage_age", "leakage_sex"], threads=1, out=tmp_path / "run", quiet=True,
    )  # fmt: skip
    found = results.table(["leakage_age"], intervals=True)
    assert found.loc[("Writer", 0), "leakage_age_low"] > 0.15
    assert found.loc[("combat-nocov", 0), "leakage_age"] == 0


def test_a_site_that_is_left_out_is_no_reference(tmp_path: Path) -> None:
    cohort = table([20, 20, 3])
    known = cohort.participants.drop(columns=["session_id", "slice"])
    frame = pd.DataFrame(cohort.images).add_prefix("region")
    pd.concat([known, frame], axis=1).to_csv(tmp_path / "study.csv", index=False)
    with pytest.raises(HarmbenchError, match="left out"):
        hb.run(
            ["combat"], str(tmp_path / "study.csv"), reference_site="site-2",
            out=tmp_path / "run", quiet=True,
        )  # fmt: skip


def test_images_that_are_all_alike_have_finite_linear_probes() -> None:
    cohort = table([20, 20, 20])
    alike = cohort.with_images(np.zeros_like(cohort.images))
    arrays = make_kind("linear", "age", pooled(alike), ProductContext())
    assert all(np.isfinite(arrays[name]).all() for name in ("weights", "bias", "predicted"))


WRITER = """
import numpy as np
from harmbench import Harmonizer, MethodInfo


class Writer(Harmonizer):
    info = MethodInfo(
        name="writer", label="Writer", summary="Writes the age that it is given.",
        fit_sees={"site"}, harmonize_sees={"age"}, spaces={"table"},
    )

    def fit(self, cohort, context):
        return self

    def harmonize(self, cohort, target=None, *, context):
        slopes = np.random.default_rng(5).normal(size=cohort.images.shape[1])
        age = cohort.column("age").astype(float) - 50
        return (cohort.images + 0.05 * np.outer(age, slopes)).astype(np.float32)
"""
