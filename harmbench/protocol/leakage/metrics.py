"""Leakage: whether a method writes the age and the sex that it receives into the image.

The test images are harmonized once under the true covariates and once under placebos, both age and
sex at the same time (see `harmbench.protocol.leakage.placebo`). The probes of the cell, which are
trained under the truth, are applied to both: the CNNs, or the linear probes for tables and small
studies. A method that receives neither covariate has a leakage
of exactly 0 by construction; this says nothing about how much biology it keeps, so read
`harmbench.protocol.leakage.pull` as well.

ComBat has almost no leakage in this sense. It removes the covariate's effect and adds it again;
only the change of its scale in between remains.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from harmbench.contracts.cohort import Cohort
from harmbench.contracts.metric import MetricInputs, MetricResult, metric
from harmbench.contracts.product import Make, Product, ProductContext
from harmbench.protocol.leakage import placebo
from harmbench.protocol.leakage.slopes import calibration, replicated_slope
from harmbench.protocol.probes.kinds import MIN_N, apply_linear
from harmbench.protocol.probes.training import Task, apply_probe, labeled, underfit_note
from harmbench.protocol.resampled import Resampler, mean_of

AGES = (placebo.BOTH,)
"""Permutations of the ages. One is enough: most of the width of the interval is due to the subjects
and the probe seeds, see docs/statistics.md."""
NO_CHANGE = "the ages of the test part cannot be permuted: no site has two known ages that differ"
ON_OWN_IMAGES = "calibrated on harmonized images: a leak of k has the value k / (1 + k)"


def make_age_readings(inputs: MetricInputs, context: ProductContext) -> dict[str, NDArray]:
    """Predict the age from images harmonized under placebo ages with the cell's age probe.

    Returns ``"placebo"`` (draws, n_test) and ``"predicted"`` (draws, seeds, n_test), years.
    """
    draws = [inputs.cohort(name) for name in AGES]
    predicted = [_predicted("age", inputs, images, context) for images in draws]
    ages = [images.column("placebo_age").astype(np.float64) for images in draws]
    return {"placebo": np.stack(ages), "predicted": np.stack(predicted)}


def make_sex_readings(inputs: MetricInputs, context: ProductContext) -> dict[str, NDArray]:
    """Predict the sex from images harmonized under the swapped sex with the cell's sex probe.

    Returns the probabilities ``"predicted"`` (seeds, n_test, classes).
    """
    return {"predicted": _predicted("sex", inputs, inputs.cohort(placebo.BOTH), context)}


def make_calibration(inputs: MetricInputs, context: ProductContext) -> dict[str, NDArray]:
    """Predict the age from the true images at the reference site with the cell's age probe.

    Returns ``"predicted"`` (seeds, n_test), years.
    """
    return {"predicted": _predicted("age", inputs, inputs.cohort("truth.test"), context)}


def own_probe(inputs: MetricInputs, task: Task) -> Mapping[str, NDArray]:
    """Return the cell's CNN, or the linear probe for tables and small studies."""
    return inputs.arrays(f"{'probe' if f'probe.{task}' in inputs else 'linear'}.{task}")


def _predicted(
    task: Task, inputs: MetricInputs, images: Cohort, context: ProductContext
) -> NDArray:
    probe = own_probe(inputs, task)
    if np.array_equal(images.images, inputs.cohort("harmonized.test").images):
        return probe["predicted"]
    if "weights" in probe:
        return apply_linear(probe, task, images.images)
    from harmbench.training.process_state import threads

    with threads(context.threads):
        return apply_probe(probe, task, images.images, context.device)


_AGE = {
    "axis": "leakage",
    "level": "core",
    "goal": 0.0,
    "min_n": MIN_N,
    "needs": ("leakage.age", "linear.age", "raw.test"),
}
_ORDER = (
    tuple("oracle identity site-shift histogram mean-image blur shuffle combat-nocov".split()),
)
"""Controls that receive neither age nor sex: all have a leakage of 0."""


def _age_leakage(inputs: MetricInputs, rng: np.random.Generator, absolute: bool) -> MetricResult:
    """Return the slope of the change of the predicted age on the placebo, calibrated, by site.

    Each sex has its own intercept, which absorbs the effect of the swapped sex on the predicted
    age. On the whole sample the intercepts change nothing, because the differences between placebo
    and truth sum to 0 for each site and sex. In resamples they do not sum to 0, and the intercepts
    keep the effect of the sex out of the interval. Slope and calibration are averaged over the
    seeds before the division, because a seed that predicts the age badly would dominate a mean of
    ratios.
    """
    test, readings = inputs.cohort("raw.test"), inputs.arrays("leakage.age")
    under_truth = own_probe(inputs, "age")["predicted"].astype(np.float64)
    age, rows = test.column("age").astype(np.float64), labeled(test, "age")
    sex = test.column("sex").astype(str)
    change = readings["predicted"] - under_truth  # (draws, seeds, n)
    difference = readings["placebo"] - age  # (draws, n)
    resampler = Resampler(test, len(under_truth), rng)
    permuted = rows & (np.where(rows, difference, 0.0) != 0).any(0)
    sites = np.unique(resampler.sites[permuted])
    if len(sites) == 0:
        return MetricResult.skipped(NO_CHANGE)
    at_site = [rows & (resampler.sites == site) for site in sites]
    draws = len(difference)
    slopes = [
        replicated_slope(
            difference[:, own].ravel(),
            np.concatenate(change[:, :, own], axis=1),
            np.tile(resampler.rows[:, own], draws),
            resampler.seeds,
            np.tile(sex[own], draws),
        )
        for own in at_site
    ]
    values = np.array([value for value, _ in slopes])
    replicates = np.stack([replicates for _, replicates in slopes], axis=1)
    has_truth = "calibration.age" in inputs
    if change[:, :, rows].any():
        known = inputs.arrays("calibration.age")["predicted"] if has_truth else under_truth
        scale, scales, reason = calibration(np.asarray(known, np.float64), age, rows, resampler)
        if reason:
            return MetricResult.skipped(reason)
        values, replicates = values / scale, replicates / scales[:, None]
    if absolute:
        values, replicates = np.abs(values), np.abs(replicates)
    groups = {
        str(site): resampler.estimate(values[i], replicates[:, i], at_site[i])
        for i, site in enumerate(sites)
    }
    # In a resample all ages of a small site may be equal.
    overall = np.ma.masked_invalid(replicates).mean(1).filled(np.nan)
    notes = [underfit_note(own_probe(inputs, "age")), "" if has_truth else ON_OWN_IMAGES]
    return MetricResult(
        replace(
            resampler.estimate(values.mean(), overall, rows),
            n=sum(estimate.n for estimate in groups.values()),
        ),
        groups=groups,
        target=0.0,
        replicates=overall,
        arrays={"lie": difference, "change": change.mean(1)},
        note="; ".join(filter(None, notes)),
    )


@metric(
    label="Age leakage",
    direction="target",
    wants=("calibration.age", "probe.age"),
    expected_order=_ORDER,
    **_AGE,
)
def leakage_age(inputs: MetricInputs, rng: np.random.Generator) -> MetricResult:
    """Change of the image's apparent age per year of error in the age that the method receives.

    The ages are permuted within sites. The value is the mean over sites of the slope of the change
    of the predicted age, divided by the slope of the predictions on true images: 0 means that the
    method ignores the given age, 1 that it follows it. Without a truth the probe is calibrated on
    the method's images, and a leak of k has the value k / (1 + k).
    """
    return _age_leakage(inputs, rng, absolute=False)


@metric(
    label="Age leakage, absolute",
    direction="lower",
    range=(0.0, None),
    wants=("calibration.age", "probe.age"),
    expected_order=_ORDER,
    **_AGE,
)
def leakage_age_abs(inputs: MetricInputs, rng: np.random.Generator) -> MetricResult:
    """Mean over sites of the absolute age leakage, so that opposite leaks do not cancel."""
    return _age_leakage(inputs, rng, absolute=True)


@metric(
    label="Sex leakage",
    axis="leakage",
    level="core",
    direction="target",
    goal=0.0,
    range=(-1.0, 1.0),
    min_n=MIN_N,
    needs=("leakage.sex", "linear.sex", "raw.test"),
    wants=("probe.sex",),
    expected_order=_ORDER,
)
def leakage_sex(inputs: MetricInputs, rng: np.random.Generator) -> MetricResult:
    """Mean change of the sex probe's probability of the wrong sex that the method receives."""
    test, probe = inputs.cohort("raw.test"), own_probe(inputs, "sex")
    classes = [str(name) for name in probe["classes"]]
    swapped = test.participants["sex"].map(placebo.OTHER_SEX).to_numpy()
    rows = np.isin(swapped.astype(str), classes)
    if not rows.any():
        return MetricResult.skipped("no test scan has a sex whose opposite the probe knows")
    column = np.array([classes.index(sex) if sex in classes else 0 for sex in swapped])
    change = inputs.arrays("leakage.sex")["predicted"].astype(np.float64) - probe["predicted"]
    towards = change[:, np.arange(len(test)), column]
    return Resampler(test, len(towards), rng).result(
        mean_of(towards), rows, target=0.0, note=underfit_note(probe)
    )


@metric(
    label="Age MAE under placebo",
    direction="lower",
    range=(0.0, None),
    unit="years",
    wants=("probe.age",),
    expected_order=(("oracle", "identity"), ("shuffle", "mean-image")),
    **_AGE,
)
def age_mae_placebo(inputs: MetricInputs, rng: np.random.Generator) -> MetricResult:
    """Error of the age probe, against the true age, on images harmonized under placebo ages.

    The target is its error under the true ages. A larger error means that the method had written
    the given age into the image.
    """
    test, probe = inputs.cohort("raw.test"), own_probe(inputs, "age")
    age, rows = test.column("age").astype(np.float64), labeled(test, "age")
    if not rows.any():
        return MetricResult.skipped("no test scan has a known age")
    predicted = inputs.arrays("leakage.age")["predicted"].astype(np.float64)
    errors = np.abs(predicted - age).mean(0)
    under_truth = np.abs(probe["predicted"].astype(np.float64) - age)[:, rows]
    return Resampler(test, len(errors), rng).result(
        mean_of(errors), rows, target=float(under_truth.mean()), note=underfit_note(probe)
    )


def _product(name: str, needs: tuple[str, ...], make: Make, summary: str) -> Product:
    task, *others = needs
    needs = (f"linear.{task}", "harmonized.test", *others)
    wants = (f"probe.{task}",)
    reads = ("threads", "device")
    return Product(name, needs, make, wants, min_n=MIN_N, reads=reads, summary=summary)


PRODUCTS = (
    _product(
        "leakage.age",
        ("age", *AGES),
        make_age_readings,
        "ages in years that the age probe predicts under placebo ages: `placebo`, `predicted`",
    ),
    _product(
        "leakage.sex",
        ("sex", placebo.BOTH),
        make_sex_readings,
        "probabilities of the sex probe under the swapped sex: `predicted`",
    ),
    _product(
        "calibration.age",
        ("age", "truth.test"),
        make_calibration,
        "ages in years that the age probe predicts from the true images: `predicted`",
    ),
)
