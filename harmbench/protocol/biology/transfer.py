"""Probe transfer: whether an age probe works at a site that it was not trained on.

The age probe is trained once without each site and predicts the ages of that site's test scans.
Remaining site effects mislead it, and so does anything that a method does at one site only.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from harmbench.contracts.metric import MetricInputs, MetricResult, metric
from harmbench.contracts.product import Product, ProductContext, ProductUnavailable
from harmbench.protocol.biology.age_and_sex import predicted_ages, site_median_ages
from harmbench.protocol.probes.training import MIN_N, labeled, make_probe, underfit_note
from harmbench.protocol.resampled import Floats, Resampler, Statistic, unweighted
from harmbench.stats import weighted_mean

ORACLE = "oracle:transfer.age"


def make_transfer(inputs: MetricInputs, context: ProductContext) -> dict[str, NDArray]:
    """Train the age probe without each site and predict the ages of that site's test scans.

    Returns ``"predicted"`` (seeds, n_test), years, NaN at sites without a probe scan of known age;
    ``"sites"`` (k,), the sites that were left out, and ``"underfit"`` (k,), whether the probe
    trained without them is underfit.

    Raises
    ------
    ProductUnavailable
        If all scans of known age are from one site.
    """
    training, test = inputs.cohort("harmonized.probe"), inputs.cohort("harmonized.test")
    sites = sorted({key.site for key in training.subset(labeled(training, "age")).keys})
    if len(sites) < 2:
        raise ProductUnavailable("the probe part has no second site of known ages to train on")
    predicted = np.full((len(context.seeds), len(test)), np.nan, dtype=np.float32)
    underfit = []
    with context.progress.task("age probes without one site", len(sites)) as task:
        for site in sites:
            here = test.column("site") == site
            subjects = test.column("participant_id")[here]
            own = np.isin(training.column("participant_id").astype(str), subjects.astype(str))
            others = training.subset((training.column("site") != site) & ~own)
            parts = {"harmonized.probe": others, "harmonized.test": test.subset(here)}
            arrays = make_probe("age", MetricInputs(parts, inputs.reference_site), context)
            predicted[:, here] = arrays["predicted"]
            underfit.append(bool(underfit_note(arrays)))
            task.advance(1, note=site)
    return {"predicted": predicted, "sites": np.array(sites), "underfit": np.array(underfit)}


@metric(
    label="Age transfer skill",
    axis="biology kept",
    level="full",
    direction="higher",
    goal=1.0,
    range=(None, 1.0),
    min_n=MIN_N,
    needs=("transfer.age", "raw.probe", "raw.test"),
    wants=(ORACLE,),
    expected_order=(("oracle",), ("shuffle", "mean-image")),
)
def age_transfer(inputs: MetricInputs, rng: np.random.Generator) -> MetricResult:
    """Skill of an age probe at an unseen site: 1 - MAE / MAE of the site's median age.

    The probe does not know the median age of that site, so a skill of 0 is not trivial. The errors
    are pooled over the sites, each of which is left out once. The target is the oracle's skill.
    """
    test = inputs.cohort("raw.test")
    arrays = inputs.arrays("transfer.age")
    age = test.column("age").astype(np.float64)
    medians = site_median_ages(inputs.cohort("raw.probe"), test).to_numpy(dtype=np.float64)
    trivial = np.abs(medians - age)
    errors = np.abs(arrays["predicted"].astype(np.float64) - age)
    rows = labeled(test, "age") & np.isfinite(trivial) & np.isfinite(errors).all(0)
    if not rows.any() or not trivial[rows].any():
        return MetricResult.skipped("no test scan of a left-out site has an age to be predicted")
    resampler = Resampler(test, len(errors), rng)

    def skill_of(wrong: Floats) -> Statistic:
        def skill(chosen: NDArray[np.intp], weights: Floats) -> Floats:
            of_median = weighted_mean(trivial[chosen], weights)[:, None]
            of_median = np.where(of_median > 0, of_median, np.nan)
            return 1.0 - weighted_mean(wrong[:, chosen], weights) / of_median

        return skill

    target = float("nan")
    if ORACLE in inputs:
        oracle = np.abs(inputs.arrays(ORACLE)["predicted"].astype(np.float64) - age)
        target = unweighted(skill_of(oracle), rows)
    underfit = arrays["sites"][arrays["underfit"]]
    return resampler.result(
        skill_of(errors),
        rows,
        groups=lambda own: bool(trivial[own].any()),
        target=target,
        floors={"site's own median": 0.0},
        per_scan=predicted_ages(test, arrays["predicted"], rows),
        note=f"underfit without {', '.join(underfit)}" if len(underfit) else "",
    )


PRODUCTS = (
    Product(
        name="transfer.age",
        needs=("harmonized.probe", "harmonized.test"),
        make=make_transfer,
        min_n=MIN_N,
        reads=("seeds", "threads", "device", "probe"),
        summary="ages in years predicted at each site by age probes that were trained without it",
    ),
)
