"""What is kept of age and sex in harmonized images, as a CNN reads it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from harmbench.contracts.cohort import Cohort
from harmbench.contracts.metric import MetricInputs, MetricResult, metric
from harmbench.protocol.probes.training import MIN_N, labeled, predicted_classes, reservation
from harmbench.protocol.resampled import (
    Floats,
    Resampler,
    Statistic,
    balanced_accuracy_of,
    mean_of,
    unweighted,
)
from harmbench.stats import weighted_auc, weighted_correlation, weighted_mean

NEEDS_AGE = ("probe.age", "raw.probe", "raw.test")
NEEDS_SEX = ("probe.sex", "raw.probe", "raw.test")
ORDER = (("oracle", "identity"), ("shuffle", "mean-image"))
NO_AGES = "the test part has no two scans of different known age"


@metric(
    label="Age MAE",
    axis="biology kept",
    level="five",
    direction="lower",
    goal=0.0,
    range=(0.0, None),
    unit="years",
    min_n=MIN_N,
    needs=NEEDS_AGE,
    margin=0.5,
    expected_order=ORDER,
)
def age_mae(inputs: MetricInputs, rng: np.random.Generator) -> MetricResult:
    """Mean absolute error of a CNN that reads the age from harmonized images.

    Much of a low error can be a guess at the site's usual age: the floors are the medians of the
    probe part, overall and within sites; see `age_skill_within`.
    """
    age, predicted, rows, resampler = _ages(inputs, rng)
    if not _differ(age[rows]):
        return MetricResult.skipped(NO_AGES)
    errors = np.abs(predicted - age)
    test = inputs.cohort("raw.test")
    guesses = _median_ages(inputs.cohort("raw.probe"), test)
    table = test.participants[["participant_id", "session_id", "site", "age"]][rows]
    return resampler.result(
        mean_of(errors),
        rows,
        floors={name: float(np.abs(g - age)[rows].mean()) for name, g in guesses.items()},
        per_scan=table.assign(predicted=predicted.mean(0)[rows]).reset_index(drop=True),
        note=reservation(inputs.arrays("probe.age")),
    )


@metric(
    label="Age R²",
    axis="biology kept",
    level="five",
    direction="higher",
    goal=1.0,
    range=(None, 1.0),
    min_n=MIN_N,
    needs=NEEDS_AGE,
    expected_order=ORDER,
)
def age_r2(inputs: MetricInputs, rng: np.random.Generator) -> MetricResult:
    """Share of the variance of age that the CNN's prediction explains: 1 - SSE / SST.

    The floor is what the within-site medians of the probe part explain.
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

    guesses = _median_ages(inputs.cohort("raw.probe"), inputs.cohort("raw.test"))
    return resampler.result(
        r2_of(predicted),
        rows,
        groups=None,
        floors={name: unweighted(r2_of(guess[None]), rows) for name, guess in guesses.items()},
        note=reservation(inputs.arrays("probe.age")),
    )


@metric(
    label="Age skill within sites",
    axis="biology kept",
    level="five",
    direction="higher",
    goal=1.0,
    range=(-1.0, 1.0),
    min_n=MIN_N,
    needs=NEEDS_AGE,
    anchors=("shuffle", "oracle"),
    real_anchors=("floor:constant within sites", "identity"),
    expected_order=ORDER,
)
def age_skill_within(inputs: MetricInputs, rng: np.random.Generator) -> MetricResult:
    """Correlation, within sites, of the age with what a CNN reads from harmonized images.

    Both are centered on the site's mean, so a guess at the site's usual age scores 0; so does a
    constant.
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
        note=reservation(inputs.arrays("probe.age")),
    )


@metric(
    label="Sex balanced accuracy",
    axis="biology kept",
    level="five",
    direction="higher",
    goal=1.0,
    range=(0.0, 1.0),
    min_n=MIN_N,
    needs=NEEDS_SEX,
    anchors=("shuffle", "oracle"),
    real_anchors=("floor:site's majority", "identity"),
    margin=0.03,
    expected_order=ORDER,
)
def sex_bacc(inputs: MetricInputs, rng: np.random.Generator) -> MetricResult:
    """Balanced accuracy of a CNN that reads the sex from harmonized images.

    The floors are chance and a guess at the site's more frequent sex in the probe part.
    """
    arrays, test = inputs.arrays("probe.sex"), inputs.cohort("raw.test")
    truth, rows, resampler = _sexes(arrays, test, rng)
    if not _differ(truth[rows]):
        return MetricResult.skipped("the test part holds one sex")
    guess = _usual_sex(inputs.cohort("raw.probe"), test)[None]
    return resampler.result(
        balanced_accuracy_of(truth, predicted_classes(arrays)),
        rows,
        groups=lambda own: _differ(truth[own]),
        floors={
            "chance": 1 / len(arrays["classes"]),
            "site's majority": unweighted(balanced_accuracy_of(truth, guess), rows),
        },
        note=reservation(arrays),
    )


@metric(
    label="Sex AUC",
    axis="biology kept",
    level="five",
    direction="higher",
    goal=1.0,
    range=(0.0, 1.0),
    min_n=MIN_N,
    needs=("probe.sex", "raw.test"),
    expected_order=ORDER,
)
def sex_auc(inputs: MetricInputs, rng: np.random.Generator) -> MetricResult:
    """Area under the ROC curve of a CNN that reads the sex from harmonized images."""
    arrays, test = inputs.arrays("probe.sex"), inputs.cohort("raw.test")
    truth, rows, resampler = _sexes(arrays, test, rng)
    classes = arrays["classes"]
    if len(classes) != 2:
        return MetricResult.skipped(f"a ROC curve needs two sexes, not {', '.join(classes)}")
    if not _differ(truth[rows]):
        return MetricResult.skipped("the test part holds one sex")
    second, score = truth == classes[1], arrays["predicted"][..., 1]

    def auc(chosen: NDArray[np.intp], weights: Floats) -> Floats:
        return weighted_auc(second[chosen], score[:, chosen], weights)

    return resampler.result(
        auc,
        rows,
        groups=lambda own: _differ(truth[own]),
        floors={"chance": 0.5},
        note=reservation(arrays),
    )


def _differ(values: NDArray) -> bool:
    return len(np.unique(values)) > 1


def _ages(
    inputs: MetricInputs, rng: np.random.Generator
) -> tuple[Floats, Floats, NDArray[np.bool_], Resampler]:
    """Return ages (n,), predictions (seeds, n), rows with an age, and the resamples."""
    test = inputs.cohort("raw.test")
    predicted = inputs.arrays("probe.age")["predicted"].astype(np.float64)
    age = test.column("age").astype(np.float64)
    return age, predicted, labeled(test, "age"), Resampler(test, len(predicted), rng)


def _sexes(
    arrays: Mapping[str, NDArray], test: Cohort, rng: np.random.Generator
) -> tuple[NDArray, NDArray[np.bool_], Resampler]:
    """Return sexes (n,), rows whose sex the probe knows, and the resamples."""
    truth = test.column("sex").astype(str)
    rows = labeled(test, "sex") & np.isin(truth, arrays["classes"])
    return truth, rows, Resampler(test, len(arrays["predicted"]), rng)


def _median_ages(training: Cohort, test: Cohort) -> dict[str, Floats]:
    """Return two guesses at the age of every test scan: medians of the probe part."""
    table = training.participants.astype({"age": float})
    overall = float(table["age"].median())
    within = test.participants["site"].map(table.groupby("site")["age"].median())
    return {
        "overall median": np.full(len(test), overall),
        "within-site median": within.fillna(overall).to_numpy(dtype=np.float64),
    }


def _usual_sex(training: Cohort, test: Cohort) -> NDArray:
    """Return the more frequent sex of every test scan's site in the probe part."""
    table = training.participants.dropna(subset=["sex"])
    usual = table.groupby("site")["sex"].agg(lambda column: column.mode().iloc[0])
    overall = table["sex"].mode().iloc[0]
    return test.participants["site"].map(usual).fillna(overall).to_numpy().astype(str)
