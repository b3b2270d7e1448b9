"""How well a probe predicts age and sex from harmonized images."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from harmbench.contracts.cohort import Cohort
from harmbench.contracts.metric import MetricInputs, MetricResult, metric
from harmbench.protocol.probes.kinds import MIN_N, of_each_kind, probe_note
from harmbench.protocol.probes.training import labeled, predicted_classes
from harmbench.protocol.resampled import (
    Floats,
    Resampler,
    Statistic,
    balanced_accuracy_of,
    cross_validated_spread,
    mean_of,
    unweighted,
)
from harmbench.stats import weighted_auc, weighted_correlation, weighted_mean

NO_AGES = "the test part has no two scans of different known age"
ONE_SEX = "the test part holds one sex"

_DECLARED = {
    "axis": "biology kept",
    "level": "five",
    "min_n": MIN_N,
    "expected_order": (("oracle", "identity"), ("shuffle", "mean-image")),
}
_AGE = {**_DECLARED, "needs": ("best.age", "raw.probe", "raw.test")}


@metric(
    label="Age MAE",
    direction="lower",
    goal=0.0,
    range=(0.0, None),
    unit="years",
    margin=0.5,
    **_AGE,
)
def age_mae(inputs: MetricInputs, rng: np.random.Generator) -> MetricResult:
    """Mean absolute error of the age that a probe predicts from harmonized images.

    The kind of probe (CNN, linear or trees) is the one that predicts best on validation subjects.
    A low error may only show that the ages of a site are similar. The floors are the errors of the
    median age of the probe part, overall and within sites; see also `age_skill_within`.
    """
    age, predicted, rows, resampler = _ages(inputs, rng)
    if not _differ(age[rows]):
        return MetricResult.skipped(NO_AGES)
    test = inputs.cohort("raw.test")
    medians = _median_ages(inputs.cohort("raw.probe"), test)
    return resampler.result(
        mean_of(np.abs(predicted - age)),
        rows,
        floors={name: float(np.abs(m - age)[rows].mean()) for name, m in medians.items()},
        per_scan=predicted_ages(test, predicted, rows),
        note=probe_note(inputs.arrays("best.age")),
    )


@metric(label="Age R²", direction="higher", goal=1.0, range=(None, 1.0), **_AGE)
def age_r2(inputs: MetricInputs, rng: np.random.Generator) -> MetricResult:
    """Share of the variance of age that the probe's prediction explains: 1 - SSE / SST.

    The floors are the values of the median age of the probe part, overall and within sites.
    """
    age, predicted, rows, resampler = _ages(inputs, rng)
    if not _differ(age[rows]):
        return MetricResult.skipped(NO_AGES)

    def r2_of(values: NDArray) -> Statistic:
        def r2(chosen: NDArray[np.intp], weights: Floats) -> Floats:
            errors = weighted_mean((values[:, chosen] - age[chosen]) ** 2, weights)
            mean = weighted_mean(age[chosen], weights)
            variance = weighted_mean(age[chosen] ** 2, weights) - mean**2
            return 1 - errors / variance[:, None]

        return r2

    medians = _median_ages(inputs.cohort("raw.probe"), inputs.cohort("raw.test"))
    return resampler.result(
        r2_of(predicted),
        rows,
        groups=None,
        floors={name: unweighted(r2_of(median[None]), rows) for name, median in medians.items()},
        note=probe_note(inputs.arrays("best.age")),
    )


@metric(
    label="Age skill within sites",
    direction="higher",
    goal=1.0,
    range=(-1.0, 1.0),
    anchors=("shuffle", "oracle"),
    real_anchors=("floor:constant within sites", "identity"),
    **_AGE,
)
def age_skill_within(inputs: MetricInputs, rng: np.random.Generator) -> MetricResult:
    """Correlation within sites of the true age and the age that a probe predicts.

    The mean of the site is subtracted from both, so the prediction of a constant or of the site's
    mean age scores 0.
    """
    age, predicted, rows, resampler = _ages(inputs, rng)
    if not _differ(age[rows]):
        return MetricResult.skipped(NO_AGES)

    def skill(chosen: NDArray[np.intp], weights: Floats) -> Floats:
        groups = resampler.sites[chosen]
        return weighted_correlation(age[chosen], predicted[:, chosen], weights, groups)

    return resampler.result(
        skill,
        rows,
        groups=lambda own: own.sum() > 2,
        floors={"constant within sites": 0.0},
        note=probe_note(inputs.arrays("best.age")),
    )


@metric(
    label="Sex balanced accuracy",
    direction="higher",
    goal=1.0,
    range=(0.0, 1.0),
    needs=("best.sex", "raw.probe", "raw.test"),
    anchors=("shuffle", "oracle"),
    real_anchors=("floor:site's majority", "identity"),
    margin=0.03,
    **_DECLARED,
)
def sex_bacc(inputs: MetricInputs, rng: np.random.Generator) -> MetricResult:
    """Balanced accuracy of a probe that predicts the sex from harmonized images.

    The floors are chance and the more frequent sex of each site in the probe part.
    """
    arrays, test = inputs.arrays("best.sex"), inputs.cohort("raw.test")
    truth, rows, resampler = _sexes(arrays, test, rng)
    if not _differ(truth[rows]):
        return MetricResult.skipped(ONE_SEX)
    majority = _majority_sex(inputs.cohort("raw.probe"), test)[None]
    return resampler.result(
        balanced_accuracy_of(truth, predicted_classes(arrays)),
        rows,
        groups=lambda own: _differ(truth[own]),
        floors={
            "chance": 1 / len(arrays["classes"]),
            "site's majority": unweighted(balanced_accuracy_of(truth, majority), rows),
        },
        note=probe_note(arrays),
    )


@metric(
    label="Sex AUC",
    direction="higher",
    goal=1.0,
    range=(0.0, 1.0),
    needs=("best.sex", "raw.test"),
    **_DECLARED,
)
def sex_auc(inputs: MetricInputs, rng: np.random.Generator) -> MetricResult:
    """Area under the ROC curve of a probe that predicts the sex from harmonized images."""
    arrays, test = inputs.arrays("best.sex"), inputs.cohort("raw.test")
    truth, rows, resampler = _sexes(arrays, test, rng)
    classes = arrays["classes"]
    if len(classes) != 2:
        return MetricResult.skipped(f"a ROC curve needs two sexes, not {', '.join(classes)}")
    if not _differ(truth[rows]):
        return MetricResult.skipped(ONE_SEX)
    positive, score = truth == classes[1], arrays["predicted"][..., 1]

    def auc(chosen: NDArray[np.intp], weights: Floats) -> Floats:
        return weighted_auc(positive[chosen], score[:, chosen], weights)

    return resampler.result(
        auc,
        rows,
        groups=lambda own: _differ(truth[own]),
        floors={"chance": 0.5},
        note=probe_note(arrays),
    )


age_mae_cnn, age_mae_linear, age_mae_trees = of_each_kind(age_mae)
sex_bacc_cnn, sex_bacc_linear, sex_bacc_trees = of_each_kind(sex_bacc)


def _differ(values: NDArray) -> bool:
    return len(np.unique(values)) > 1


def _ages(
    inputs: MetricInputs, rng: np.random.Generator
) -> tuple[Floats, Floats, NDArray[np.bool_], Resampler]:
    """Return ages (n,), predictions (seeds, n), rows of known age, and the resamples."""
    test = inputs.cohort("raw.test")
    predicted = inputs.arrays("best.age")["predicted"].astype(np.float64)
    age = test.column("age").astype(np.float64)
    resampler = Resampler(test, len(predicted), rng, cross_validated_spread(inputs))
    return age, predicted, labeled(test, "age"), resampler


def _sexes(
    arrays: Mapping[str, NDArray], test: Cohort, rng: np.random.Generator
) -> tuple[NDArray, NDArray[np.bool_], Resampler]:
    """Return sexes (n,), rows whose sex is a class of the probe, and the resamples."""
    truth = test.column("sex").astype(str)
    rows = labeled(test, "sex") & np.isin(truth, arrays["classes"])
    return truth, rows, Resampler(test, len(arrays["predicted"]), rng)


def predicted_ages(test: Cohort, predicted: NDArray, rows: NDArray[np.bool_]) -> pd.DataFrame:
    """Return one row per selected scan, with the mean of the predictions (seeds, n)."""
    table = test.participants[["participant_id", "session_id", "site", "age"]][rows]
    return table.assign(predicted=predicted.mean(0)[rows]).reset_index(drop=True)


def site_median_ages(training: Cohort, test: Cohort) -> pd.Series:
    """Return the median age in the probe part of each test scan's site, NaN if none is known."""
    table = training.participants.astype({"age": float})
    return test.participants["site"].map(table.groupby("site")["age"].median())


def _median_ages(training: Cohort, test: Cohort) -> dict[str, Floats]:
    """Return two trivial predictions of the age of each test scan."""
    overall = float(training.participants["age"].astype(float).median())
    within = site_median_ages(training, test).fillna(overall)
    return {
        "overall median": np.full(len(test), overall),
        "within-site median": within.to_numpy(dtype=np.float64),
    }


def _majority_sex(training: Cohort, test: Cohort) -> NDArray:
    """Return the more frequent sex in the probe part of each test scan's site."""
    table = training.participants.dropna(subset=["sex"])
    usual = table.groupby("site")["sex"].agg(lambda column: column.mode().iloc[0])
    overall = table["sex"].mode().iloc[0]
    return test.participants["site"].map(usual).fillna(overall).to_numpy().astype(str)
