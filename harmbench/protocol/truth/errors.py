"""Errors to the truth: images of the same subjects, scanned at the reference site.

Only the subjects of other sites count. The errors are computed in each scan's brain mask, from the
images as the method returned them, not clipped to [0, 1]. The main metrics use an independent noisy
rescan, because denoising alone reduces an error to the noise-free truth by a third. The floor is
the difference between two noisy rescans of a subject; no method can be expected to do better, only
a denoiser will.

Without simulated truth, the real scan of a travelling subject at the reference site replaces it.
Such scans must be registered, because voxels are compared.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
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
"""Product with each test scan's counterpart at the reference site; NaN if there is none."""
MIN_TRAVELLERS = 10
MIN_MSE = 1e-10
"""Lower limit of mean squared errors, so that equal images have 100 dB instead of infinity."""


def _mean_in_mask(values: NDArray, mask: NDArray) -> Floats:
    axes = tuple(range(1, values.ndim))
    return values.sum(axis=axes, where=mask, dtype=np.float64) / mask.sum(axis=axes)


def masked_mae(images: NDArray, truth: NDArray, mask: NDArray) -> Floats:
    """Return the mean absolute error in the mask, of arrays (n, *shape); shape (n,)."""
    return _mean_in_mask(np.abs(images - truth), mask)


def masked_psnr(images: NDArray, truth: NDArray, mask: NDArray) -> Floats:
    """Return the peak signal-to-noise ratio in the mask, dB, for a peak of 1; shape (n,)."""
    error = _mean_in_mask((images.astype(np.float64) - truth) ** 2, mask)
    return -10.0 * np.log10(np.maximum(error, MIN_MSE))


def masked_ssim(images: NDArray, truth: NDArray, mask: NDArray) -> Floats:
    """Return the mean structural similarity in the mask; shape (n,).

    Wang 2004 (10.1109/TIP.2003.819861) as in `skimage.metrics.structural_similarity`: data range
    1, uniform window of 7 pixels. Windows at the border of the mask extend beyond it.
    """
    maps = [
        structural_similarity(a, b, data_range=1.0, full=True)[1]
        for a, b in zip(images.astype(np.float64), truth.astype(np.float64), strict=True)
    ]
    return _mean_in_mask(np.array(maps), mask)


def scans_at_reference(
    cohort: Cohort, reference_site: str, within: float = REPEAT_WITHIN
) -> Cohort:
    """Return the same rows with each participant's scan at the reference site.

    The first scan at most `within` days apart is used, see `harmbench.contracts.visits.days_apart`.
    The image of a row without such a scan is NaN.
    """
    table = cohort.participants.assign(row=np.arange(len(cohort)))
    there = table[table["site"] == reference_site].sort_values("session_id", kind="stable")
    unit = ["participant_id", "slice"]
    pairs = table[[*unit, "row"]].merge(there[[*unit, "row"]], on=unit)
    near = days_apart(table.iloc[pairs["row_x"]], table.iloc[pairs["row_y"]]) <= within
    pairs = pairs[near].drop_duplicates("row_x")
    if pairs.empty:  # a broadcast NaN needs no memory
        nothing = np.broadcast_to(np.float32(np.nan), cohort.images.shape)
        return replace(cohort, images=nothing)
    images = np.full(cohort.images.shape, np.nan, dtype=np.float32)
    for row, partner in zip(pairs["row_x"], pairs["row_y"], strict=True):
        images[row] = cohort.images[partner]
    return replace(cohort, images=images)


def _against_rescan(
    inputs: MetricInputs, error: PerScan, column: str, rng: np.random.Generator
) -> MetricResult:
    """Compare with the simulated rescans, or with the real scans of travelling subjects."""
    test = inputs.cohort("harmonized.test")
    if error is not masked_mae and test.space == "table":
        return MetricResult.skipped("needs images; these data are a table of features")
    if "truth.test" in inputs:
        return _against_truth(inputs, "truth.test", error, column, rng)
    people = 0
    if TRAVELLING in inputs:
        away = test.column("site").astype(str) != inputs.reference_site
        known = all_finite(inputs.cohort(TRAVELLING).images)
        people = test.participants["participant_id"][known & away].nunique()
    if people < MIN_TRAVELLERS:
        return MetricResult.skipped(
            f"these data have no ground truth, and {people} test subjects were scanned at the "
            f"reference site and elsewhere; {MIN_TRAVELLERS} are needed"
        )
    result = _against_truth(inputs, TRAVELLING, error, column, rng)
    return replace(result, note=f"against real scans of {people} travelling subjects")


def _against_truth(
    inputs: MetricInputs, truth_name: str, error: PerScan, column: str, rng: np.random.Generator
) -> MetricResult:
    """Average a per-scan error over the scans of other sites; resample their subjects."""
    ours, truth = inputs.cohort("harmonized.test"), inputs.cohort(truth_name)
    sites = ours.column("site").astype(str)
    weights = subject_counts(ours.column("participant_id"), REPLICATES, rng, strata=sites)
    in_brain = truth.mask.any(axis=tuple(range(1, truth.mask.ndim)))
    away = sites != inputs.reference_site
    rows = np.flatnonzero(away & in_brain & all_finite(truth.images))
    if len(rows) == 0:
        return MetricResult.skipped("no test scan is of another site than the reference site")
    scans, weights, sites = ours.participants.iloc[rows], weights[:, rows], sites[rows]
    values = _errors(error, ours, truth, rows)

    def resampled(which: NDArray[np.bool_]) -> tuple[Estimate, Floats]:
        replicates = weighted_mean(values[which], weights[:, which])
        n = scans["participant_id"][which].nunique()
        interval = percentile_interval(replicates, df=n - len(np.unique(sites[which])))
        return Estimate(float(values[which].mean()), *interval, n), replicates

    overall, replicates = resampled(np.ones(len(rows), dtype=bool))
    floors = {}
    if ORACLE in inputs:
        floors["rescan"] = float(_errors(error, inputs.cohort(ORACLE), truth, rows).mean())
    names = [IDENTIFIERS[0], "site", *IDENTIFIERS[1:]]
    return MetricResult(
        overall=overall,
        groups={str(site): resampled(sites == site)[0] for site in np.unique(sites)},
        target=floors.get("rescan", float("nan")),
        floors=floors,
        replicates=replicates,
        per_scan=scans[names].assign(**{column: values}).reset_index(drop=True),
    )


def _errors(error: PerScan, ours: Cohort, truth: Cohort, rows: NDArray[np.intp]) -> Floats:
    """Return the error of some rows, in blocks with memory for about eight copies of the images."""
    found = []
    for part in blocks(len(rows), 16 * image_bytes(ours.images)):
        images = (take(array, rows[part]) for array in (ours.images, truth.images, truth.mask))
        found.append(error(*images))
    return np.concatenate(found)


_DECLARED = {
    "axis": "truth",
    "level": "core",
    "expected_order": (("oracle",), ("shuffle", "mean-image")),
}
_RESCAN = {
    **_DECLARED,
    "needs": ("harmonized.test",),
    "wants": ("truth.test", TRAVELLING, ORACLE),
}


@metric(label="Error to truth", direction="lower", range=(0.0, None), **_RESCAN)
def truth_mae(inputs: MetricInputs, rng: np.random.Generator) -> MetricResult:
    """Mean absolute error, in the brain, to an independent rescan at the reference site.

    In units of the image range; mean over the scans of all other sites. The target is the floor,
    the difference between two rescans.
    """
    return _against_rescan(inputs, masked_mae, "mae", rng)


@metric(
    label="Error to clean truth",
    direction="lower",
    goal=0.0,
    range=(0.0, None),
    needs=("truth.test.clean", "harmonized.test"),
    wants=(ORACLE,),
    **_DECLARED,
)
def truth_mae_clean(inputs: MetricInputs, rng: np.random.Generator) -> MetricResult:
    """Mean absolute error, in the brain, to the noise-free truth at the reference site.

    Denoising alone lowers it.
    """
    return _against_truth(inputs, "truth.test.clean", masked_mae, "mae_clean", rng)


@metric(label="PSNR to truth", direction="higher", unit="dB", range=(None, 100.0), **_RESCAN)
def truth_psnr(inputs: MetricInputs, rng: np.random.Generator) -> MetricResult:
    """Peak signal-to-noise ratio, in the brain, to an independent rescan; mean over scans."""
    return _against_rescan(inputs, masked_psnr, "psnr", rng)


@metric(
    label="SSIM to truth",
    direction="higher",
    range=(-1.0, 1.0),
    doi="10.1109/TIP.2003.819861",
    **_RESCAN,
)
def truth_ssim(inputs: MetricInputs, rng: np.random.Generator) -> MetricResult:
    """Structural similarity, in the brain, to an independent rescan; mean over scans."""
    return _against_rescan(inputs, masked_ssim, "ssim", rng)
