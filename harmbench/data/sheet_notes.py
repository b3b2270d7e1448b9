"""Notes of the data sheet about suspicious images: of one site, of one scan, of two scans."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pandas as pd

from harmbench.contracts.cohort import Cohort
from harmbench.contracts.dataset import Dataset
from harmbench.contracts.visits import REPEAT_WITHIN, late_repeats
from harmbench.data.nifti import ImageFacts
from harmbench.data.problems import ScanName, full_name, some

HEIGHTS_APART = 5.0
"""Smallest difference in mm between the mean slice heights of two sites that is noted."""
MIXED = 0.1
"""Smallest share of a site's volumes on a grid of their own that is noted."""
ODD_DEVIATIONS = 6.0
"""Number of robust standard deviations from which a scan is unlike the others."""
LEAST_IMAGES = 8
"""Smallest number of images of a site among which an unlike one is looked for."""


def mixed_grids(facts: list[tuple[ScanName, ImageFacts]], cohort: Cohort) -> list[str]:
    """Note sites with volumes on different grids, such as native and registered images."""
    sites = {(key.participant_id, key.session_id): key.site for key in cohort.keys}
    grids: dict[str, Counter[str]] = {}
    for scan, fact in facts:
        if scan in sites and fact.shape.count("x") == 2:
            grid = f"{fact.shape} voxels of {fact.spacing} mm"
            grids.setdefault(sites[scan], Counter())[grid] += 1
    notes = []
    for site, counts in sorted(grids.items()):
        often = [(n, grid) for grid, n in counts.most_common() if n >= MIXED * counts.total()]
        if len(often) > 1:
            listed = some((f"{n} of {grid}" for n, grid in often), 3)
            notes.append(
                f"site {site} holds volumes on different grids ({listed}): check whether some of "
                "them are registered to a template and others not"
            )
    return notes


def repeats(cohort: Cohort) -> list[str]:
    """Note people whose scans at several sites are too far apart to show the same brain."""
    people, late = late_repeats(cohort.participants)
    if not late:
        return []
    return [
        f"{late} of {people} people scanned at several sites came back after more than "
        f"{REPEAT_WITHIN} days (by acq_time, else by age); their second scan is not used as the "
        "truth of the first (--repeat-within DAYS)"
    ]


def slice_heights(dataset: Dataset, cohort: Cohort) -> tuple[str, list[str]]:
    """Return the heights of the middle slices by site, in mm, and a note if the sites differ.

    Different heights are correct if each scanner has its own coordinates. The text is ``""`` if
    the heights are not known.
    """
    affines = dataset.geometry(cohort.keys) if cohort.space == "slice" else None
    if affines is None:
        return "", []
    center = [(side - 1) / 2 for side in cohort.shape]
    heights = affines[:, 2, :2] @ center + affines[:, 2, 3]
    table = cohort.participants
    middle = (table["slice"] == table["slice"].max() // 2).to_numpy()
    by_site = pd.Series(heights)[middle].groupby(table["site"].to_numpy()[middle])
    text = some([f"{site} {z.mean():.0f} ± {z.std(ddof=0):.0f}" for site, z in by_site], 8)
    means = by_site.mean()
    if means.max() - means.min() <= HEIGHTS_APART:
        return text, []
    note = (
        f"slices of different sites have different heights in their headers (mm: {text}); "
        "if all volumes are in one space, give --slice-z"
    )
    return text, [note]


def odd_scans(cohort: Cohort) -> list[str]:
    """Note scans unlike their site's mean image: upside down, another plane, another contrast."""
    odd = []
    for _, rows in cohort.participants.groupby(["site", "slice"]):
        if len(rows) < LEAST_IMAGES:
            continue
        images = cohort.images[rows.index].reshape(len(rows), -1).astype(np.float64)
        mean = images.mean(axis=0)
        similarity = np.array([_correlation(image, mean) for image in images])
        median = np.median(similarity)
        spread = 1.4826 * np.median(np.abs(similarity - median))
        low = similarity < median - np.maximum(ODD_DEVIATIONS * spread, 0.05)
        odd += [scan_name(row) for _, row in rows[low].iterrows()]
    if not odd:
        return []
    return [f"look at {some(dict.fromkeys(odd), 10)}: unlike the other images of the same site"]


def _correlation(one: np.ndarray, other: np.ndarray) -> float:
    if np.ptp(one) == 0 or np.ptp(other) == 0:
        return 0.0
    return float(np.corrcoef(one, other)[0, 1])


def equal_images(cohort: Cohort) -> list[str]:
    """Note different scans with equal images."""
    seen: dict[bytes, str] = {}
    pairs = []
    for image, (_, row) in zip(cohort.images, cohort.participants.iterrows(), strict=True):
        name = scan_name(row)
        first = seen.setdefault(image.tobytes(), name)
        if first != name:
            pairs.append(f"{first} and {name}")
    if not pairs:
        return []
    return [f"equal images under different names: {some(pairs, 10)}; one copy may be mislabeled"]


def scan_name(row: pd.Series) -> str:
    """Return participant and session of a row of the participants table."""
    return full_name((str(row["participant_id"]), str(row["session_id"])))
