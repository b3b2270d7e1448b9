"""Probes of other kinds than the CNN, and the choice of the best kind.

A method that was tuned against one network may still be transparent to another kind of probe, and a
CNN needs many images. Therefore two very different kinds complement it:

``linear``
    Principal components of the images or features, then a logistic regression (site, sex) or a
    ridge regression (age). The penalty is chosen inside the training part.
``trees``
    Gradient-boosted trees on intensities and sharpness of the images, or on the features of a
    table.

The products ``linear.<task>`` and ``trees.<task>`` hold ``predicted``, ``classes`` and
``validation`` as ``probe.<task>`` does (see `harmbench.protocol.probes.training`).
``linear.<task>`` also holds the ``weights`` (probes, d, outputs) and the ``bias`` (probes,
outputs) of the whole probe for `apply_linear`, and ``fold`` as ``probe.<task>`` does.
``best.<task>`` is a copy of the one of the three with the highest mean on its validation subjects,
who are not in the test part; ``kind`` is its name and ``kinds`` and ``scores`` are all names and
means.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from harmbench.contracts.cohort import Cohort
from harmbench.contracts.metric import Metric, MetricInputs
from harmbench.contracts.product import Product, ProductContext, ProductUnavailable
from harmbench.files.blocks import blocks, image_bytes
from harmbench.protocol.features.intensities import intensity_features
from harmbench.protocol.probes.training import (
    MIN_N as MIN_N_CNN,
)
from harmbench.protocol.probes.training import (
    TASKS,
    Task,
    accuracy,
    labeled,
    learnable_classes,
    of_own_fold,
    probe_config,
    rounds,
    skill,
    underfit_note,
    validation_rows,
)

if TYPE_CHECKING:
    from sklearn.base import BaseEstimator

KINDS = {"probe": "CNN", "linear": "linear", "trees": "trees"}
"""Prefix of the products of each kind, and its name in tables."""
NAMES = {"CNN": "a CNN", "linear": "linear", "trees": "gradient-boosted trees"}
MIN_N = 30
MIN_PER_CLASS = 2
MIN_AGES = 8
"""Smallest number of people of known age on whom a probe is trained."""
MAX_COMPONENTS = 100
PENALTIES = (0.01, 0.1, 1.0)
"""Inverse strengths of the logistic regression's penalty among which it is chosen."""
MANY_CLASSES = 10
"""With more classes the number of boosting rounds is reduced, so that the time stays the same."""


def make_kind(
    kind: str, task: Task, inputs: MetricInputs, context: ProductContext
) -> dict[str, NDArray]:
    """Train one kind of probe on the probe part and apply it to the test part.

    Returns
    -------
    dict of str to ndarray
        See the module.

    Raises
    ------
    ProductUnavailable
        If there are too few labels, or they do not differ.
    """
    test = inputs.cohort("harmonized.test")
    known = inputs.cohort("harmonized.probe").participants[task].dropna()
    named = [] if task == "age" else known.to_numpy().astype(str)
    classes = np.unique(np.array(named, dtype=str))
    width = () if task == "age" else (len(classes),)
    predicted = np.zeros((len(context.seeds), len(test), *width), np.float32)
    validation, maps = [], []
    for training, rows in rounds(inputs, "harmonized.probe"):
        training = training.subset(labeled(training, task))
        labels = _labels(training, task)
        x, x_test = (
            _features(kind, training, training),
            _features(kind, test.subset(rows), training),
        )
        # Trees take longest, and depend little on their seed: one of them stands for all.
        seeds = context.seeds if kind == "linear" else context.seeds[:1]
        for i, seed in enumerate(seeds):
            held_out = validation_rows(training, seed, probe_config(context.probe).validation)
            own = x[~held_out], labels[~held_out], x[held_out], labels[held_out]
            probe, score = _fitted(kind, task, seed, *own)
            validation.append(score)
            predicted[i, rows] = _predictions(probe, x_test, classes)
            if kind == "linear":
                maps.append(_as_map(probe, classes))
        predicted[len(seeds) :, rows] = predicted[0, rows]
    arrays = {"predicted": predicted, "classes": classes, "validation": np.array(validation)}
    if kind == "linear":
        weights, bias = zip(*maps, strict=True)
        arrays |= {"weights": np.stack(weights), "bias": np.stack(bias)}
        if inputs.folds is not None:
            arrays["fold"] = np.unique(inputs.folds, return_inverse=True)[1]
    return arrays


def _as_map(probe: Any, classes: NDArray) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return principal components and regression as one affine map: weights (d, out), bias (out,).

    The outputs are years, or logits of `classes`.
    """
    components, model = probe
    # As in scikit-learn's whitening: images that are all alike have no variance.
    scale = np.maximum(np.sqrt(components.explained_variance_), np.finfo(np.float64).eps)
    basis = components.components_.T / scale
    coefficients = np.atleast_2d(model.coef_).T
    weights, bias = basis @ coefficients, np.atleast_1d(model.intercept_)
    bias = bias - components.mean_ @ weights
    if len(classes):
        if len(model.classes_) == 2:  # one logit, of the second class
            weights = np.column_stack([np.zeros_like(weights), weights])
            bias = np.append(0.0, bias)
        known = np.searchsorted(classes, model.classes_)
        every = np.zeros((len(weights), len(classes)))
        every[:, known] = weights
        lowest = np.full(len(classes), -1e4)
        lowest[known] = bias
        weights, bias = every, lowest
    return weights.astype(np.float32), bias.astype(np.float32)


def apply_linear(
    arrays: Mapping[str, NDArray], task: Task, images: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Apply the linear probes of a product ``linear.<task>`` to other images.

    Parameters
    ----------
    arrays : mapping
        The product.
    images : ndarray of float32, shape (n, *shape)
        With the shape of the training images. If the probes are cross-validated, image i must be of
        scored row i.

    Returns
    -------
    ndarray of float32, shape (seeds, n) or (seeds, n, classes)
        Years, or probabilities of ``arrays["classes"]``.
    """
    flat = images.reshape(len(images), -1)
    output = flat @ arrays["weights"] + arrays["bias"][:, None]
    output = of_own_fold(arrays, output)
    if task == "age":
        return output[..., 0]
    return softmax(output, axis=-1)


def _labels(training: Cohort, task: Task) -> NDArray:
    if task != "age":
        labels = training.column(task).astype(str)
        learnable_classes(labels, task, MIN_PER_CLASS)
        return labels
    ages = training.column("age").astype(np.float64)
    if len(ages) < MIN_AGES or np.ptp(ages) == 0:
        raise ProductUnavailable(f"{len(ages)} known ages, or ages that do not differ")
    return ages


def _features(kind: str, cohort: Cohort, training: Cohort) -> NDArray:
    """Return what a kind of probe reads, shape (n, d)."""
    if kind == "linear" or cohort.space == "table":
        return cohort.images.reshape(len(cohort), -1)
    return intensity_features(cohort, training.mask)


def _fitted(
    kind: str, task: Task, seed: int, x: NDArray, y: NDArray, x_held: NDArray, y_held: NDArray
) -> tuple[Any, float]:
    """Return a fitted probe, and its score on the validation rows."""
    score = skill if task == "age" else accuracy

    def scored(probe: Any) -> tuple[Any, float]:
        return probe, score(y_held, probe.predict(x_held)) if len(y_held) else 0.0

    if kind == "trees":
        return scored(_trees(task, seed, len(np.unique(y))).fit(x, y))
    from sklearn.linear_model import LogisticRegression, RidgeCV
    from sklearn.pipeline import make_pipeline

    components = _components(seed, x)
    points = components.fit_transform(x)
    if task == "age":
        ridge = RidgeCV(alphas=np.logspace(-1, 4, 11)).fit(points, y)
        return scored(make_pipeline(components, ridge))
    with warnings.catch_warnings():
        # Classes of one or two rows are usual for small sites.
        warnings.filterwarnings("ignore", message="The number of unique classes")
        models = [
            LogisticRegression(C=c, class_weight="balanced", max_iter=2000).fit(points, y)
            for c in PENALTIES
        ]
    # Of equal scores, the first has the strongest penalty.
    return max((scored(make_pipeline(components, one)) for one in models), key=lambda pair: pair[1])


def _components(seed: int, x: NDArray) -> BaseEstimator:
    """Return whitened principal components, at most 100 and at most half as many as rows."""
    from sklearn.decomposition import PCA

    count = max(1, min(MAX_COMPONENTS, len(x) // 2, x.shape[1]))
    return PCA(count, whiten=True, svd_solver="randomized", random_state=seed)


def _trees(task: Task, seed: int, classes: int) -> BaseEstimator:
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

    options: dict[str, Any] = {
        "max_iter": 100 if task == "age" else 100 * MANY_CLASSES // max(MANY_CLASSES, classes),
        "max_leaf_nodes": 8,
        "min_samples_leaf": 5,
        "max_features": 0.3,
        "early_stopping": False,
        "random_state": seed,
    }
    if task == "age":
        return HistGradientBoostingRegressor(**options)
    return HistGradientBoostingClassifier(class_weight="balanced", **options)


def _predictions(probe: Any, x: NDArray, classes: NDArray) -> NDArray:
    """Return numbers (n,), or probabilities (n, classes); 0 for a class that was not trained."""
    # The principal components need copies of the rows that they read.
    parts = list(blocks(len(x), 4 * image_bytes(x)))
    if len(classes) == 0:
        return np.concatenate([probe.predict(x[part]) for part in parts])
    found = np.zeros((len(x), len(classes)))
    columns = np.searchsorted(classes, probe.classes_)
    found[:, columns] = np.concatenate([probe.predict_proba(x[part]) for part in parts])
    return found


def make_best(task: Task, inputs: MetricInputs, context: ProductContext) -> dict[str, NDArray]:
    """Return the probe with the highest mean on its validation subjects; see the module.

    The CNN's validation score is slightly too high, because the same subjects chose its epoch.
    """
    found = {
        name: inputs.arrays(f"{prefix}.{task}")
        for prefix, name in KINDS.items()
        if f"{prefix}.{task}" in inputs
    }
    scores = {name: float(arrays["validation"].mean()) for name, arrays in found.items()}
    best = max(scores, key=lambda name: scores[name])
    kept = ("predicted", "classes", "training_loss")
    return {
        **{name: value for name, value in found[best].items() if name in kept},
        "kind": np.array(best),
        "kinds": np.array(list(scores)),
        "scores": np.array(list(scores.values())),
    }


def of_each_kind(base: Metric) -> tuple[Metric, Metric, Metric]:
    """Return a metric of the best probe as metrics of the CNN, the linear probe and the trees."""
    one, two, three = (_of_kind(base, prefix) for prefix in KINDS)
    return one, two, three


def _of_kind(base: Metric, prefix: str) -> Metric:
    kind, info = KINDS[prefix], base.info

    def renamed(names: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(name.replace("best.", f"{prefix}.") for name in names)

    def compute(inputs: MetricInputs, rng: np.random.Generator) -> Any:
        products = {
            name.replace(f"{prefix}.", "best."): value for name, value in inputs.products.items()
        }
        return base.compute(replace(inputs, products=products), rng)

    return Metric(
        replace(
            info,
            name=f"{info.name}_{kind.lower()}",
            label=f"{info.label}, {kind}",
            summary=f"`{info.name}` if the only kind of probe is {NAMES[kind]}.",
            level="full",
            min_n=MIN_N_CNN if kind == "CNN" else MIN_N,
            needs=renamed(info.needs),
            wants=renamed(info.wants),
            anchors=(),
            real_anchors=(),
        ),
        compute,
    )


def probe_note(arrays: Mapping[str, NDArray]) -> str:
    """Return the kind of probe with its validation score, and whether a network is underfit."""
    notes = [underfit_note(arrays)]
    if "kind" in arrays:
        score = arrays["scores"][list(arrays["kinds"]).index(str(arrays["kind"]))]
        notes.insert(0, f"{arrays['kind']} probe, {score:.2f} on validation")
    return "; ".join(filter(None, notes))


_IMAGES = ("harmonized.probe", "harmonized.test")
_SUMMARY = {"linear": "a linear probe", "trees": "gradient-boosted trees"}

PRODUCTS = (
    *(
        Product(
            name=f"{kind}.{task}",
            needs=_IMAGES,
            make=partial(make_kind, kind, task),
            min_n=MIN_N,
            reads=("seeds", "probe"),
            summary=f"{task} as {_SUMMARY[kind]} predicts it: `predicted`, `classes`, `validation`",
        )
        for kind in ("linear", "trees")
        for task in TASKS
    ),
    *(
        Product(
            name=f"best.{task}",
            needs=(f"linear.{task}",),
            wants=(f"probe.{task}", f"trees.{task}"),
            make=partial(make_best, task),
            min_n=MIN_N,
            summary=f"{task} as the best of CNN, linear probe and trees on validation subjects "
            "predicts it",
        )
        for task in TASKS
    ),
)
