"""Other site probes: the reference site against the rest, and training on other images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from harmbench.contracts.cohort import Cohort
from harmbench.contracts.metric import MetricInputs, MetricResult, metric
from harmbench.contracts.product import Product, ProductContext
from harmbench.protocol.probes.kinds import MIN_N as MIN_ANY
from harmbench.protocol.probes.kinds import make_best, make_kind, probe_note
from harmbench.protocol.probes.training import MIN_N, make_probe, predicted_classes
from harmbench.protocol.resampled import Resampler, balanced_accuracy_of, unweighted
from harmbench.protocol.site.accuracy import (
    CNN,
    FLOOR,
    ORACLE,
    floor_predictions,
    oracle_or_floor,
    predictions,
    recognized,
)

REFERENCE, FITSET = "site.reference", "probe.site.fitset"
REST = "rest"


def make_reference(inputs: MetricInputs, context: ProductContext) -> dict[str, NDArray]:
    """Train a linear probe and trees to tell the reference site from all others.

    Returns
    -------
    dict of str to ndarray
        As ``best.site``, see `harmbench.protocol.probes.kinds`, with the classes of the site and
        ``"rest"``.
    """
    site = inputs.reference_site

    def relabeled(cohort: Cohort) -> Cohort:
        return cohort.with_covariates(site=_against_rest(cohort.column("site").astype(str), site))

    images = {name: relabeled(inputs.cohort(name)) for name in inputs.products}
    changed = replace(inputs, products=images)
    found = {
        f"{kind}.site": make_kind(kind, "site", changed, context) for kind in ("linear", "trees")
    }
    return make_best("site", replace(inputs, products=found), context)


def make_fitset(inputs: MetricInputs, context: ProductContext) -> dict[str, NDArray]:
    """Train the CNN for the site on the harmonized fit part instead of the probe part."""
    images = {
        "harmonized.probe": inputs.cohort("harmonized.fit"),
        "harmonized.test": inputs.cohort("harmonized.test"),
    }
    return make_probe("site", MetricInputs(images, inputs.reference_site), context)


def _against_rest(sites: NDArray, reference: str | None) -> NDArray:
    return sites if reference is None else np.where(sites == reference, reference, REST)


# Metrics ----------------------------------------------------------------------------------------


def _result(
    inputs: MetricInputs,
    arrays: Mapping[str, NDArray],
    oracle: NDArray | None,
    rng: np.random.Generator,
    reference: str | None = None,
) -> MetricResult:
    """Score predictions of the site, or of the reference site against the rest."""
    test, predicted = inputs.cohort("raw.test"), predicted_classes(arrays)
    truth = _against_rest(test.column("site").astype(str), reference)
    rows = np.isin(truth, arrays["classes"])
    floor = floor_predictions(inputs)
    floor = None if floor is None else _against_rest(floor, reference)
    target, floors = oracle_or_floor(truth, rows, oracle, floor)
    return Resampler(test, len(predicted), rng).result(
        balanced_accuracy_of(truth, predicted),
        rows,
        target=target,
        floors={"chance": 1 / len(arrays["classes"]), **floors},
        per_scan=recognized(test, truth, predicted),
        note=probe_note(arrays),
    )


_DECLARED = {"axis": "site removal", "level": "full", "direction": "target", "range": (0.0, 1.0)}


@metric(
    label="Reference site against the rest",
    min_n=MIN_ANY,
    needs=(REFERENCE, "raw.test"),
    wants=(f"oracle:{REFERENCE}", FLOOR),
    expected_order=(("mean-image", "shuffle", "oracle"), ("identity",)),
    **_DECLARED,
)
def site_reference_vs_rest(inputs: MetricInputs, rng: np.random.Generator) -> MetricResult:
    """Balanced accuracy of a probe that tells the reference site's images from all others.

    A method that changes all images except those of the reference site may leave its own trace in
    them, such as a blur: then the other sites look alike, but not like the reference site. The kind
    of probe (linear or trees) is the better one on validation subjects, for the target as well.
    """
    oracle = predictions(inputs, f"oracle:{REFERENCE}")
    return _result(inputs, inputs.arrays(REFERENCE), oracle, rng, inputs.reference_site)


@metric(
    label="Site balanced accuracy, trained on fit images",
    min_n=MIN_N,
    needs=(FITSET, "raw.test"),
    wants=(CNN, ORACLE, FLOOR),
    expected_order=(("mean-image", "shuffle"), ("oracle",), ("identity",)),
    **_DECLARED,
)
def site_bacc_fitset(inputs: MetricInputs, rng: np.random.Generator) -> MetricResult:
    """Balanced accuracy of the site CNN if it is trained on the images the method was fitted on.

    A method harmonizes the images of its fit differently from new images, so this probe
    underestimates the remaining site effect. The floor "trained on other subjects" is
    `site_bacc_cnn`; the difference is due to this asymmetry.
    """
    result = _result(inputs, inputs.arrays(FITSET), predictions(inputs, ORACLE), rng)
    if CNN not in inputs:
        return result
    truth = inputs.cohort("raw.test").column("site").astype(str)
    cnn = inputs.arrays(CNN)
    usual = balanced_accuracy_of(truth, predicted_classes(cnn))
    rows = np.isin(truth, cnn["classes"])
    floors = {**result.floors, "trained on other subjects": unweighted(usual, rows)}
    return replace(result, floors=floors)


PRODUCTS = (
    Product(
        name=REFERENCE,
        needs=("harmonized.probe", "harmonized.test"),
        make=make_reference,
        min_n=MIN_ANY,
        reads=("seeds", "probe"),
        summary="the reference site or the rest, as the better of a linear probe and trees "
        "predicts it",
    ),
    Product(
        name=FITSET,
        needs=("harmonized.fit", "harmonized.test"),
        make=make_fitset,
        min_n=MIN_N,
        reads=("seeds", "threads", "device", "probe"),
        summary="as `probe.site`, trained on the harmonized fit part",
    ),
)
