"""Effects in the image, voxel by voxel: those that were there and those that were only claimed.

False effects: a study that tests for an age that nobody has should find nothing; a method that
writes the age it is told into the image makes it find plenty. Effects kept: the age effect that a
study would find in harmonized images, against the one in the same subjects' true images.

Voxels are those that lie in the masks of at least half of the test scans; images are taken as the
method returned them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

from harmbench.contracts.cohort import Cohort
from harmbench.contracts.metric import Estimate, MetricInputs, MetricResult, metric
from harmbench.protocol.leakage import placebo
from harmbench.protocol.probes.training import labeled
from harmbench.stats import (
    REPLICATES,
    normal_interval,
    percentile_interval,
    subject_counts,
    weighted_correlation,
    weighted_mean,
)

Floats = NDArray[np.float64]

ALPHA = 0.05
COVERAGE = 0.5
ORACLE = "oracle:harmonized.test"
CLEAN = "truth.test.clean"
MODELS = {"age + sex": ("sex",), "age + sex + site": ("sex", "site")}
"""What the age effect is adjusted for; the first is the headline."""


# Arrays -----------------------------------------------------------------------------------------


def nuisance(cohort: Cohort, columns: Sequence[str]) -> Floats:
    """Return an orthonormal basis of a constant and the levels of some columns.

    Returns
    -------
    ndarray, shape (n, rank)
        A missing value is a level of its own.
    """
    parts = [np.ones((len(cohort), 1))]
    for name in columns:
        values = cohort.participants[name].astype("object").fillna("missing").astype(str).to_numpy()
        parts.append((values[:, None] == np.unique(values)).astype(float))
    return _basis(np.hstack(parts))


def _basis(design: Floats) -> Floats:
    left, size, _ = np.linalg.svd(design, full_matrices=False)
    return left[:, size > size[0] * 1e-10]


def significant_share(y: Floats, x: Floats, adjusted: Floats, alpha: float = ALPHA) -> float:
    """Return the share of voxels in which a regressor is significant (two-sided t-test).

    Parameters
    ----------
    y : ndarray, shape (n, voxels)
    x : ndarray, shape (n,)
        The regressor tested.
    adjusted : ndarray, shape (n, rank)
        Orthonormal basis of all others, with the constant.
    alpha : float
        Level of the test.

    Returns
    -------
    float
        In [0, 1]; a constant voxel shows nothing. NaN where too few scans or no contrast is left.
    """
    free = len(x) - adjusted.shape[1] - 1
    rest = x - adjusted @ (adjusted.T @ x)
    if free < 1 or rest @ rest <= 1e-12 * (x @ x):
        return float("nan")
    left = y - y.mean(0)  # a constant voxel becomes exactly 0
    left = left - adjusted @ (adjusted.T @ left)
    explained, total = (rest @ left) ** 2 / (rest @ rest), (left**2).sum(0)
    critical = student.isf(alpha / 2, free) ** 2
    return float((explained * free > critical * (total - explained)).mean())


def age_slopes(y: Floats, age: Floats, adjusted: Floats, weights: Floats) -> Floats:
    """Return each voxel's age slope under weights, shape (b, voxels); intensity a year.

    Weighted least squares of the voxel on age and the basis `adjusted`, one fit a replicate, by
    the Frisch-Waugh-Lovell theorem: only the part of age that the others do not explain counts.

    Parameters
    ----------
    y : ndarray, shape (n, voxels)
    age : ndarray, shape (n,)
    adjusted : ndarray, shape (n, rank)
    weights : ndarray, shape (b, n)
    """
    rank = adjusted.shape[1]
    squares = (adjusted[:, :, None] * adjusted[:, None, :]).reshape(len(age), -1)
    gram = (weights @ squares).reshape(-1, rank, rank)
    centered = age - age.mean()
    fitted = (weights * centered) @ adjusted
    coefficients = np.einsum("bij,bj->bi", np.linalg.pinv(gram, hermitian=True), fitted)
    rest = weights * (centered - coefficients @ adjusted.T)
    return (rest @ (y - y.mean(0))) / (rest @ centered)[:, None]


def voxels(images: NDArray, mask: NDArray[np.bool_]) -> Floats:
    """Return images (n, *shape) as (n, voxels) inside a mask (*shape)."""
    return np.asarray(images[:, mask], dtype=np.float64)


def common_mask(cohort: Cohort) -> NDArray[np.bool_]:
    """Return which voxels lie in the masks of at least half of the scans, shape (*shape)."""
    return cohort.mask.mean(0) >= COVERAGE


def effect_agreement(ours: Floats, truth: Floats) -> tuple[Floats, Floats]:
    """Compare maps of slopes row by row.

    Parameters
    ----------
    ours, truth : ndarray, shape (b, voxels)

    Returns
    -------
    correlation, slope : ndarray, shape (b,)
        Pearson's over voxels, and ``sum(ours * truth) / sum(truth ** 2)``: the share of the effect
        that is kept, whatever noise lies in ours.
    """
    one = np.ones((1, ours.shape[1]))
    pairs = zip(ours, truth, strict=True)
    correlation = np.array([weighted_correlation(b, a, one)[0] for a, b in pairs])
    return correlation, (ours * truth).sum(1) / (truth**2).sum(1)


# False effects ----------------------------------------------------------------------------------


@metric(
    label="False effects",
    axis="leakage",
    level="full",
    direction="target",
    goal=ALPHA,
    range=(0.0, 1.0),
    needs=("raw.test", *placebo.AGES),
    monotone=False,
    expected_order=(("oracle", "identity", "site-shift", "blur", "combat-nocov"),),
)
def false_effects(inputs: MetricInputs, rng: np.random.Generator) -> MetricResult:
    """Share of voxels with a significant effect of a placebo age, at 5 %, adjusted for the truth.

    Images are harmonized under an age permuted within sites and tested for it, beside true age,
    sex and site; mean of 20 draws, over which the interval is taken. The floor is the raw images'
    share under the same draws, what chance makes of these very ages.
    """
    raw = _one_scan_each(inputs.cohort("raw.test"))
    rows = np.flatnonzero(labeled(raw, "age"))
    raw = raw.subset(rows)
    if len(rows) == 0 or not common_mask(raw).any():
        return MetricResult.skipped("no test scan has a known age and a mask")
    mask = common_mask(raw)
    adjusted = _basis(np.column_stack([nuisance(raw, ("sex", "site")), _standard(raw)]))
    before, shares, floor = voxels(raw.images, mask), [], []
    for name in placebo.AGES:
        told = _one_scan_each(inputs.cohort(name)).subset(rows)
        lie = told.column("placebo_age").astype(np.float64)
        shares.append(significant_share(voxels(told.images, mask), lie, adjusted))
        floor.append(significant_share(before, lie, adjusted))
    if not np.isfinite(shares).all():
        return MetricResult.skipped(
            f"{len(rows)} scans of known age leave no test of a placebo beside age, sex and site"
        )
    draws = subject_counts([f"{draw:02d}" for draw in range(len(shares))], REPLICATES, rng)
    replicates = weighted_mean(shares, draws)
    return MetricResult(
        Estimate(
            float(np.mean(shares)), *percentile_interval(replicates, df=len(shares) - 1), len(rows)
        ),
        target=ALPHA,
        floors={"raw images": float(np.mean(floor))},
        replicates=replicates,
        arrays={"shares": np.array(shares), "raw": np.array(floor)},
    )


def _one_scan_each(cohort: Cohort) -> Cohort:
    """Return the first scan of every subject: the rows of a t-test are independent."""
    table = cohort.participants.reset_index(drop=True)
    ordered = table.sort_values(["participant_id", "site", "session_id", "slice"])
    return cohort.subset(np.sort(ordered.drop_duplicates("participant_id").index))


def _standard(cohort: Cohort) -> Floats:
    age = cohort.column("age").astype(np.float64)
    return (age - age.mean()) / max(float(age.std()), 1e-6)


# Effects kept -----------------------------------------------------------------------------------


class _Agreement(NamedTuple):
    """Correlation and slope of one model: values and replicates (b,), and the maps behind them."""

    values: tuple[float, float]
    replicates: tuple[Floats, Floats]
    ours: Floats
    truth: Floats


def _agreement(
    ours: Floats, truth: Floats, test: Cohort, model: str, weights: Floats
) -> _Agreement:
    age, adjusted = test.column("age").astype(np.float64), nuisance(test, MODELS[model])
    everyone = np.ones((1, len(age)))
    maps = [age_slopes(y, age, adjusted, everyone) for y in (ours, truth)]
    correlation, slope = effect_agreement(*maps)
    many = effect_agreement(*(age_slopes(y, age, adjusted, weights) for y in (ours, truth)))
    return _Agreement((float(correlation[0]), float(slope[0])), many, maps[0][0], maps[1][0])


def _effects(
    inputs: MetricInputs,
    rng: np.random.Generator,
    which: int,
    bounds: tuple[float | None, float | None],
) -> MetricResult:
    """Return the agreement of age effects: `which` 0 for the correlation, 1 for the slope."""
    test = inputs.cohort("harmonized.test")
    subjects, sites = test.column("participant_id"), test.column("site")
    weights = subject_counts(subjects, REPLICATES, rng, strata=sites)
    rows = np.flatnonzero(labeled(test, "age"))
    test, weights = test.subset(rows), weights[:, rows]
    truth = inputs.cohort(CLEAN).subset(rows)
    reason = _why_no_effect(test, truth)
    if reason:
        return MetricResult.skipped(reason)
    mask = common_mask(test)
    ours, true = voxels(test.images, mask), voxels(truth.images, mask)
    found = {model: _agreement(ours, true, test, model, weights) for model in MODELS}
    n = test.participants["participant_id"].nunique()
    first = found["age + sex"]
    floors = {}
    if ORACLE in inputs:
        rescan = voxels(inputs.cohort(ORACLE).subset(rows).images, mask)
        floors["rescan"] = _agreement(rescan, true, test, "age + sex", weights[:1]).values[which]
    arrays = {"mask": mask, "effect": first.ours, "truth": first.truth}
    estimates = {
        model: Estimate(
            one.values[which],
            *normal_interval(one.values[which], float(one.replicates[which].std()), bounds=bounds),
            n,
        )
        for model, one in found.items()
    }
    replicates = first.replicates[which]
    return MetricResult(
        estimates["age + sex"],
        groups={"age + sex + site": estimates["age + sex + site"]},
        target=floors.get("rescan", float("nan")) if which == 0 else 1.0,
        floors=floors,
        # Noise counts twice in a replicate, which moves its mean, not its spread.
        replicates=replicates - replicates.mean() + first.values[which],
        arrays=arrays,
    )


def _why_no_effect(test: Cohort, truth: Cohort) -> str:
    if len(test) == 0 or not common_mask(test).any():
        return "no test scan has a known age and a mask"
    age = test.column("age").astype(np.float64)
    basis = nuisance(test, ("sex", "site"))
    rest = age - basis @ (basis.T @ age)
    if len(age) < basis.shape[1] + 3 or rest @ rest <= 1e-12 * (age @ age):
        return "age does not vary within the sites and sexes of the test part"
    if np.ptp(truth.images, axis=0).max() == 0:
        return "the true images do not differ"
    return ""


_NEEDS = (CLEAN, "harmonized.test")


@metric(
    label="Age effect correlation",
    axis="biology kept",
    level="full",
    direction="higher",
    goal=1.0,
    range=(-1.0, 1.0),
    needs=_NEEDS,
    wants=(ORACLE,),
    expected_order=(("oracle",), ("shuffle", "mean-image")),
)
def effect_correlation(inputs: MetricInputs, rng: np.random.Generator) -> MetricResult:
    """Correlation, over voxels, of the age effect in harmonized images with that in the truth.

    Voxelwise slopes, adjusted for sex (group ``age + sex + site``: and for site), of the same
    subjects; the truth is noise-free. The target is a rescan's.
    """
    return _effects(inputs, rng, 0, (-1.0, 1.0))


@metric(
    label="Age effect slope",
    axis="biology kept",
    level="full",
    direction="target",
    goal=1.0,
    needs=_NEEDS,
    wants=(ORACLE,),
    expected_order=(("oracle",), ("shuffle", "mean-image")),
)
def effect_slope(inputs: MetricInputs, rng: np.random.Generator) -> MetricResult:
    """Share of the true age effect that is left in harmonized images: 1 keeps all, 0 none.

    Voxelwise slopes, adjusted for sex (group ``age + sex + site``: and for site), projected on
    those of the noise-free truth; noise in a regressor would have made the share too small.
    """
    return _effects(inputs, rng, 1, (None, None))
