"""Population pull: whether people are moved towards the reference site's population.

A method that makes the sites' images alike without knowing that their people differ in age makes
an older site's people younger. It leaks nothing, and still erases biology.

The reader is the oracle's age probe, trained on rescans at the reference site: one for all methods,
and innocent of scanners. A method's own probe will not do: trained on the pulled images with the
true ages it learns to make good what the method took, from any trace of the site that is left.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.stats import linregress

from harmbench.contracts.cohort import Cohort
from harmbench.contracts.metric import Estimate, MetricInputs, MetricResult, metric
from harmbench.contracts.product import Product, ProductContext
from harmbench.protocol.leakage.slopes import (
    Replicated,
    averaged,
    calibration,
    unread,
    weighted_slope,
)
from harmbench.protocol.probes.training import MIN_N, apply_probe, labeled, reservation
from harmbench.protocol.resampled import Floats, Resampler

READER = "oracle:probe.age"
LEAST_DISTANCE = 1.0
"""Years that the sites' mean ages must differ by, so that there is something to be pulled by."""


def make_readings(inputs: MetricInputs, context: ProductContext) -> dict[str, NDArray]:
    """Let the oracle's age probe read the harmonized and the true images.

    Returns
    -------
    dict of str to ndarray
        ``"harmonized"`` and ``"truth"``, shape (seeds, n_test), years; the probe's
        ``"training_loss"``.
    """
    from harmbench.training.process_state import threads

    reader = inputs.arrays(READER)
    parts = {"harmonized": "harmonized.test", "truth": "truth.test"}
    with threads(context.threads):
        read = {
            name: apply_probe(reader, "age", inputs.cohort(part).images, context.device)
            for name, part in parts.items()
        }
    return {**read, "training_loss": reader["training_loss"]}


def distance_to_reference(fit: Cohort, test: Cohort, reference_site: str) -> Floats:
    """Return, for every test scan, the reference site's mean age less its own site's.

    Means over the subjects the methods were fitted on: that is the population that pulls.

    Returns
    -------
    ndarray, shape (n_test,)
        Years; NaN at a site without known ages, and everywhere if the reference site has none.
    """
    ages = fit.participants.astype({"age": float}).groupby(["site", "participant_id"])["age"].mean()
    means = ages.groupby(level="site").mean()
    own = test.participants["site"].map(means).to_numpy(dtype=np.float64)
    return float(means.get(reference_site, np.nan)) - own


def pull_slope(
    change: Floats, distance: Floats, rows: NDArray[np.bool_], resampler: Resampler
) -> Replicated:
    """Return the slope of the change in apparent age on the distance to the reference site.

    Parameters
    ----------
    change : ndarray, shape (s, n)
        Years read from the harmonized image less years read from the truth.
    distance : ndarray, shape (n,)
        As of `distance_to_reference`.
    rows : ndarray of bool, shape (n,)
    resampler : Resampler
        Of the whole test set.
    """
    everyone = np.ones((1, int(rows.sum())))
    one = weighted_slope(distance[rows], change[:, rows], everyone)
    many = weighted_slope(distance[rows], change[:, rows], resampler.rows[:, rows])
    return averaged(one, many, resampler)


@metric(
    label="Population pull",
    axis="leakage",
    level="core",
    direction="target",
    goal=0.0,
    min_n=MIN_N,
    needs=("pull.age", "raw.fit", "raw.test"),
    expected_order=(("oracle",), ("site-shift", "combat-nocov", "shuffle", "mean-image")),
)
def population_pull(inputs: MetricInputs, rng: np.random.Generator) -> MetricResult:
    """Years a person's apparent age moves for each year that the reference site's people differ.

    Slope, over scans, of what the oracle's age probe reads from the harmonized image less what it
    reads from the truth, divided by its own slope on true images: 0 leaves people as they are, 1
    gives every site the reference site's mean age. The interval is for these sites; a note tells
    where their scatter alone could have made such a slope.
    """
    fit, test = inputs.cohort("raw.fit"), inputs.cohort("raw.test")
    readings = inputs.arrays("pull.age")
    ours, truth = (readings[name].astype(np.float64) for name in ("harmonized", "truth"))
    distance = distance_to_reference(fit, test, inputs.reference_site)
    rows = labeled(test, "age") & np.isfinite(distance)
    if not rows.any() or np.ptp(distance[rows]) < LEAST_DISTANCE:
        return MetricResult.skipped(
            f"the sites' mean ages differ by less than {LEAST_DISTANCE:g} year, or are not known"
        )
    resampler = Resampler(test, len(ours), rng)
    change, age = ours - truth, test.column("age").astype(np.float64)
    raw = pull_slope(change, distance, rows, resampler)
    scale = calibration(truth, age, rows, resampler)
    if unread(scale):
        return MetricResult.skipped(unread(scale))
    value, replicates = raw.value / scale.value, raw.replicates / scale.replicates
    overall = resampler.estimate(float(value), replicates, rows)
    names = np.unique(resampler.sites[rows])
    at = [rows & (resampler.sites == name) for name in names]
    by_site = np.array([[distance[own][0], change[:, own].mean()] for own in at])
    return MetricResult(
        overall,
        target=0.0,
        replicates=replicates,
        arrays={
            "sites": names,
            "distance": by_site[:, 0],
            "change": by_site[:, 1],
            "uncalibrated": np.asarray(raw.value),
            "calibration": np.asarray(scale.value),
        },
        note="; ".join(filter(None, (reservation(readings), _scatter(overall, by_site)))),
    )


def _scatter(overall: Estimate, by_site: Floats) -> str:
    """Say where a pull is beyond doubt for these sites, but not beyond the scatter between sites.

    What a method leaves of a scanner may look like age; with few sites that falls in line with
    their ages by chance.
    """
    if overall.low <= 0 <= overall.high:
        return ""
    p = float(linregress(*by_site.T).pvalue) if len(by_site) > 2 else 1.0
    return f"within the scatter of {len(by_site)} sites (p = {p:.2f})" if p >= 0.05 else ""


PRODUCTS = (
    Product(
        name="pull.age",
        needs=(READER, "harmonized.test", "truth.test"),
        make=make_readings,
        min_n=MIN_N,
        reads=("threads", "device"),
        summary="years that the oracle's age probe reads: `harmonized`, `truth`",
    ),
)
