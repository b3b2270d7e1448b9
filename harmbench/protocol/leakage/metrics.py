"""Leakage: whether a method writes the age and the sex that it is told into the image.

Test images are harmonized once under the true covariates and again under placebos, both age and sex
at once (see `harmbench.protocol.leakage.placebo`); the cell's own probes, trained under the
truth, read both. A method that is given neither leaks exactly 0 by construction, which says nothing
of how much biology it keeps: read `harmbench.protocol.leakage.pull` beside it.

ComBat leaks almost nothing in this sense: of the covariate's effect, which it takes out and puts
back, only what its scale changes in between remains.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from harmbench.contracts.cohort import Cohort
from harmbench.contracts.metric import MetricInputs, MetricResult, metric
from harmbench.contracts.product import Product, ProductContext
from harmbench.protocol.leakage import placebo
from harmbench.protocol.leakage.slopes import (
    Replicated,
    averaged,
    calibration,
    unread,
    weighted_slope,
)
from harmbench.protocol.probes.training import MIN_N, Task, apply_probe, labeled, reservation
from harmbench.protocol.resampled import Floats, Resampler, mean_of

AGES = (placebo.BOTH,)
"""Draws of ages. One is enough: the subjects and the probe seeds make most of the interval, see
docs/statistics.md."""
NO_CHANGE = "the ages of the test part cannot be permuted: no site has two known ages that differ"
ON_OWN_IMAGES = "calibrated on harmonized images: a leak of k reads k / (1 + k)"
BLIND = (
    "oracle",
    "identity",
    "site-shift",
    "histogram",
    "mean-image",
    "blur",
    "shuffle",
    "combat-nocov",
)


# Products ---------------------------------------------------------------------------------------


def make_age_readings(inputs: MetricInputs, context: ProductContext) -> dict[str, NDArray]:
    """Let the cell's age probe read the images of each draw of placebo ages.

    Returns
    -------
    dict of str to ndarray
        ``"placebo"``, shape (draws, n_test), years; ``"predicted"``, shape (draws, seeds, n_test).
    """
    draws = [inputs.cohort(name) for name in AGES]
    read = [_read("age", inputs, images, context) for images in draws]
    ages = [images.column("placebo_age").astype(np.float64) for images in draws]
    return {"placebo": np.stack(ages), "predicted": np.stack(read)}


def make_sex_readings(inputs: MetricInputs, context: ProductContext) -> dict[str, NDArray]:
    """Let the cell's sex probe read the images harmonized under the flipped sex.

    Returns
    -------
    dict of str to ndarray
        ``"predicted"``, shape (seeds, n_test, classes): probabilities.
    """
    return {"predicted": _read("sex", inputs, inputs.cohort(placebo.BOTH), context)}


def make_calibration(inputs: MetricInputs, context: ProductContext) -> dict[str, NDArray]:
    """Let the cell's age probe read the true images at the reference site.

    Returns
    -------
    dict of str to ndarray
        ``"predicted"``, shape (seeds, n_test): years.
    """
    return {"predicted": _read("age", inputs, inputs.cohort("truth.test"), context)}


def _read(task: Task, inputs: MetricInputs, images: Cohort, context: ProductContext) -> NDArray:
    probe = inputs.arrays(f"probe.{task}")
    if np.array_equal(images.images, inputs.cohort("harmonized.test").images):
        return probe["predicted"]
    from harmbench.training.process_state import threads

    with threads(context.threads):
        return apply_probe(probe, task, images.images, context.device)


# Arrays -----------------------------------------------------------------------------------------


class Leak(NamedTuple):
    """How far the apparent age follows a placebo: 0 not at all, 1 year by year.

    Attributes
    ----------
    sites : ndarray of str, shape (k,)
        Sites where ages can be permuted.
    by_site : Replicated
        Value (k,), replicates (b, k).
    reason : str
        Why it cannot be said, else ``""``.
    """

    sites: NDArray
    by_site: Replicated
    reason: str = ""


def leak_by_site(
    change: Floats,
    lie: Floats,
    read: Floats,
    age: Floats,
    rows: NDArray[np.bool_],
    sex: NDArray,
    resampler: Resampler,
) -> Leak:
    """Return the calibrated slope of the change of the apparent age on the lie, at each site.

    Each sex has an intercept of its own, which takes up what the flipped sex does to the apparent
    age. On the whole sample it changes nothing, since the lies of each site and sex add up to 0; in
    resamples, whose lies do not, it keeps the effect of the sex out of the interval. The mean
    over the seeds is taken of slope and calibration before the one is divided by the other, since
    one seed that reads little age would blow up a mean of ratios.

    Parameters
    ----------
    change : ndarray, shape (draws, s, n)
        Years read under the placebo less years read under the truth.
    lie : ndarray, shape (draws, n)
        Placebo less true age, years.
    read : ndarray, shape (s, n)
        Years read from images that hold the true age, for the calibration.
    age : ndarray, shape (n,)
        True age, years.
    rows : ndarray of bool, shape (n,)
        Scans of known age.
    sex : ndarray of str, shape (n,)
        True sex.
    resampler : Resampler
        Of the whole test set.
    """
    lies = rows & (np.where(rows, lie, 0.0) != 0).any(0)
    sites = np.unique(resampler.sites[lies])
    if len(sites) == 0:
        return Leak(sites, Replicated(np.zeros(0), np.zeros((0, 0))), NO_CHANGE)
    values, replicates = [], []
    draws = len(lie)
    for site in sites:
        own = rows & (resampler.sites == site)
        x, y = lie[:, own].ravel(), np.concatenate(change[:, :, own], axis=1)
        groups = np.tile(sex[own], draws)
        one = weighted_slope(x, y, np.ones((1, len(x))), groups)
        many = weighted_slope(x, y, np.tile(resampler.rows[:, own], draws), groups)
        slope = averaged(one, many, resampler)
        values.append(slope.value)
        replicates.append(slope.replicates)
    slopes = Replicated(np.array(values), np.stack(replicates, axis=1))
    if not change[:, :, rows].any():
        return Leak(sites, slopes)
    scale = calibration(read, age, rows, resampler)
    calibrated = Replicated(
        slopes.value / scale.value, slopes.replicates / scale.replicates[:, None]
    )
    return Leak(sites, calibrated, unread(scale))


# Metrics ----------------------------------------------------------------------------------------


def _age_leak(inputs: MetricInputs, rng: np.random.Generator, absolute: bool) -> MetricResult:
    test, readings = inputs.cohort("raw.test"), inputs.arrays("leakage.age")
    honest = inputs.arrays("probe.age")["predicted"].astype(np.float64)
    has_truth = "calibration.age" in inputs
    read = inputs.arrays("calibration.age")["predicted"] if has_truth else honest
    age, rows = test.column("age").astype(np.float64), labeled(test, "age")
    change = readings["predicted"] - honest
    lie = readings["placebo"] - age
    resampler = Resampler(test, len(honest), rng)
    sex = test.column("sex").astype(str)
    leak = leak_by_site(change, lie, np.asarray(read, np.float64), age, rows, sex, resampler)
    if leak.reason:
        return MetricResult.skipped(leak.reason)
    values, replicates = leak.by_site
    if absolute:
        values, replicates = np.abs(values), np.abs(replicates)
    own = [rows & (resampler.sites == site) for site in leak.sites]
    groups = {
        str(site): resampler.estimate(value, replicates[:, i], own[i])
        for i, (site, value) in enumerate(zip(leak.sites, values, strict=True))
    }
    # In a resample a small site may have no two ages that differ.
    overall = np.ma.masked_invalid(replicates).mean(1).filled(np.nan)
    notes = [reservation(inputs.arrays("probe.age")), "" if has_truth else ON_OWN_IMAGES]
    return MetricResult(
        replace(
            resampler.estimate(values.mean(), overall, rows),
            n=sum(estimate.n for estimate in groups.values()),
        ),
        groups=groups,
        target=0.0,
        replicates=overall,
        arrays={"lie": lie, "change": change.mean(1)},
        note="; ".join(filter(None, notes)),
    )


@metric(
    label="Age leakage",
    axis="leakage",
    level="core",
    direction="target",
    goal=0.0,
    min_n=MIN_N,
    needs=("leakage.age", "probe.age", "raw.test"),
    wants=("calibration.age",),
    expected_order=(BLIND,),
)
def leakage_age(inputs: MetricInputs, rng: np.random.Generator) -> MetricResult:
    """Years of apparent age that the image follows for each year the method is told wrongly.

    Age is permuted within sites; the mean over sites of the slope of the age probe's
    change, divided by the probe's own slope on true images: 0 ignores, 1 obeys. Without a truth it
    is calibrated on the method's images, where a leak of k reads k / (1 + k).
    """
    return _age_leak(inputs, rng, absolute=False)


@metric(
    label="Age leakage, absolute",
    axis="leakage",
    level="core",
    direction="lower",
    goal=0.0,
    range=(0.0, None),
    min_n=MIN_N,
    needs=("leakage.age", "probe.age", "raw.test"),
    wants=("calibration.age",),
    expected_order=(BLIND,),
)
def leakage_age_abs(inputs: MetricInputs, rng: np.random.Generator) -> MetricResult:
    """Mean over sites of the absolute age leakage: sites that leak either way do not cancel."""
    return _age_leak(inputs, rng, absolute=True)


@metric(
    label="Sex leakage",
    axis="leakage",
    level="core",
    direction="target",
    goal=0.0,
    range=(-1.0, 1.0),
    min_n=MIN_N,
    needs=("leakage.sex", "probe.sex", "raw.test"),
    expected_order=(BLIND,),
)
def leakage_sex(inputs: MetricInputs, rng: np.random.Generator) -> MetricResult:
    """Mean change of the sex probe's probability towards the sex the method is told wrongly."""
    test, probe = inputs.cohort("raw.test"), inputs.arrays("probe.sex")
    classes = [str(name) for name in probe["classes"]]
    told = test.participants["sex"].map(placebo.OTHER_SEX).to_numpy()
    rows = np.isin(told.astype(str), classes)
    if not rows.any():
        return MetricResult.skipped("no test scan has a sex whose opposite the probe knows")
    place = np.array([classes.index(sex) if sex in classes else 0 for sex in told])
    change = inputs.arrays("leakage.sex")["predicted"].astype(np.float64) - probe["predicted"]
    towards = change[:, np.arange(len(test)), place]
    return Resampler(test, len(towards), rng).result(
        mean_of(towards), rows, target=0.0, note=reservation(probe)
    )


@metric(
    label="Age MAE under placebo",
    axis="leakage",
    level="core",
    direction="lower",
    goal=0.0,
    range=(0.0, None),
    unit="years",
    min_n=MIN_N,
    needs=("leakage.age", "probe.age", "raw.test"),
    expected_order=(("oracle", "identity"), ("shuffle", "mean-image")),
)
def age_mae_placebo(inputs: MetricInputs, rng: np.random.Generator) -> MetricResult:
    """Error of the age probe, against the true age, on images harmonized under placebo ages.

    The target is its error under the true ages: what it loses was told, not seen.
    """
    test, probe = inputs.cohort("raw.test"), inputs.arrays("probe.age")
    age, rows = test.column("age").astype(np.float64), labeled(test, "age")
    if not rows.any():
        return MetricResult.skipped("no test scan has a known age")
    read = inputs.arrays("leakage.age")["predicted"].astype(np.float64)
    errors = np.abs(read - age).mean(0)
    honest = np.abs(probe["predicted"].astype(np.float64) - age)[:, rows]
    return Resampler(test, len(errors), rng).result(
        mean_of(errors), rows, target=float(honest.mean()), note=reservation(probe)
    )


_READS = ("threads", "device")
PRODUCTS = (
    Product(
        name="leakage.age",
        needs=("probe.age", "harmonized.test", *AGES),
        make=make_age_readings,
        min_n=MIN_N,
        reads=_READS,
        summary="years that the age probe reads under placebo ages: `placebo`, `predicted`",
    ),
    Product(
        name="leakage.sex",
        needs=("probe.sex", "harmonized.test", placebo.BOTH),
        make=make_sex_readings,
        min_n=MIN_N,
        reads=_READS,
        summary="what the sex probe reads under the flipped sex: `predicted`",
    ),
    Product(
        name="calibration.age",
        needs=("probe.age", "harmonized.test", "truth.test"),
        make=make_calibration,
        min_n=MIN_N,
        reads=_READS,
        summary="years that the age probe reads from the true images: `predicted`",
    ),
)
