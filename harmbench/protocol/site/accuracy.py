"""How much of the site a CNN can still read, held against what perfect harmonization would show."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from harmbench.contracts.cohort import Cohort
from harmbench.contracts.metric import MetricInputs, MetricResult, metric
from harmbench.contracts.product import Product, ProductContext
from harmbench.protocol.probes.training import MIN_N, apply_probe, predicted_classes, underfit_note
from harmbench.protocol.resampled import Floats, Resampler, balanced_accuracy_of, unweighted

ORACLE = "oracle:probe.site"
FLOOR = "floor.site"


def make_floor(inputs: MetricInputs, context: ProductContext) -> dict[str, NDArray]:
    """Predict the site of every test scan from age and sex alone, without its image.

    Logistic regression, classes balanced, on a cubic spline of age and on sex: with 420 scans and
    simulated covariates nearer to the optimal classifier than gradient boosting.

    Returns
    -------
    dict of str to ndarray
        ``"predicted"``, shape (n_test,): a site's name.
    """
    from sklearn.compose import make_column_transformer
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, SplineTransformer

    training, test = inputs.cohort("raw.probe"), inputs.cohort("raw.test")
    age = make_pipeline(
        SimpleImputer(strategy="median", keep_empty_features=True),
        SplineTransformer(n_knots=5, knots="quantile", extrapolation="constant"),
    )
    sex = OneHotEncoder(handle_unknown="ignore")
    model = make_pipeline(
        make_column_transformer((age, ["age"]), (sex, ["sex"])),
        LogisticRegression(class_weight="balanced", max_iter=1000),
    )
    model.fit(_covariates(training), training.column("site").astype(str))
    return {"predicted": model.predict(_covariates(test)).astype(str)}


def _covariates(cohort: Cohort) -> pd.DataFrame:
    sex = pd.Series(cohort.column("sex")).fillna("missing").astype(str)
    return pd.DataFrame({"age": cohort.column("age").astype(float), "sex": sex})


@metric(
    label="Site balanced accuracy",
    axis="site removal",
    level="five",
    direction="target",
    range=(0.0, 1.0),
    min_n=MIN_N,
    needs=("probe.site", "raw.test"),
    wants=(ORACLE, FLOOR),
    anchors=("identity", "oracle"),
    real_anchors=("identity", "floor:age and sex"),
    margin=0.05,
    expected_order=(("mean-image", "shuffle"), ("oracle",), ("identity",)),
)
def site_bacc(inputs: MetricInputs, rng: np.random.Generator) -> MetricResult:
    """Balanced accuracy of a CNN that is trained and tested on harmonized images to tell the site.

    The target is the oracle's value: where ages differ by site, perfect harmonization still shows
    the site. Without an oracle it is what age and sex alone tell.
    """
    arrays, test = inputs.arrays("probe.site"), inputs.cohort("raw.test")
    predicted = predicted_classes(arrays)
    resampler = Resampler(test, len(predicted), rng)
    truth, rows = _known(test, arrays["classes"])
    target, floors = _target(inputs, truth, rows)
    return resampler.result(
        balanced_accuracy_of(truth, predicted),
        rows,
        target=target,
        floors=floors | {"chance": 1 / len(arrays["classes"])},
        per_scan=_per_scan(test, predicted),
        arrays={
            "confusion": _confusion(truth, predicted, arrays["classes"]),
            "sites": arrays["classes"],
        },
        note=underfit_note(arrays),
    )


@metric(
    label="Site excess",
    axis="site removal",
    level="five",
    direction="target",
    goal=0.0,
    range=(-1.0, 1.0),
    min_n=MIN_N,
    needs=("probe.site", "raw.test"),
    wants=(ORACLE, FLOOR),
    expected_order=(("oracle",), ("identity",)),
)
def site_excess(inputs: MetricInputs, rng: np.random.Generator) -> MetricResult:
    """Site balanced accuracy less its target; under 0 the biology that tells sites apart is gone.

    The interval is that of the paired difference: one resample serves the method and its target.
    """
    arrays, test = inputs.arrays("probe.site"), inputs.cohort("raw.test")
    predicted = predicted_classes(arrays)
    if ORACLE in inputs:
        reference = predicted_classes(inputs.arrays(ORACLE))
    elif FLOOR in inputs:
        reference = inputs.arrays(FLOOR)["predicted"][None]
    else:
        return MetricResult.skipped("there is neither an oracle nor a classifier of age and sex")
    resampler = Resampler(test, len(predicted), rng)
    truth, rows = _known(test, arrays["classes"])
    own, other = balanced_accuracy_of(truth, predicted), balanced_accuracy_of(truth, reference)

    def excess(chosen: NDArray[np.intp], weights: Floats) -> Floats:
        target = other(chosen, weights)
        # Equal numbers of probe seeds are paired; a floor of one column counts for every seed.
        same = target.shape[1] in (1, len(predicted))
        return own(chosen, weights) - (target if same else target.mean(1, keepdims=True))

    return resampler.result(excess, rows, groups=None, target=0.0, note=underfit_note(arrays))


@metric(
    label="Site balanced accuracy, frozen probe",
    axis="site removal",
    level="five",
    direction="target",
    range=(0.0, 1.0),
    min_n=MIN_N,
    needs=("harmonized.test", "identity:probe.site"),
    wants=("oracle:harmonized.test",),
    expected_order=(("oracle", "shuffle", "mean-image"), ("identity",)),
)
def site_bacc_frozen(inputs: MetricInputs, rng: np.random.Generator) -> MetricResult:
    """Balanced accuracy of the CNN that was trained on raw images, on harmonized test images.

    Low beside a high `site_bacc`: the old network is fooled, and a new one reads the site anew.
    The target is the value on the oracle's images, else chance.
    """
    arrays, test = inputs.arrays("identity:probe.site"), inputs.cohort("harmonized.test")
    truth, rows = _known(test, arrays["classes"])

    def read(cohort: Cohort) -> NDArray:
        return arrays["classes"][apply_probe(arrays, "site", cohort.images).argmax(-1)]

    predicted = read(test)
    chance = 1 / len(arrays["classes"])
    target = chance
    if "oracle:harmonized.test" in inputs:
        oracle = read(inputs.cohort("oracle:harmonized.test"))
        target = unweighted(balanced_accuracy_of(truth, oracle), rows)
    return Resampler(test, len(predicted), rng).result(
        balanced_accuracy_of(truth, predicted),
        rows,
        target=target,
        floors={"chance": chance},
        note=underfit_note(arrays),
    )


def _known(test: Cohort, classes: NDArray) -> tuple[NDArray, NDArray[np.bool_]]:
    """Return the sites of the test scans, and which of them the probe has seen in training."""
    truth = test.column("site").astype(str)
    return truth, np.isin(truth, classes)


def _target(
    inputs: MetricInputs, truth: NDArray, rows: NDArray[np.bool_]
) -> tuple[float, dict[str, float]]:
    """Return the oracle's balanced accuracy, else that of age and sex, and the floors."""
    floors = {}
    if FLOOR in inputs:
        from_table = inputs.arrays(FLOOR)["predicted"][None]
        floors["age and sex"] = unweighted(balanced_accuracy_of(truth, from_table), rows)
    target = floors.get("age and sex", float("nan"))
    if ORACLE in inputs:
        oracle = predicted_classes(inputs.arrays(ORACLE))
        target = unweighted(balanced_accuracy_of(truth, oracle), rows)
    return target, floors


def _confusion(truth: NDArray, predicted: NDArray, classes: NDArray) -> Floats:
    """Return the share of each site's scans (rows) taken for each site, mean over the seeds."""
    shares = [
        [float((predicted[:, truth == site] == other).mean()) for other in classes]
        if (truth == site).any()
        else [0.0] * len(classes)
        for site in classes
    ]
    return np.array(shares)


def _per_scan(test: Cohort, predicted: NDArray) -> pd.DataFrame:
    """Return one row a scan: its site, and the share of the probe seeds that recognize it."""
    table = test.participants[["participant_id", "session_id", "site"]].copy()
    return table.assign(recognized=(predicted == table["site"].to_numpy().astype(str)).mean(0))


PRODUCTS = (
    Product(
        name=FLOOR,
        needs=("raw.probe", "raw.test"),
        make=make_floor,
        scope="run",
        summary="the site as predicted from age and sex alone: `predicted`, `classes`",
    ),
)
