"""Errors to the truth: the same subjects as scanned at the reference site.

Subjects of other sites only; inside each scan's brain mask; images as the method returned them,
not cut to [0, 1]. The headline compares with an independent noisy rescan, because an error to the
noise-free truth falls by a third by denoising alone. The floor is what two noisy rescans of one
subject differ by; no method can be expected to do better, only a denoiser will.

Where no simulator knows the truth, the real scan of a travelling subject at the reference site
takes its place, for those who have one. Such scans must be registered: voxels are compared.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from skimage.metrics import structural_similarity

from harmbench.contracts.cohort import IDENTIFIERS, Cohort
from harmbench.contracts.metric import Estimate, MetricInputs, MetricResult, metric
from harmbench.contracts.visits import REPEAT_WITHIN, days_apart
from harmbench.files.blocks import all_finite, blocks, image_bytes, take
from harmbench.stats import REPLICATES, percentile_interval, subject_counts, weighted_mean

Floats = NDArray[np.float64]
PerScan = Callable[[NDArray, NDArray, NDArray], Floats]

ORACLE = "oracle:harmonized.test"
TRAVELLING = "travelling.test"
"""Product with each test scan's counterpart at the reference site; NaN where there is none."""
LEAST_TRAVELERS = 10
MIN_MSE = 1e-10
"""Mean squared errors below this count as this: equal images have 100 dB, not infinity."""


# Errors of arrays -------------------------------------------------------------------------------


def _mean_in_mask(values: NDArray, mask: NDArray) -> Floats:
    axes = tuple(range(1, values.ndim))
    return values.sum(axis=axes, where=mask, dtype=np.float64) / mask.sum(axis=axes)


def masked_mae(images: NDArray, truth: NDArray, mask: NDArray) -> Floats:
    """Return the mean absolute error inside the mask.

    Parameters
    ----------
    images, truth, mask : ndarray, shape (n, *shape)

    Returns
    -------
    ndarray, shape (n,)
    """
    return _mean_in_mask(np.abs(images - truth), mask)


def masked_psnr(images: NDArray, truth: NDArray, mask: NDArray) -> Floats:
    """Return the peak signal-to-noise ratio in dB inside the mask, peak 1; shape (n,)."""
    error = _mean_in_mask((images.astype(np.float64) - truth) ** 2, mask)
    return -10.0 * np.log10(np.maximum(error, MIN_MSE))


def masked_ssim(images: NDArray, truth: NDArray, mask: NDArray) -> Floats:
    """Return the structural similarity map averaged inside the mask; shape (n,).

    Wang 2004 (10.1109/TIP.2003.819861) as in `skimage.metrics.structural_similarity`: data range
    1, uniform window of 7 pixels; windows at the rim of the mask reach outside it.
    """
    maps = [
        structural_similarity(a, b, data_range=1.0, full=True)[1]
        for a, b in zip(images.astype(np.float64), truth.astype(np.float64), strict=True)
    ]
    return _mean_in_mask(np.array(maps), mask)


# The metrics ------------------------------------------------------------------------------------


def scans_at_reference(
    cohort: Cohort, reference_site: str, within: float = REPEAT_WITHIN
) -> Cohort:
    """Return each row's scan of the same participant at the reference site, soon before or after.

    Parameters
    ----------
    cohort : Cohort
        Raw images of one part.
    reference_site : str
        Where the counterpart was scanned; of several visits there the first counts.
    within : float
        Days between the two scans at most, see `harmbench.contracts.visits.days_apart`.

    Returns
    -------
    Cohort
        The same rows; images are NaN where a row has no counterpart.
    """
    there: dict[tuple[str, int], list[int]] = {}
    for row, key in sorted(enumerate(cohort.keys), key=lambda item: item[1]):
        if key.site == reference_site:
            there.setdefault((key.participant_id, key.slice), []).append(row)
    pairs = [
        (row, partner)
        for row, key in enumerate(cohort.keys)
        for partner in reversed(there.get((key.participant_id, key.slice), []))
    ]
    table = cohort.participants
    ours, theirs = ([pair[i] for pair in pairs] for i in (0, 1))
    near = days_apart(table.iloc[ours], table.iloc[theirs]) <= within
    partners = {row: partner for (row, partner), kept in zip(pairs, near, strict=True) if kept}
    if not partners:  # one NaN for all: nothing is to be held
        nothing = np.broadcast_to(np.float32(np.nan), cohort.images.shape)
        return replace(cohort, images=nothing)
    images = np.full(cohort.images.shape, np.nan, dtype=np.float32)
    for row, partner in partners.items():
        images[row] = cohort.images[partner]
    return replace(cohort, images=images)


def _against_rescan(
    inputs: MetricInputs, error: PerScan, column: str, rng: np.random.Generator
) -> MetricResult:
    """Compare with the simulator's rescan, or with travelling subjects' real ones."""
    if error is not masked_mae and inputs.cohort("harmonized.test").space == "table":
        return MetricResult.skipped("needs images; these data are a table of features")
    if "truth.test" in inputs:
        return _against_truth(inputs, "truth.test", error, column, rng)
    known = _known(inputs.cohort(TRAVELLING)) if TRAVELLING in inputs else np.array([], dtype=bool)
    table = inputs.cohort("harmonized.test").participants
    away = table["site"].to_numpy().astype(str) != inputs.reference_site
    people = table["participant_id"][known & away].nunique() if len(known) else 0
    if people < LEAST_TRAVELERS:
        return MetricResult.skipped(
            f"these data have no ground truth, and {people} test subjects were scanned at the "
            f"reference site and elsewhere; {LEAST_TRAVELERS} are needed"
        )
    result = _against_truth(inputs, TRAVELLING, error, column, rng)
    return replace(result, note=f"against real scans of {people} travelling subjects")


def _known(truth: Cohort) -> NDArray[np.bool_]:
    return all_finite(truth.images)


def _against_truth(
    inputs: MetricInputs, truth_name: str, error: PerScan, column: str, rng: np.random.Generator
) -> MetricResult:
    """Apply a per-scan error to all scans of other sites; resample their subjects."""
    ours, truth = inputs.cohort("harmonized.test"), inputs.cohort(truth_name)
    sites = ours.column("site").astype(str)
    weights = subject_counts(ours.column("participant_id"), REPLICATES, rng, strata=sites)
    in_brain = truth.mask.any(axis=tuple(range(1, truth.mask.ndim)))
    rows = np.flatnonzero((sites != inputs.reference_site) & in_brain & _known(truth))
    if len(rows) == 0:
        return MetricResult.skipped("no test scan is of another site than the reference site")
    scans, weights, sites = ours.participants.iloc[rows], weights[:, rows], sites[rows]
    values = _errors(error, ours, truth, rows)
    replicates = weighted_mean(values, weights)
    floors = {}
    if ORACLE in inputs:
        floors["rescan"] = float(_errors(error, inputs.cohort(ORACLE), truth, rows).mean())
    return MetricResult(
        overall=_estimate(values, replicates, scans),
        groups={
            str(site): _estimate(
                values[sites == site],
                weighted_mean(values[sites == site], weights[:, sites == site]),
                scans[sites == site],
            )
            for site in np.unique(sites)
        },
        target=floors.get("rescan", float("nan")),
        floors=floors,
        replicates=replicates,
        per_scan=_table(scans, column, values),
    )


def _errors(error: PerScan, ours: Cohort, truth: Cohort, rows: NDArray[np.intp]) -> Floats:
    """Return the error of each of some rows; some eight copies of a block of images at a time."""
    found = []
    for part in blocks(len(rows), 16 * image_bytes(ours.images)):
        images = (take(array, rows[part]) for array in (ours.images, truth.images, truth.mask))
        found.append(error(*images))
    return np.concatenate(found)


def _estimate(values: Floats, replicates: Floats, scans: pd.DataFrame) -> Estimate:
    n = scans["participant_id"].nunique()
    ends = percentile_interval(replicates, df=n - scans["site"].nunique())
    return Estimate(float(values.mean()), *ends, n)


def _table(scans: pd.DataFrame, column: str, values: Floats) -> pd.DataFrame:
    names = [IDENTIFIERS[0], "site", *IDENTIFIERS[1:]]
    return scans[names].assign(**{column: values}).reset_index(drop=True)


_WANTS = ("truth.test", TRAVELLING, ORACLE)
_ORDER = (("oracle",), ("shuffle", "mean-image"))


@metric(
    label="Error to truth",
    axis="truth",
    level="core",
    direction="lower",
    range=(0.0, None),
    needs=("harmonized.test",),
    wants=_WANTS,
    expected_order=_ORDER,
)
def truth_mae(inputs: MetricInputs, rng: np.random.Generator) -> MetricResult:
    """Mean absolute error, in the brain, to an independent rescan at the reference site.

    In units of the image range; the mean over the scans of all other sites. The target is the
    rescan floor.
    """
    return _against_rescan(inputs, masked_mae, "mae", rng)


@metric(
    label="Error to clean truth",
    axis="truth",
    level="core",
    direction="lower",
    goal=0.0,
    range=(0.0, None),
    needs=("truth.test.clean", "harmonized.test"),
    wants=(ORACLE,),
    expected_order=_ORDER,
)
def truth_mae_clean(inputs: MetricInputs, rng: np.random.Generator) -> MetricResult:
    """Mean absolute error, in the brain, to the noise-free truth at the reference site.

    Denoising alone lowers it.
    """
    return _against_truth(inputs, "truth.test.clean", masked_mae, "mae_clean", rng)


@metric(
    label="PSNR to truth",
    axis="truth",
    level="core",
    direction="higher",
    unit="dB",
    range=(None, 100.0),
    needs=("harmonized.test",),
    wants=_WANTS,
    expected_order=_ORDER,
)
def truth_psnr(inputs: MetricInputs, rng: np.random.Generator) -> MetricResult:
    """Peak signal-to-noise ratio, in the brain, to an independent rescan; mean over scans."""
    return _against_rescan(inputs, masked_psnr, "psnr", rng)


@metric(
    label="SSIM to truth",
    axis="truth",
    level="core",
    direction="higher",
    range=(-1.0, 1.0),
    needs=("harmonized.test",),
    wants=_WANTS,
    expected_order=_ORDER,
    doi="10.1109/TIP.2003.819861",
)
def truth_ssim(inputs: MetricInputs, rng: np.random.Generator) -> MetricResult:
    """Structural similarity, in the brain, to an independent rescan; mean over scans."""
    return _against_rescan(inputs, masked_ssim, "ssim", rng)
