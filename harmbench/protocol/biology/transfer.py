"""Probe transfer: whether what a probe learns at some sites holds at a site it has never seen.

The age probe is trained anew without one site, and reads that site's test scans; so for each site.
Site effects that are left mislead it, and so does whatever a method does to one site only.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from harmbench.contracts.cohort import Cohort
from harmbench.contracts.metric import MetricInputs, MetricResult, metric
from harmbench.contracts.product import Product, ProductContext, ProductUnavailable
from harmbench.protocol.probes.training import MIN_N, labeled, make_probe, reservation
from harmbench.protocol.resampled import Floats, Resampler, Statistic, unweighted
from harmbench.stats import weighted_mean

ORACLE = "oracle:transfer.age"


def make_transfer(inputs: MetricInputs, context: ProductContext) -> dict[str, NDArray]:
    """Train the age probe once for each site, without it, and let it read that site.

    Returns
    -------
    dict of str to ndarray
        ``"predicted"``, shape (seeds, n_test): years, NaN at sites without a probe scan of known
        age; ``"sites"`` and ``"underfit"``, shape (k,): the sites left out in turn, and whether
        the probe trained without them had not learned.

    Raises
    ------
    ProductUnavailable
        Where all scans of known age are of one site.
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
            others = training.subset(training.column("site") != site)
            parts = {"harmonized.probe": others, "harmonized.test": test.subset(here)}
            arrays = make_probe("age", MetricInputs(parts, inputs.reference_site), context)
            predicted[:, here] = arrays["predicted"]
            underfit.append(bool(reservation(arrays)))
            task.advance(1, note=site)
    return {"predicted": predicted, "sites": np.array(sites), "underfit": np.array(underfit)}


def own_median(training: Cohort, test: Cohort) -> Floats:
    """Return the median age of each test scan's own site in the probe part, NaN without one."""
    table = training.participants.astype({"age": float})
    medians = table.groupby("site")["age"].median()
    return test.participants["site"].map(medians).to_numpy(dtype=np.float64)


def transfer_skill(errors: Floats, trivial: Floats, weights: Floats) -> Floats:
    """Return 1 less the ratio of mean errors, ``1 - sum(w * e) / sum(w * t)``; shape (b, s).

    Parameters
    ----------
    errors : ndarray, shape (s, n)
        Absolute errors of the probes, years.
    trivial : ndarray, shape (n,)
        Absolute errors of the guess at the site's own median, years.
    weights : ndarray, shape (b, n)
    """
    guessed = weighted_mean(trivial, weights)[:, None]
    return 1.0 - weighted_mean(errors, weights) / np.where(guessed > 0, guessed, np.nan)


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
    """How well an age probe does at a site it was not trained on: 1 - MAE / MAE of a guess.

    The guess is that site's own median age, which the probe is not told, so that 0 is no mean feat;
    errors are pooled over the sites, each left out in turn. The target is the oracle's skill.
    """
    test = inputs.cohort("raw.test")
    arrays = inputs.arrays("transfer.age")
    age = test.column("age").astype(np.float64)
    trivial = np.abs(own_median(inputs.cohort("raw.probe"), test) - age)
    errors = np.abs(arrays["predicted"].astype(np.float64) - age)
    rows = labeled(test, "age") & np.isfinite(trivial) & np.isfinite(errors).all(0)
    if not rows.any() or not trivial[rows].any():
        return MetricResult.skipped("no test scan of a left-out site has an age to be told")
    resampler = Resampler(test, len(errors), rng)

    def skill_of(wrong: Floats) -> Statistic:
        return lambda at, weights: transfer_skill(wrong[:, at], trivial[at], weights)

    target = float("nan")
    if ORACLE in inputs:
        oracle = np.abs(inputs.arrays(ORACLE)["predicted"].astype(np.float64) - age)
        target = unweighted(skill_of(oracle), rows)
    table = test.participants[["participant_id", "session_id", "site", "age"]][rows]
    predicted = arrays["predicted"].mean(0)[rows]
    return resampler.result(
        skill_of(errors),
        rows,
        groups=lambda own: bool(trivial[own].any()),
        target=target,
        floors={"site's own median": 0.0},
        per_scan=table.assign(predicted=predicted).reset_index(drop=True),
        note=_reservation(arrays),
    )


def _reservation(arrays: Mapping[str, NDArray]) -> str:
    sites = arrays["sites"][arrays["underfit"]]
    return f"underfit without {', '.join(sites)}" if len(sites) else ""


PRODUCTS = (
    Product(
        name="transfer.age",
        needs=("harmonized.probe", "harmonized.test"),
        make=make_transfer,
        min_n=MIN_N,
        reads=("seeds", "threads", "device", "probe"),
        summary="years read at each site by age probes trained without it",
    ),
)
