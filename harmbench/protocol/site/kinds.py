"""Other site probes: other kinds of classifier, other labels, other training images.

A method that was tuned against one network may still be transparent to another kind of classifier.
Therefore two very different kinds complement the CNN: ``linear``, a logistic regression on
principal components of the images, and ``boosting``, gradient-boosted trees on intensities and
sharpness (or on the features themselves if the data are a table).

The products ``site.kinds`` and ``site.reference`` (the reference site against all others) hold

``kinds`` (kinds,)
    Names of the kinds.
``predicted`` (kinds, seeds, n_test)
    Label of every test row.
``validation`` (kinds, seeds)
    Balanced accuracy on the validation subjects of the probe part, on which nothing was fitted.

``probe.site.fitset`` is ``probe.site`` trained on the images that the method was fitted on.
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
from harmbench.protocol.site.accuracy import (
    CNN,
    FLOOR,
    ORACLE,
    cnn_predictions,
    floor_predictions,
    oracle_or_floor,
    recognized,
)

if TYPE_CHECKING:
    from sklearn.base import ClassifierMixin

KINDS, REFERENCE, FITSET = "site.kinds", "site.reference", "probe.site.fitset"
REST = "rest"
MAX_COMPONENTS = 100

Kinds = dict[str, tuple[NDArray, NDArray]]
"""Predictions (seeds, n_test) and validation accuracies (seeds,) of each kind."""


def _linear_probe(seed: int, x: NDArray) -> ClassifierMixin:
    """Return a logistic regression on whitened principal components, at most 100, for rows (n, d).

    There are at most half as many components as rows.
    """
    from sklearn.decomposition import PCA
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    components = max(1, min(MAX_COMPONENTS, len(x) // 2, x.shape[1]))
    return make_pipeline(
        # The rows for the fit are already a copy.
        PCA(components, copy=False, whiten=True, svd_solver="randomized", random_state=seed),
        LogisticRegression(C=0.1, class_weight="balanced", max_iter=2000),
    )


def _boosting_probe(seed: int, x: NDArray) -> ClassifierMixin:
    """Return gradient-boosted trees for the features of `intensity_features`."""
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
    """Train both kinds of probe on the sites of the probe part, and add the CNN if available.

    See the module for the arrays. The CNN's validation accuracy is slightly too high, because the
    same subjects chose its epoch.

    Raises
    ------
    ProductUnavailable
        If fewer than two sites have enough scans.
    """
    training = inputs.cohort("harmonized.probe")
    labels = _labels(training, None)
    kinds = _trained(inputs, labels, context)
    if CNN in inputs:
        arrays = inputs.arrays(CNN)
        codes = apply_probe(arrays, "site", training.images, context.device).argmax(-1)
        share = probe_config(context.probe).validation
        accuracies = []
        for seed, predicted in zip(context.seeds, arrays["classes"][codes], strict=True):
            rows = validation_rows(training, seed, share)
            accuracies.append(_accuracy(labels[rows], predicted[rows]))
        kinds["CNN"] = predicted_classes(arrays), np.array(accuracies)
    return _as_arrays(kinds)


def make_reference(inputs: MetricInputs, context: ProductContext) -> dict[str, NDArray]:
    """Train both kinds to tell the reference site from all others; see `make_kinds`."""
    labels = _labels(inputs.cohort("harmonized.probe"), inputs.reference_site)
    return _as_arrays(_trained(inputs, labels, context))


def make_fitset(inputs: MetricInputs, context: ProductContext) -> dict[str, NDArray]:
    """Train the CNN for the site on the harmonized fit part instead of the probe part."""
    images = {
        "harmonized.probe": inputs.cohort("harmonized.fit"),
        "harmonized.test": inputs.cohort("harmonized.test"),
    }
    return make_probe("site", MetricInputs(images, inputs.reference_site), context)


def _trained(inputs: MetricInputs, labels: NDArray, context: ProductContext) -> Kinds:
    """Train each kind once per seed without its validation rows, and apply it to the test part."""
    training, test = inputs.cohort("harmonized.probe"), inputs.cohort("harmonized.test")
    learnable_classes(labels, "site")
    share = probe_config(context.probe).validation
    intensities: Callable[[Cohort], NDArray] = partial(intensity_features, masks=training.mask)
    kinds: Kinds = {}
    for kind, make, features in (
        ("linear", _linear_probe, _flat),
        ("boosting", _boosting_probe, _flat if training.space == "table" else intensities),
    ):
        x, x_test = features(training), features(test)
        predicted, accuracies = [], []
        for seed in context.seeds:
            held_out = validation_rows(training, seed, share)
            x_fit = x[~held_out]
            probe = make(seed, x_fit)
            probe.fit(x_fit, labels[~held_out])
            accuracies.append(_accuracy(labels[held_out], probe.predict(x[held_out])))
            parts = blocks(len(x_test), 4 * image_bytes(x_test))
            found = [probe.predict(x_test[rows]) for rows in parts]
            predicted.append(np.concatenate(found).astype(str))
        kinds[kind] = np.array(predicted), np.array(accuracies)
    return kinds


def _as_arrays(kinds: Kinds) -> dict[str, NDArray]:
    predicted, validation = zip(*kinds.values(), strict=True)
    return {
        "kinds": np.array(list(kinds)),
        "predicted": np.stack(predicted),
        "validation": np.stack(validation),
    }


def _labels(cohort: Cohort, reference: str | None) -> NDArray:
    return _against_rest(cohort.column("site").astype(str), reference)


def _against_rest(sites: NDArray, reference: str | None) -> NDArray:
    return sites if reference is None else np.where(sites == reference, reference, REST)


def _flat(cohort: Cohort) -> NDArray[np.float32]:
    return cohort.images.reshape(len(cohort), -1)


def _accuracy(truth: NDArray, predicted: NDArray) -> float:
    return unweighted(balanced_accuracy_of(truth, predicted[None]), np.ones(len(truth), bool))


def _result(
    inputs: MetricInputs,
    predicted: NDArray,
    oracle: NDArray | None,
    rng: np.random.Generator,
    reference: str | None = None,
) -> MetricResult:
    """Score predictions (seeds, n) of the site, or of the reference site against the rest."""
    test = inputs.cohort("raw.test")
    truth = _labels(test, reference)
    classes = np.unique(_labels(inputs.cohort("raw.probe"), reference))
    rows = np.isin(truth, classes)
    floor = floor_predictions(inputs)
    floor = None if floor is None else _against_rest(floor, reference)
    target, floors = oracle_or_floor(truth, rows, oracle, floor)
    return Resampler(test, len(predicted), rng).result(
        balanced_accuracy_of(truth, predicted),
        rows,
        target=target,
        floors={"chance": 1 / len(classes), **floors},
        per_scan=recognized(test, truth, predicted),
    )


def _best_kind(
    inputs: MetricInputs, product: str, rng: np.random.Generator, reference: str | None
) -> MetricResult:
    """Score the kind with the highest validation accuracy, for the oracle as well."""
    arrays, oracle = inputs.arrays(product), None
    means = arrays["validation"].mean(1)
    best = int(means.argmax())
    kind = arrays["kinds"][best]
    if f"oracle:{product}" in inputs:
        theirs = inputs.arrays(f"oracle:{product}")
        oracle = theirs["predicted"][list(theirs["kinds"]).index(kind)]
    return replace(
        _result(inputs, arrays["predicted"][best], oracle, rng, reference),
        arrays={"kinds": arrays["kinds"], "validation": means},
        note=f"{kind} probe, {means[best]:.2f} on validation",
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
    """Balanced accuracy of the kind of probe that predicts the site best: CNN, linear or boosting.

    The kind is chosen on the validation subjects of the probe part, not on the test part. The
    target is the accuracy of the same kind on the oracle's images, else that of age and sex.
    """
    return _best_kind(inputs, KINDS, rng, None)


@metric(
    label="Reference site against the rest",
    needs=(REFERENCE, "raw.probe", "raw.test"),
    wants=(f"oracle:{REFERENCE}", FLOOR),
    expected_order=(("mean-image", "shuffle", "oracle"), ("identity",)),
    **_DECLARED,
)
def site_reference_vs_rest(inputs: MetricInputs, rng: np.random.Generator) -> MetricResult:
    """Balanced accuracy of a probe that tells the reference site's images from all others.

    A method that changes all images except those of the reference site may leave its own trace in
    them, such as a blur: then the other sites look alike, but not like the reference site. The kind
    of probe (linear or boosting) and the target are chosen as in `site_bacc_worst`.
    """
    return _best_kind(inputs, REFERENCE, rng, inputs.reference_site)


@metric(
    label="Site balanced accuracy, trained on fit images",
    min_n=MIN_N,
    needs=(FITSET, "raw.probe", "raw.test"),
    wants=(CNN, ORACLE, FLOOR),
    expected_order=(("mean-image", "shuffle"), ("oracle",), ("identity",)),
    **_DECLARED,
)
def site_bacc_fitset(inputs: MetricInputs, rng: np.random.Generator) -> MetricResult:
    """Balanced accuracy of the site CNN if it is trained on the images the method was fitted on.

    A method harmonizes the images of its fit differently from new images, so this probe
    underestimates the remaining site effect. The floor "trained on other subjects" is `site_bacc`;
    the difference is due to this asymmetry.
    """
    arrays = inputs.arrays(FITSET)
    result = _result(inputs, predicted_classes(arrays), cnn_predictions(inputs, ORACLE), rng)
    floors = dict(result.floors)
    if CNN in inputs:
        cnn = inputs.arrays(CNN)
        truth = _labels(inputs.cohort("raw.test"), None)
        usual = balanced_accuracy_of(truth, predicted_classes(cnn))
        rows = np.isin(truth, cnn["classes"])
        floors["trained on other subjects"] = unweighted(usual, rows)
    return replace(result, floors=floors, note=underfit_note(arrays))


_product = partial(Product, min_n=20, reads=("seeds", "threads", "device", "probe"))

PRODUCTS = (
    _product(
        KINDS,
        ("harmonized.probe", "harmonized.test"),
        make_kinds,
        wants=(CNN,),
        summary="the site predicted by a linear probe, by boosted trees and by the CNN",
    ),
    _product(
        REFERENCE,
        ("harmonized.probe", "harmonized.test"),
        make_reference,
        summary="the reference site or the rest, predicted by a linear probe and by boosted trees",
    ),
    _product(
        FITSET,
        ("harmonized.fit", "harmonized.test"),
        make_fitset,
        min_n=MIN_N,
        summary="as `probe.site`, trained on the harmonized fit part",
    ),
)
