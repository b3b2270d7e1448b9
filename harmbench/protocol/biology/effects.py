"""Voxelwise effects of age in harmonized images.

False effects: a study that tests for a placebo age should find nothing. It finds much if a method
writes the age that it receives into the image. Effects kept: the age effect that a study finds in
harmonized images is compared with the effect in the true images of the same subjects.

The voxels are those in the masks of at least half of the test scans. The images are used as the
method returned them.
"""

from __future__ import annotations

from collections.abc import Sequence

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
HEADLINE = "age + sex"
MODELS = {HEADLINE: ("sex",), "age + sex + site": ("sex", "site")}
"""Models of the age effect, with the columns that it is adjusted for."""


def nuisance(cohort: Cohort, columns: Sequence[str]) -> Floats:
    """Return an orthonormal basis of a constant and the levels of some columns, shape (n, rank).

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


def _residual(x: Floats, basis: Floats) -> Floats:
    return x - basis @ (basis.T @ x)


def significant_share(y: Floats, x: Floats, adjusted: Floats, alpha: float = ALPHA) -> float:
    """Return the share of voxels in which a regressor is significant (two-sided t-test).

    Parameters
    ----------
    y, x : ndarray, shapes (n, voxels) and (n,)
        Voxels and the tested regressor. A constant voxel is not significant.
    adjusted : ndarray, shape (n, rank)
        Orthonormal basis of all other regressors and the constant. If `x` is a combination of
        them, or there are too few scans, the result is NaN.
    alpha : float
        Level of the test.
    """
    df = len(x) - adjusted.shape[1] - 1
    rest = _residual(x, adjusted)
    if df < 1 or rest @ rest <= 1e-12 * (x @ x):
        return float("nan")
    # The first subtraction makes a constant voxel exactly 0.
    left = _residual(y - y.mean(0), adjusted)
    explained, total = (rest @ left) ** 2 / (rest @ rest), (left**2).sum(0)
    critical = student.isf(alpha / 2, df) ** 2
    return float((explained * df > critical * (total - explained)).mean())


def age_slopes(y: Floats, age: Floats, adjusted: Floats, weights: Floats) -> Floats:
    """Return each voxel's age slope under weights, shape (b, voxels); intensity per year.

    This is weighted least squares, with weights (b, n), of the voxels (n, voxels) on age (n,) and
    the basis `adjusted` (n, rank), by the Frisch-Waugh-Lovell theorem.
    """
    rank = adjusted.shape[1]
    squares = (adjusted[:, :, None] * adjusted[:, None, :]).reshape(len(age), -1)
    gram = (weights @ squares).reshape(-1, rank, rank)
    centered = age - age.mean()
    fitted = (weights * centered) @ adjusted
    coefficients = np.einsum("bij,bj->bi", np.linalg.pinv(gram, hermitian=True), fitted)
    rest = weights * (centered - coefficients @ adjusted.T)
    return (rest @ (y - y.mean(0))) / (rest @ centered)[:, None]


def common_mask(cohort: Cohort) -> NDArray[np.bool_]:
    """Return the voxels in the masks of at least half of the scans, shape (*shape)."""
    return cohort.mask.mean(0) >= COVERAGE


def _voxels(cohort: Cohort, mask: NDArray[np.bool_]) -> Floats:
    return np.asarray(cohort.images[:, mask], dtype=np.float64)


def effect_agreement(ours: Floats, truth: Floats) -> tuple[Floats, Floats]:
    """Compare maps of slopes (b, voxels) row by row.

    Returns
    -------
    correlation, slope : ndarray, shape (b,)
        Pearson correlation over voxels, and ``sum(ours * truth) / sum(truth ** 2)``: the share of
        the effect that is kept, which noise in `ours` does not bias.
    """
    one = np.ones((1, ours.shape[1]))
    pairs = zip(ours, truth, strict=True)
    correlation = np.array([weighted_correlation(b, a, one)[0] for a, b in pairs])
    return correlation, (ours * truth).sum(1) / (truth**2).sum(1)


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

    The images are harmonized under an age that is permuted within sites, and tested for it with a
    model that includes true age, sex and site. The value is the mean of 20 permutations, over
    which the interval is computed. The floor is the share in the raw images with the same
    permutations.
    """
    raw = _first_scans(inputs.cohort("raw.test"))
    rows = np.flatnonzero(labeled(raw, "age"))
    raw = raw.subset(rows)
    if len(rows) == 0 or not common_mask(raw).any():
        return MetricResult.skipped("no test scan has a known age and a mask")
    mask = common_mask(raw)
    age = raw.column("age").astype(np.float64)
    standardized = (age - age.mean()) / max(float(age.std()), 1e-6)
    adjusted = _basis(np.column_stack([nuisance(raw, ("sex", "site")), standardized]))
    before, shares, floor = _voxels(raw, mask), [], []
    for name in placebo.AGES:
        harmonized = _first_scans(inputs.cohort(name)).subset(rows)
        placebo_age = harmonized.column("placebo_age").astype(np.float64)
        shares.append(significant_share(_voxels(harmonized, mask), placebo_age, adjusted))
        floor.append(significant_share(before, placebo_age, adjusted))
    if not np.isfinite(shares).all():
        return MetricResult.skipped(
            f"{len(rows)} scans of known age: a placebo age cannot be tested together with age, "
            "sex and site"
        )
    value, n = float(np.mean(shares)), len(shares)
    weights = subject_counts([f"{draw:02d}" for draw in range(n)], REPLICATES, rng)
    replicates = weighted_mean(shares, weights)
    return MetricResult(
        Estimate(value, *percentile_interval(replicates, df=n - 1), len(rows)),
        target=ALPHA,
        floors={"raw images": float(np.mean(floor))},
        replicates=replicates,
        arrays={"shares": np.array(shares), "raw": np.array(floor)},
    )


def _first_scans(cohort: Cohort) -> Cohort:
    """Return the first scan of each subject, because a t-test needs independent rows."""
    table = cohort.participants.reset_index(drop=True)
    ordered = table.sort_values(["participant_id", "site", "session_id", "slice"])
    return cohort.subset(np.sort(ordered.drop_duplicates("participant_id").index))


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
    if reason := _skip_reason(test, truth):
        return MetricResult.skipped(reason)
    mask, age = common_mask(test), test.column("age").astype(np.float64)
    ours, true = _voxels(test, mask), _voxels(truth, mask)
    everyone = np.ones((1, len(age)))
    n = len(np.unique(subjects[rows]))
    estimates, replicates, maps, floors = {}, {}, {}, {}
    for model, columns in MODELS.items():
        adjusted = nuisance(test, columns)
        maps[model] = [age_slopes(y, age, adjusted, everyone) for y in (ours, true)]
        value = float(effect_agreement(*maps[model])[which][0])
        resampled = effect_agreement(*(age_slopes(y, age, adjusted, weights) for y in (ours, true)))
        interval = normal_interval(value, float(resampled[which].std()), bounds=bounds)
        estimates[model] = Estimate(value, *interval, n)
        replicates[model] = resampled[which]
    effect, true_effect = maps[HEADLINE]
    if ORACLE in inputs:
        rescan = _voxels(inputs.cohort(ORACLE).subset(rows), mask)
        slopes = age_slopes(rescan, age, nuisance(test, MODELS[HEADLINE]), everyone)
        floors["rescan"] = float(effect_agreement(slopes, true_effect)[which][0])
    headline, noisy = estimates.pop(HEADLINE), replicates[HEADLINE]
    return MetricResult(
        headline,
        groups=estimates,
        target=floors.get("rescan", float("nan")) if which == 0 else 1.0,
        floors=floors,
        # The noise of the images and of the resampling add up in a replicate. This shifts the mean
        # of the replicates, but not their spread.
        replicates=noisy - noisy.mean() + headline.value,
        arrays={"mask": mask, "effect": effect[0], "truth": true_effect[0]},
    )


def _skip_reason(test: Cohort, truth: Cohort) -> str:
    if len(test) == 0 or not common_mask(test).any():
        return "no test scan has a known age and a mask"
    age = test.column("age").astype(np.float64)
    basis = nuisance(test, ("sex", "site"))
    rest = _residual(age, basis)
    if len(age) < basis.shape[1] + 3 or rest @ rest <= 1e-12 * (age @ age):
        return "age does not vary within the sites and sexes of the test part"
    if np.ptp(truth.images, axis=0).max() == 0:
        return "the true images do not differ"
    return ""


_DECLARED = {
    "axis": "biology kept",
    "level": "full",
    "goal": 1.0,
    "needs": (CLEAN, "harmonized.test"),
    "wants": (ORACLE,),
    "expected_order": (("oracle",), ("shuffle", "mean-image")),
}


@metric(label="Age effect correlation", direction="higher", range=(-1.0, 1.0), **_DECLARED)
def effect_correlation(inputs: MetricInputs, rng: np.random.Generator) -> MetricResult:
    """Correlation, over voxels, of the age effect in harmonized images with that in the truth.

    The effects are voxelwise slopes of the same subjects, adjusted for sex (and for site in the
    group ``age + sex + site``). The truth is free of noise. The target is a rescan's value.
    """
    return _effects(inputs, rng, 0, (-1.0, 1.0))


@metric(label="Age effect slope", direction="target", **_DECLARED)
def effect_slope(inputs: MetricInputs, rng: np.random.Generator) -> MetricResult:
    """Share of the true age effect that is kept in harmonized images: 1 keeps all, 0 none.

    This is the least-squares slope, over voxels, of the voxelwise age slopes in harmonized images
    on those in the noise-free truth. Both are adjusted for sex (and for site in the group
    ``age + sex + site``). Noise in the truth would have made the share too small.
    """
    return _effects(inputs, rng, 1, (None, None))
