"""How well a probe predicts the site, compared with its accuracy after perfect harmonization."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from harmbench.contracts.cohort import Cohort
from harmbench.contracts.metric import MetricInputs, MetricResult, metric
from harmbench.contracts.product import Product, ProductContext
from harmbench.protocol.probes.kinds import MIN_N as MIN_ANY
from harmbench.protocol.probes.kinds import of_each_kind, probe_note
from harmbench.protocol.probes.training import (
    MIN_N,
    apply_probe,
    predicted_classes,
    rounds,
    underfit_note,
)
from harmbench.protocol.resampled import Floats, Resampler, balanced_accuracy_of, unweighted

BEST = "best.site"
CNN = "probe.site"
ORACLE = f"oracle:{CNN}"
FLOOR = "floor.site"
IMAGES_OF_ORACLE = "oracle:harmonized.test"


def make_floor(inputs: MetricInputs, context: ProductContext) -> dict[str, NDArray]:
    """Predict the site of every test scan from age and sex only.

    The model is a class-balanced logistic regression on a cubic spline of the age and on the sex.
    With 420 scans and simulated covariates it is closer to the optimal classifier than gradient
    boosting. Returns the names of the sites, ``"predicted"`` (n_test,).
    """
    from sklearn.compose import make_column_transformer
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, SplineTransformer

    test = inputs.cohort("raw.test")
    age = make_pipeline(
        SimpleImputer(strategy="median", keep_empty_features=True),
        SplineTransformer(n_knots=5, knots="quantile", extrapolation="constant"),
    )
    sex = OneHotEncoder(handle_unknown="ignore")
    model = make_pipeline(
        make_column_transformer((age, ["age"]), (sex, ["sex"])),
        LogisticRegression(class_weight="balanced", max_iter=1000),
    )
    predicted = np.empty(len(test), dtype=object)
    for training, rows in rounds(inputs, "raw.probe"):
        model.fit(_covariates(training), training.column("site").astype(str))
        predicted[rows] = model.predict(_covariates(test).iloc[rows])
    return {"predicted": predicted.astype(str)}


def _covariates(cohort: Cohort) -> pd.DataFrame:
    sex = pd.Series(cohort.column("sex")).fillna("missing").astype(str)
    return pd.DataFrame({"age": cohort.column("age").astype(float), "sex": sex})


_DECLARED = {"axis": "site removal", "level": "five", "direction": "target", "min_n": MIN_ANY}


@metric(
    label="Site balanced accuracy",
    range=(0.0, 1.0),
    needs=(BEST, "raw.test"),
    wants=(f"oracle:{BEST}", FLOOR),
    anchors=("identity", "oracle"),
    real_anchors=("identity", "floor:age and sex"),
    margin=0.05,
    expected_order=(("mean-image", "shuffle"), ("oracle",), ("identity",)),
    **_DECLARED,
)
def site_bacc(inputs: MetricInputs, rng: np.random.Generator) -> MetricResult:
    """Balanced accuracy of a probe that is trained to predict the site from harmonized images.

    The kind of probe (CNN, linear or trees) is the one that predicts the site best on validation
    subjects. The target is the oracle's value, with the same choice: if the ages differ between
    sites, the site is still visible after perfect harmonization. Without an oracle it is the
    accuracy of age and sex alone.
    """
    arrays, test = inputs.arrays(BEST), inputs.cohort("raw.test")
    classes, predicted = arrays["classes"], predicted_classes(arrays)
    resampler = Resampler(test, len(predicted), rng)
    truth, rows = _known_sites(test, classes)
    target, floors = oracle_or_floor(
        truth, rows, predictions(inputs, f"oracle:{BEST}"), floor_predictions(inputs)
    )
    return resampler.result(
        balanced_accuracy_of(truth, predicted),
        rows,
        target=target,
        floors=floors | {"chance": 1 / len(classes)},
        per_scan=recognized(test, truth, predicted),
        arrays={"confusion": _confusion(truth, predicted, classes), "sites": classes},
        note=probe_note(arrays),
    )


@metric(
    label="Site excess",
    goal=0.0,
    range=(-1.0, 1.0),
    needs=(BEST, "raw.test"),
    wants=(f"oracle:{BEST}", FLOOR),
    expected_order=(("oracle",), ("identity",)),
    **_DECLARED,
)
def site_excess(inputs: MetricInputs, rng: np.random.Generator) -> MetricResult:
    """Site balanced accuracy minus its target; below 0, biology that differs by site is lost.

    The interval is that of the paired difference: the method and its target share the resamples.
    """
    arrays, test = inputs.arrays(BEST), inputs.cohort("raw.test")
    predicted, reference = predicted_classes(arrays), predictions(inputs, f"oracle:{BEST}")
    if reference is None:
        reference = floor_predictions(inputs)
    if reference is None:
        return MetricResult.skipped("there is neither an oracle nor a classifier of age and sex")
    resampler = Resampler(test, len(predicted), rng)
    truth, rows = _known_sites(test, arrays["classes"])
    own, other = balanced_accuracy_of(truth, predicted), balanced_accuracy_of(truth, reference)

    def excess(chosen: NDArray[np.intp], weights: Floats) -> Floats:
        target = other(chosen, weights)
        # Equal numbers of probe seeds are paired; a floor has one column for all seeds.
        paired = target.shape[1] in (1, len(predicted))
        return own(chosen, weights) - (target if paired else target.mean(1, keepdims=True))

    return resampler.result(excess, rows, groups=None, target=0.0, note=probe_note(arrays))


site_bacc_cnn, site_bacc_linear, site_bacc_trees = of_each_kind(site_bacc)


@metric(
    label="Site balanced accuracy, frozen probe",
    range=(0.0, 1.0),
    needs=("harmonized.test", f"identity:{CNN}"),
    wants=(IMAGES_OF_ORACLE,),
    expected_order=(("oracle", "shuffle", "mean-image"), ("identity",)),
    **{**_DECLARED, "min_n": MIN_N},
)
def site_bacc_frozen(inputs: MetricInputs, rng: np.random.Generator) -> MetricResult:
    """Balanced accuracy of the CNN that was trained on raw images, on harmonized test images.

    A low value with a high `site_bacc` means that the method deceives the old network, but that a
    new one still finds the site. The target is the value for the oracle's images, else chance.
    """
    arrays, test = inputs.arrays(f"identity:{CNN}"), inputs.cohort("harmonized.test")
    truth, rows = _known_sites(test, arrays["classes"])

    def predict(cohort: Cohort) -> NDArray:
        return arrays["classes"][apply_probe(arrays, "site", cohort.images).argmax(-1)]

    predicted = predict(test)
    chance = target = 1 / len(arrays["classes"])
    if IMAGES_OF_ORACLE in inputs:
        oracle = predict(inputs.cohort(IMAGES_OF_ORACLE))
        target = unweighted(balanced_accuracy_of(truth, oracle), rows)
    return Resampler(test, len(predicted), rng).result(
        balanced_accuracy_of(truth, predicted),
        rows,
        target=target,
        floors={"chance": chance},
        note=underfit_note(arrays),
    )


def _known_sites(test: Cohort, classes: NDArray) -> tuple[NDArray, NDArray[np.bool_]]:
    """Return the sites of the test scans, and the rows whose site is a class of the probe."""
    truth = test.column("site").astype(str)
    return truth, np.isin(truth, classes)


def predictions(inputs: MetricInputs, product: str) -> NDArray | None:
    """Return the sites that the probes of a product predict, (seeds, n), None without it."""
    return predicted_classes(inputs.arrays(product)) if product in inputs else None


def floor_predictions(inputs: MetricInputs) -> NDArray | None:
    """Return the sites predicted from age and sex, (1, n), None if they are not available."""
    return inputs.arrays(FLOOR)["predicted"][None] if FLOOR in inputs else None


def oracle_or_floor(
    truth: NDArray, rows: NDArray[np.bool_], oracle: NDArray | None, floor: NDArray | None
) -> tuple[float, dict[str, float]]:
    """Return the target (the oracle's balanced accuracy, else the floor) and the floor."""
    floors = {}
    if floor is not None:
        floors["age and sex"] = unweighted(balanced_accuracy_of(truth, floor), rows)
    if oracle is not None:
        return unweighted(balanced_accuracy_of(truth, oracle), rows), floors
    return floors.get("age and sex", float("nan")), floors


def _confusion(truth: NDArray, predicted: NDArray, classes: NDArray) -> Floats:
    """Return the share of each site's scans (rows) predicted as each site, over all seeds."""
    member = (truth[:, None] == classes).astype(np.float64)
    counts = member.T @ (predicted[..., None] == classes).sum(0)
    return counts / np.maximum(len(predicted) * member.sum(0), 1)[:, None]


def recognized(test: Cohort, truth: NDArray, predicted: NDArray) -> pd.DataFrame:
    """Return one row per scan, with the share of the probe seeds that predict its label."""
    table = test.participants[["participant_id", "session_id", "site"]]
    return table.assign(recognized=(predicted == truth).mean(0))


PRODUCTS = (
    Product(
        name=FLOOR,
        needs=("raw.probe", "raw.test"),
        make=make_floor,
        scope="run",
        summary="the site predicted from age and sex alone: `predicted`",
    ),
)
