"""The data sheet: what a data set holds, site by site, and all that is wrong with it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from harmbench.contracts.cohort import Cohort
from harmbench.contracts.dataset import Dataset, Note, by_kind
from harmbench.contracts.visits import REPEAT_WITHIN, late_repeats
from harmbench.data.bids_images import ImageFacts
from harmbench.data.confounding import Confounding, confounding, eta_squared
from harmbench.data.problems import Problem, ScanName, some
from harmbench.data.splits import PARTS, Split, make_split
from harmbench.data.survey import Survey, Surveyed
from harmbench.errors import HarmbenchError
from harmbench.progress import Progress

THUMBNAILS = 6
"""Images shown of each site."""
HEIGHTS_APART = 5.0
"""Millimeters from which the mean heights of two sites' slices are noted."""
MIXED = 0.1
"""Share of a site's volumes from which a grid of their own is noted."""
ODD_DEVIATIONS = 6.0
"""Robust standard deviations from which a scan is unlike the others."""


@dataclass(frozen=True)
class DataSheet:
    """What a data set holds.

    Attributes
    ----------
    label : str
        Its name.
    problems : list of Problem
        All that keeps a run from starting.
    notes, read, set_aside : list of str
        What is worth knowing, what was read, and what was set aside and why.
    facts : list of (str, str)
        Of the whole cohort.
    sites, images, files : DataFrame
        One row a site: people, prepared images, and files as they are stored (empty without).
    confounding : list of Confounding
        How age and sex go together with site.
    contrast : float
        Share of the variance of mean foreground intensity that site explains.
    split : Split or None
        How a run would divide the subjects.
    thumbnails : mapping of str to list of (str, ndarray)
        By site, some prepared images with their scans' names, spread over the ages.
    """

    label: str
    problems: list[Problem]
    notes: list[str] = field(default_factory=list)
    read: list[str] = field(default_factory=list)
    set_aside: list[str] = field(default_factory=list)
    facts: list[tuple[str, str]] = field(default_factory=list)
    sites: pd.DataFrame = field(default_factory=pd.DataFrame)
    images: pd.DataFrame = field(default_factory=pd.DataFrame)
    files: pd.DataFrame = field(default_factory=pd.DataFrame)
    confounding: list[Confounding] = field(default_factory=list)
    contrast: float = float("nan")
    split: Split | None = None
    thumbnails: Mapping[str, list[tuple[str, NDArray[np.float32]]]] = field(default_factory=dict)

    @property
    def test_scans(self) -> int:
        """Scans that a run would score: the test part, or the smaller half in cross-fitting."""
        if self.split is None:
            return 0
        counts = Counter(self.split.part.tolist())
        return min(counts["A"], counts["B"]) if self.split.cross_fitting else counts["test"]


def survey(dataset: Dataset, progress: Progress | None = None) -> Survey:
    """Read a data set of any kind as far as possible, and gather all that is wrong.

    Data sets without a method `survey` say the first problem only.
    """
    if isinstance(dataset, Surveyed):
        return dataset.survey(progress)
    try:
        cohort = dataset.load(progress)
    except HarmbenchError as error:
        return Survey(None, [], [Problem(dataset.info.label, str(error))], [])
    return Survey(cohort, [], [], list(dataset.notes))


def make_sheet(dataset: Dataset, data_seed: int = 0, progress: Progress | None = None) -> DataSheet:
    """Read a data set and describe it.

    Parameters
    ----------
    dataset : Dataset
    data_seed : int
        Of the split.
    progress : Progress or None
    """
    found = survey(dataset, progress)
    try:
        label = dataset.info.label
    except HarmbenchError as error:
        found.problems.append(Problem("dataset_description.json", str(error)))
        label = "data"
    if found.cohort is None:
        return DataSheet(label, found.problems, *by_kind(found.notes))
    cohort = found.cohort
    split, notes, problems = None, list(found.notes), list(found.problems)
    if not any(problem.scan is None for problem in problems):
        try:
            split = make_split(cohort, data_seed)
        except HarmbenchError as error:
            problems.append(Problem(label, str(error)))
    said = _odd_scans(cohort) + _same_images(cohort) + _late_repeats(cohort)
    heights, apart = _heights(dataset, cohort)
    notes += map(Note, apart + said + _mixed_grids(found.facts, cohort.participants))
    if split is not None and split.reason:
        notes.append(Note(f"two-fold cross-fitting: {split.reason}"))
    table = cohort.participants
    images = image_statistics(cohort)
    return DataSheet(
        label,
        problems,
        *by_kind(notes),
        facts=_facts(cohort, split) + heights,
        sites=site_table(table),
        images=images.groupby("site").agg(["mean", "std"]),
        files=_file_table(found.facts, table),
        confounding=confounding(table),
        contrast=eta_squared(images["Intensity"], images["site"]),
        split=split,
        thumbnails={} if cohort.space == "table" else _thumbnails(cohort),
    )


def _facts(cohort: Cohort, split: Split | None) -> list[tuple[str, str]]:
    table = cohort.participants
    at_sites = table.drop_duplicates(["participant_id", "site"])
    people = table["participant_id"].nunique()
    counts = Counter(split.part.tolist()) if split else Counter()
    parts = [part for part in (*PARTS, "A", "B") if counts[part]]
    return [
        ("Subjects", str(people)),
        ("Scans", str(len(table.drop_duplicates(["participant_id", "site", "session_id"])))),
        ("Rows", f"{len(table)} of {cohort.shape[0]} features")
        if cohort.space == "table"
        else ("Images", f"{len(table)} of {' x '.join(map(str, cohort.shape))} pixels"),
        ("Sites", str(len(cohort.sites))),
        ("Scanned at several sites", str(len(at_sites) - people)),
        ("Images by part", ", ".join(f"{p} {counts[p]}" for p in parts) or "no split"),
    ]


def site_table(table: pd.DataFrame) -> pd.DataFrame:
    """Return one row a site, and one for all: subjects, scans, ages in years, share of women."""
    scans = table.drop_duplicates(["participant_id", "site", "session_id"])
    groups = [(str(site), rows) for site, rows in scans.groupby("site")] + [("all", scans)]
    return pd.DataFrame([{"Site": site} | _people(rows) for site, rows in groups])


def _people(scans: pd.DataFrame) -> dict[str, str]:
    subjects = scans.drop_duplicates(["participant_id"])
    ages, sexes = subjects["age"].dropna(), subjects["sex"].dropna()
    known = len(ages) > 0
    return {
        "Subjects": str(len(subjects)),
        "Scans": str(len(scans)),
        "Age": f"{ages.mean():.1f} ± {ages.std(ddof=0):.1f}" if known else "unknown",
        "Range": f"{ages.min():.0f} to {ages.max():.0f}" if known else "",
        "No age": str(len(subjects) - len(ages)),
        "Female": f"{(sexes == 'F').mean():.0%}" if len(sexes) else "unknown",
        "No sex": str(len(subjects) - len(sexes)),
    }


def image_statistics(cohort: Cohort) -> pd.DataFrame:
    """Return statistics of the prepared images, one row each.

    Returns
    -------
    DataFrame
        ``site``; ``Intensity``: mean in the foreground; ``Contrast``: standard deviation there,
        over the mean; ``Sharpness``: mean gradient between neighboring foreground pixels, over the
        mean; ``Foreground``: its share of the grid, in percent. Of a table ``Intensity`` alone.
    """
    rows = []
    for image, mask in zip(cohort.images, cohort.mask, strict=True):
        inside = image[mask].astype(np.float64)
        mean = float(inside.mean()) if inside.size else float("nan")
        steps = [
            np.abs(np.diff(image, axis=axis))[
                np.logical_and(*(np.take(mask, r, axis) for r in _neighbors(mask.shape[axis])))
            ]
            for axis in range(image.ndim)
        ]
        gradient = float(np.concatenate(steps).mean()) if any(s.size for s in steps) else np.nan
        rows.append(
            {
                "Intensity": mean,
                "Contrast": float(inside.std()) / mean if mean else np.nan,
                "Sharpness": gradient / mean if mean else np.nan,
                "Foreground": 100.0 * float(mask.mean()),
            }
        )
    table = pd.DataFrame(rows)
    table.insert(0, "site", cohort.column("site").astype(str))
    # The other columns are of neighbors in space, which features of a table are not.
    return table[["site", "Intensity"]] if cohort.space == "table" else table


def _neighbors(side: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    return np.arange(side - 1), np.arange(1, side)


def _file_table(facts: list[tuple[ScanName, ImageFacts]], table: pd.DataFrame) -> pd.DataFrame:
    """Return one row a site: what its files hold, counted where they differ."""
    if not facts:
        return pd.DataFrame()
    scans = table.drop_duplicates(["participant_id", "session_id"])
    homes = {(row.participant_id, row.session_id): row.site for row in scans.itertuples()}
    held = pd.DataFrame([{"site": homes[name], **fact._asdict()} for name, fact in facts])
    rows = []
    for site, mine in held.groupby("site"):
        row = {"Site": str(site), "Files": str(len(mine))}
        for name, kind in (
            ("Shape", "shape"), ("Voxel (mm)", "spacing"), ("Axes", "orientation"),
            ("Type", "dtype"),
        ):  # fmt: skip
            counts = mine[kind].value_counts()
            row[name] = some(
                (
                    f"{value} ({n})" if len(counts) > 1 else str(value)
                    for value, n in counts.items()
                ),
                3,
            )
        row["Least"] = f"{mine['low'].min():.4g}"
        row["Largest"] = f"{mine['high'].min():.4g} to {mine['high'].max():.4g}"
        rows.append(row)
    return pd.DataFrame(rows)


def _thumbnails(cohort: Cohort) -> dict[str, list[tuple[str, NDArray[np.float32]]]]:
    table = cohort.participants
    middle = table["slice"].max() // 2
    shown = {}
    for site in cohort.sites:
        mine = table[(table["site"] == site) & (table["slice"] == middle)]
        mine = mine.sort_values("age", kind="stable", na_position="last")
        picked = np.unique(np.linspace(0, len(mine) - 1, THUMBNAILS).round().astype(int))
        rows = [int(row) for row in mine.index[picked]]
        shown[site] = [(_title(table.loc[row]), cohort.images[row]) for row in rows]
    return shown


def _title(row: pd.Series) -> str:
    age = "" if pd.isna(row["age"]) else f"{row['age']:.0f}"
    sex = row["sex"] if isinstance(row["sex"], str) else ""
    name = " ".join(filter(None, (str(row["participant_id"]), str(row["session_id"]))))
    about = " ".join(filter(None, (age, sex)))
    return f"{name} ({about})" if about else name


def _mixed_grids(facts: list[tuple[ScanName, ImageFacts]], table: pd.DataFrame) -> list[str]:
    """Note sites whose volumes lie on different grids, as native and registered images do."""
    homes = {(row.participant_id, row.session_id): row.site for row in table.itertuples()}
    grids: dict[str, Counter[str]] = {}
    for name, fact in facts:
        if name in homes and fact.shape.count("x") == 2:
            text = f"{fact.shape} voxels of {fact.spacing} mm"
            grids.setdefault(str(homes[name]), Counter())[text] += 1
    notes = []
    for site, counts in sorted(grids.items()):
        often = [(n, text) for text, n in counts.most_common() if n >= MIXED * counts.total()]
        if len(often) > 1:
            listed = some((f"{n} of {text}" for n, text in often), 3)
            notes.append(
                f"site {site} holds volumes on different grids ({listed}): look whether some of "
                "them are registered to a template and others not"
            )
    return notes


def _late_repeats(cohort: Cohort) -> list[str]:
    """Note people whose scans at several sites lie too far apart to be scans of the same brain."""
    people, late = late_repeats(cohort.participants)
    if not late:
        return []
    return [
        f"{late} of {people} people scanned at several sites came back after more than "
        f"{REPEAT_WITHIN} days (by acq_time, else by age); their second scan is not taken for the "
        "truth of the first (--repeat-within DAYS)"
    ]


def _heights(dataset: Dataset, cohort: Cohort) -> tuple[list[tuple[str, str]], list[str]]:
    """Say at which heights the middle slices lie, site by site, in the headers' coordinates.

    Returns
    -------
    facts, notes
        A note where sites differ, which is no fault where each scanner has its own coordinates.
    """
    affines = dataset.geometry(cohort.keys) if cohort.space == "slice" else None
    if affines is None:
        return [], []
    middle = [(side - 1) / 2 for side in cohort.shape]
    heights = affines[:, 2, :2] @ middle + affines[:, 2, 3]
    table = cohort.participants
    shown = table["slice"] == table["slice"].max() // 2
    by_site = pd.Series(heights)[shown.to_numpy()].groupby(table["site"][shown].to_numpy())
    said = some([f"{site} {z.mean():.0f} ± {z.std(ddof=0):.0f}" for site, z in by_site], 8)
    means = by_site.mean()
    notes = []
    if means.max() - means.min() > HEIGHTS_APART:
        notes.append(
            f"slices of different sites lie at different heights of their headers (mm: {said}); "
            "where all volumes lie in one space, give --slice-z"
        )
    return [("Slice heights (mm)", said)], notes


def _odd_scans(cohort: Cohort) -> list[str]:
    """Note scans unlike their site's mean image: upside down, another plane, another contrast."""
    odd = []
    table = cohort.participants
    for _, mine in table.groupby(["site", "slice"]):
        images = cohort.images[mine.index].reshape(len(mine), -1).astype(np.float64)
        if len(mine) < 8:
            continue
        mean = images.mean(axis=0)
        alike = np.array([_correlation(image, mean) for image in images])
        spread = 1.4826 * np.median(np.abs(alike - np.median(alike)))
        low = alike < np.median(alike) - np.maximum(ODD_DEVIATIONS * spread, 0.05)
        odd += [_name(table.loc[row]) for row in mine.index[low]]
    if not odd:
        return []
    return [f"look at {some(dict.fromkeys(odd), 10)}: unlike the other images of the same site"]


def _correlation(one: NDArray[np.float64], two: NDArray[np.float64]) -> float:
    if np.ptp(one) == 0 or np.ptp(two) == 0:
        return 0.0
    return float(np.corrcoef(one, two)[0, 1])


def _same_images(cohort: Cohort) -> list[str]:
    """Note images that are equal pixel by pixel although their scans are not the same."""
    seen: dict[bytes, str] = {}
    notes = []
    for row, image in enumerate(cohort.images):
        name = _name(cohort.participants.iloc[row])
        first = seen.setdefault(image.tobytes(), name)
        if first != name:
            notes.append(f"{first} and {name}")
    if not notes:
        return []
    return [f"equal images under different names: {some(notes, 10)}; one copy may be mislabeled"]


def _name(row: pd.Series) -> str:
    return " ".join(filter(None, (str(row["participant_id"]), str(row["session_id"]))))
