"""Population pull: whether subjects are moved towards the population of the reference site.

If a method makes the images of all sites alike but does not know that the ages of the sites differ,
it makes the subjects of an older site look younger. It leaks nothing, but it removes biology.

The ages are predicted by the oracle's age probe, which is trained on rescans at the reference site.
It is the same for all methods and has seen no scanner effects. A method's own probe is not
suitable: it is trained on the pulled images with the true ages, so it learns to correct the pull
from any remaining trace of the site.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.stats import linregress

from harmbench.contracts.cohort import Cohort
from harmbench.contracts.metric import Estimate, MetricInputs, MetricResult, metric
from harmbench.contracts.product import Product, ProductContext
from harmbench.protocol.leakage.slopes import calibration, replicated_slope
from harmbench.protocol.probes.training import MIN_N, apply_probe, labeled, underfit_note
from harmbench.protocol.resampled import Floats, Resampler

READER = "oracle:probe.age"
MIN_DIFFERENCE = 1.0
"""Smallest range of the sites' mean ages, in years, for which a pull can be measured."""


def make_readings(inputs: MetricInputs, context: ProductContext) -> dict[str, NDArray]:
    """Predict the age from the harmonized and the true images with the oracle's age probe.

    Returns ``"harmonized"`` and ``"truth"`` (seeds, n_test), years, and the probe's
    ``"training_loss"``.
    """
    from harmbench.training.process_state import threads

    probe = inputs.arrays(READER)
    parts = {"harmonized": "harmonized.test", "truth": "truth.test"}
    with threads(context.threads):
        predicted = {
            name: apply_probe(probe, "age", inputs.cohort(part).images, context.device)
            for name, part in parts.items()
        }
    return {**predicted, "training_loss": probe["training_loss"]}


def distance_to_reference(fit: Cohort, test: Cohort, reference_site: str) -> Floats:
    """Return the mean age of the reference site minus that of each test scan's site, (n_test,).

    The means, in years, are taken over the subjects that the methods were fitted on, because this
    population causes the pull. They are NaN for sites without known ages.
    """
    ages = fit.participants.astype({"age": float}).groupby(["site", "participant_id"])["age"].mean()
    means = ages.groupby(level="site").mean()
    own = test.participants["site"].map(means).to_numpy(dtype=np.float64)
    return float(means.get(reference_site, np.nan)) - own


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
    """Change of the apparent age per year of difference to the mean age of the reference site.

    This is the slope, over scans, of the age that the oracle's probe predicts from the harmonized
    image minus the age that it predicts from the truth, divided by the slope of its predictions on
    true images. 0 means that subjects keep their age, 1 that all sites get the mean age of the
    reference site. The interval holds for these sites; a note warns if the scatter between the
    sites alone may explain the slope.
    """
    fit, test = inputs.cohort("raw.fit"), inputs.cohort("raw.test")
    readings = inputs.arrays("pull.age")
    ours, truth = (readings[name].astype(np.float64) for name in ("harmonized", "truth"))
    distance = distance_to_reference(fit, test, inputs.reference_site)
    rows = labeled(test, "age") & np.isfinite(distance)
    if not rows.any() or np.ptp(distance[rows]) < MIN_DIFFERENCE:
        return MetricResult.skipped(
            f"the sites' mean ages differ by less than {MIN_DIFFERENCE:g} year, or are not known"
        )
    resampler = Resampler(test, len(ours), rng)
    change, age = ours - truth, test.column("age").astype(np.float64)
    weights = resampler.rows[:, rows]
    raw, replicates = replicated_slope(distance[rows], change[:, rows], weights, resampler.seeds)
    scale, scales, reason = calibration(truth, age, rows, resampler)
    if reason:
        return MetricResult.skipped(reason)
    replicates = replicates / scales
    overall = resampler.estimate(raw / scale, replicates, rows)
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
            "uncalibrated": np.asarray(raw),
            "calibration": np.asarray(scale),
        },
        note="; ".join(filter(None, (underfit_note(readings), _scatter_note(overall, by_site)))),
    )


def _scatter_note(overall: Estimate, by_site: Floats) -> str:
    """Return a warning if the pull is significant for these sites, but not between sites.

    A remaining scanner effect may look like a change of age. With few sites such effects may
    correlate with the sites' ages by chance.
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
        summary="ages in years that the oracle's age probe predicts: `harmonized`, `truth`",
    ),
)
