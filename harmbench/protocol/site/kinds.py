"""Further ways to read the site: other kinds of probe, other labels, other training images.

A method that has been tuned against one network may be transparent to another kind of classifier.
Two kinds of quite another make stand beside the CNN: ``linear``, logistic regression on principal
components of the images, and ``boosting``, gradient-boosted trees on intensities and sharpness (on
the features themselves where the data are a table of them).

The products ``site.kinds`` and ``site.reference`` (of the reference site against all the rest) hold

``kinds`` (kinds,)
    Their names.
``predicted`` (kinds, seeds, n_test)
    Label of every test row.
``validation`` (kinds, seeds)
    Balanced accuracy on the probe part's validation subjects, which nothing was fitted on.

``probe.site.fitset`` is ``probe.site`` trained on the images that the method itself was fitted on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from harmbench.contracts.cohort import Cohort
from harmbench.contracts.metric import MetricInputs, MetricResult, metric
from harmbench.contracts.product import Product, ProductContext
from harmbench.files.blocks import blocks, image_bytes
from harmbench.protocol.features.intensities import intensity_features
from harmbench.protocol.probes.training import (
    MIN_N,
    apply_probe,
    learnable_classes,
    make_probe,
    predicted_classes,
    probe_config,
    underfit_note,
    validation_rows,
)
from harmbench.protocol.resampled import Resampler, balanced_accuracy_of, unweighted

if TYPE_CHECKING:
    from sklearn.base import ClassifierMixin

KINDS, REFERENCE, FITSET, CNN = "site.kinds", "site.reference", "probe.site.fitset", "probe.site"
FLOOR = "floor.site"
REST = "rest"
COMPONENTS = 100

Kinds = dict[str, tuple[NDArray, NDArray]]
"""Predictions (seeds, n_test) and validation accuracies (seeds,) of each kind."""


# Probes -----------------------------------------------------------------------------------------


def linear_probe(seed: int, n: int, width: int = COMPONENTS) -> ClassifierMixin:
    """Return logistic regression on standardized principal components, classes balanced.

    Parameters
    ----------
    seed : int
        Of the randomized decomposition.
    n : int
        Number of training images; at most half as many components, and at most 100.
    width : int
        Values of an image; at most as many components.
    """
    from sklearn.decomposition import PCA
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    components = max(1, min(COMPONENTS, n // 2, width))
    return make_pipeline(
        # What it is fitted on is a selection made for it, and need not be copied once more.
        PCA(components, copy=False, whiten=True, svd_solver="randomized", random_state=seed),
        LogisticRegression(C=0.1, class_weight="balanced", max_iter=2000),
    )


def boosting_probe(seed: int) -> ClassifierMixin:
    """Return gradient-boosted trees, classes balanced, for features of `intensity_features`."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    return HistGradientBoostingClassifier(
        max_iter=100,
        max_leaf_nodes=8,
        min_samples_leaf=5,
        max_features=0.3,
        class_weight="balanced",
        early_stopping=False,
        random_state=seed,
    )


def make_kinds(inputs: MetricInputs, context: ProductContext) -> dict[str, NDArray]:
    """Train both kinds on the sites of the probe part; the cell's CNN, where it is, is the third.

    Returns
    -------
    dict of str to ndarray
        See the module. The CNN's validation accuracy is of the subjects that chose its epoch, so
        a little too high.

    Raises
    ------
    ProductUnavailable
        Where fewer than two sites have enough scans.
    """
    training = inputs.cohort("harmonized.probe")
    labels = _labels(training, None)
    kinds = _trained(inputs, labels, context)
    if CNN in inputs:
        arrays = inputs.arrays(CNN)
        said = apply_probe(arrays, "site", training.images, context.device).argmax(-1)
        share = probe_config(context.probe).validation
        held_out = [validation_rows(training, seed, share) for seed in context.seeds]
        accuracies = [
            _accuracy(labels[rows], arrays["classes"][codes][rows])
            for rows, codes in zip(held_out, said, strict=True)
        ]
        kinds["CNN"] = predicted_classes(arrays), np.array(accuracies)
    return _as_arrays(kinds)


def make_reference(inputs: MetricInputs, context: ProductContext) -> dict[str, NDArray]:
    """Train both kinds to tell the reference site from all others; see `make_kinds`."""
    labels = _labels(inputs.cohort("harmonized.probe"), inputs.reference_site)
    return _as_arrays(_trained(inputs, labels, context))


def _trained(inputs: MetricInputs, labels: NDArray, context: ProductContext) -> Kinds:
    """Train each kind once a seed without its validation rows; predict those and the test part."""
    training, test = inputs.cohort("harmonized.probe"), inputs.cohort("harmonized.test")
    learnable_classes(labels, "site")
    share = probe_config(context.probe).validation
    read: dict[str, Callable[[Cohort], NDArray]] = {
        "linear": _flat,
        "boosting": partial(intensity_features, masks=training.mask),
    }
    if training.space == "table":
        read["boosting"] = _flat
    kinds: Kinds = {}
    for kind, features in read.items():
        x, x_test = features(training), features(test)
        predicted, accuracies = [], []
        for seed in context.seeds:
            held_out = validation_rows(training, seed, share)
            fit = np.flatnonzero(~held_out)
            linear = kind == "linear"
            probe = linear_probe(seed, len(fit), x.shape[1]) if linear else boosting_probe(seed)
            probe.fit(x[fit], labels[fit])
            predicted.append(_predicted(probe, x_test))
            accuracies.append(_accuracy(labels[held_out], probe.predict(x[held_out])))
        kinds[kind] = np.array(predicted), np.array(accuracies)
    return kinds


def _predicted(probe: ClassifierMixin, x: NDArray) -> NDArray:
    """Return the labels that a probe gives to the rows of a table, read in blocks."""
    said = [probe.predict(x[rows]) for rows in blocks(len(x), 4 * image_bytes(x))]
    return np.concatenate(said).astype(str)


def _as_arrays(kinds: Kinds) -> dict[str, NDArray]:
    return {
        "kinds": np.array(list(kinds)),
        "predicted": np.stack([predicted for predicted, _ in kinds.values()]),
        "validation": np.stack([accuracies for _, accuracies in kinds.values()]),
    }


def make_fitset(inputs: MetricInputs, context: ProductContext) -> dict[str, NDArray]:
    """Train the site's CNN on h(fit) instead of h(probe)."""
    images = {
        "harmonized.probe": inputs.cohort("harmonized.fit"),
        "harmonized.test": inputs.cohort("harmonized.test"),
    }
    return make_probe("site", MetricInputs(images, inputs.reference_site), context)


def _labels(cohort: Cohort, reference: str | None) -> NDArray:
    sites = cohort.column("site").astype(str)
    return sites if reference is None else np.where(sites == reference, reference, REST)


def _flat(cohort: Cohort) -> NDArray[np.float32]:
    return cohort.images.reshape(len(cohort), -1)


def _accuracy(truth: NDArray, predicted: NDArray) -> float:
    return unweighted(balanced_accuracy_of(truth, predicted[None]), np.ones(len(truth), bool))


# Metrics ----------------------------------------------------------------------------------------


def _result(
    inputs: MetricInputs,
    predicted: NDArray,
    oracle: NDArray | None,
    rng: np.random.Generator,
    reference: str | None = None,
) -> MetricResult:
    """Score predictions (seeds, n) of the site, or of the reference site against the rest.

    The target is the score of the oracle's predictions, else what age and sex tell.
    """
    test = inputs.cohort("raw.test")
    truth = _labels(test, reference)
    classes = np.unique(_labels(inputs.cohort("raw.probe"), reference))
    rows = np.isin(truth, classes)
    floors = {"chance": 1 / len(classes)}
    if FLOOR in inputs:
        said = inputs.arrays(FLOOR)["predicted"]
        said = said if reference is None else np.where(said == reference, reference, REST)
        floors["age and sex"] = unweighted(balanced_accuracy_of(truth, said[None]), rows)
    target = floors.get("age and sex", float("nan"))
    if oracle is not None:
        target = unweighted(balanced_accuracy_of(truth, oracle), rows)
    table = test.participants[["participant_id", "session_id", "site"]]
    return Resampler(test, len(predicted), rng).result(
        balanced_accuracy_of(truth, predicted),
        rows,
        target=target,
        floors=floors,
        per_scan=table.assign(recognized=(predicted == truth).mean(0)),
    )


def _of_chosen_kind(
    inputs: MetricInputs, product: str, rng: np.random.Generator, reference: str | None
) -> MetricResult:
    """Score the kind of the highest validation accuracy; the oracle is read by the same kind."""
    arrays, oracle = inputs.arrays(product), None
    means = arrays["validation"].mean(1)
    chosen = int(means.argmax())
    kind = arrays["kinds"][chosen]
    if f"oracle:{product}" in inputs:
        theirs = inputs.arrays(f"oracle:{product}")
        oracle = theirs["predicted"][list(theirs["kinds"]).index(kind)]
    result = _result(inputs, arrays["predicted"][chosen], oracle, rng, reference)
    return replace(
        result,
        arrays={"kinds": arrays["kinds"], "validation": means},
        note=f"{kind} probe, {means[chosen]:.2f} on validation",
    )


_DECLARED = {"axis": "site removal", "level": "full", "direction": "target", "range": (0.0, 1.0)}


@metric(
    label="Site balanced accuracy, worst kind of probe",
    needs=(KINDS, "raw.probe", "raw.test"),
    wants=(f"oracle:{KINDS}", FLOOR),
    expected_order=(("mean-image", "shuffle"), ("oracle",), ("identity",)),
    **_DECLARED,
)
def site_bacc_worst(inputs: MetricInputs, rng: np.random.Generator) -> MetricResult:
    """Balanced accuracy of the kind of probe that reads the site best: CNN, linear or boosting.

    The kind is chosen on the probe part's validation subjects, never on the test part. The target
    is what the same kind reads from the oracle's images, else what age and sex tell.
    """
    return _of_chosen_kind(inputs, KINDS, rng, None)


@metric(
    label="Reference site against the rest",
    needs=(REFERENCE, "raw.probe", "raw.test"),
    wants=(f"oracle:{REFERENCE}", FLOOR),
    expected_order=(("mean-image", "shuffle", "oracle"), ("identity",)),
    **_DECLARED,
)
def site_reference_vs_rest(inputs: MetricInputs, rng: np.random.Generator) -> MetricResult:
    """Balanced accuracy of telling the reference site's images from all others.

    A method that leaves the reference site's images alone and renders the others leaves its
    fingerprint on them, such as a blur: all sites are then alike, but not like the reference. Kind
    of probe (linear or boosted trees) chosen on validation subjects; the target as in
    `site_bacc_worst`.
    """
    return _of_chosen_kind(inputs, REFERENCE, rng, inputs.reference_site)


@metric(
    label="Site balanced accuracy, trained on fit images",
    min_n=MIN_N,
    needs=(FITSET, "raw.probe", "raw.test"),
    wants=(CNN, f"oracle:{CNN}", FLOOR),
    expected_order=(("mean-image", "shuffle"), ("oracle",), ("identity",)),
    **_DECLARED,
)
def site_bacc_fitset(inputs: MetricInputs, rng: np.random.Generator) -> MetricResult:
    """Balanced accuracy of the site's CNN when trained on the images the method was fitted on.

    A method harmonizes images that it has seen otherwise than new ones, so this probe understates
    the site that is left: the floor "trained on other subjects" is `site_bacc`, and the difference
    is that asymmetry.
    """
    arrays = inputs.arrays(FITSET)
    oracle = (
        predicted_classes(inputs.arrays(f"oracle:{CNN}")) if f"oracle:{CNN}" in inputs else None
    )
    result = _result(inputs, predicted_classes(arrays), oracle, rng)
    floors = dict(result.floors)
    if CNN in inputs:
        truth = _labels(inputs.cohort("raw.test"), None)
        rows = np.isin(truth, inputs.arrays(CNN)["classes"])
        usual = balanced_accuracy_of(truth, predicted_classes(inputs.arrays(CNN)))
        floors["trained on other subjects"] = unweighted(usual, rows)
    return replace(result, floors=floors, note=underfit_note(arrays))


_NEEDS = ("harmonized.probe", "harmonized.test")
_READS = ("seeds", "threads", "device", "probe")

PRODUCTS = (
    Product(
        name=KINDS,
        needs=_NEEDS,
        wants=(CNN,),
        make=make_kinds,
        min_n=20,
        reads=_READS,
        summary="the site as read by a linear probe, by boosted trees and by the CNN",
    ),
    Product(
        name=REFERENCE,
        needs=_NEEDS,
        make=make_reference,
        min_n=20,
        reads=_READS,
        summary="the reference site told from all others, by a linear probe and boosted trees",
    ),
    Product(
        name=FITSET,
        needs=("harmonized.fit", "harmonized.test"),
        make=make_fitset,
        min_n=MIN_N,
        reads=_READS,
        summary="as `probe.site`, trained on the harmonized fit part",
    ),
)
