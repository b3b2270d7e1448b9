"""The data sheet: the content of a data set, site by site, and all of its problems."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from harmbench.contracts.cohort import Cohort
from harmbench.contracts.dataset import Dataset, Note, by_kind
from harmbench.data.confounding import Confounding, confounding, eta_squared
from harmbench.data.nifti import ImageFacts
from harmbench.data.problems import Problem, ScanName, some
from harmbench.data.sheet_notes import (
    equal_images,
    mixed_grids,
    odd_scans,
    repeats,
    scan_name,
    slice_heights,
)
from harmbench.data.splits import LEFT_OUT, PARTS, Split, make_split
from harmbench.data.survey import make_survey
from harmbench.errors import HarmbenchError
from harmbench.progress import Progress

THUMBNAILS = 6
"""Number of images shown per site."""


@dataclass(frozen=True)
class DataSheet:
    """The content and the problems of a data set.

    The tables have one row per site: `sites` is about people, `images` about prepared images, and
    `files` about the files (empty without files). `contrast` is the share of the variance of mean
    foreground intensity that site explains. `thumbnails` are some prepared images of each site with
    the names of their scans, in order of age.
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
        """Number of scored scans: those of the test part, or all in cross-fitting."""
        return 0 if self.split is None else int(self.split.scored().test.sum())


def make_sheet(dataset: Dataset, data_seed: int = 0, progress: Progress | None = None) -> DataSheet:
    """Read a data set and describe it; `data_seed` is the seed of the split."""
    found = make_survey(dataset, progress)
    try:
        label = dataset.info.label
    except HarmbenchError as error:
        found.problems.append(Problem("dataset_description.json", str(error)))
        label = "data"
    if found.cohort is None:
        return DataSheet(label, found.problems, *by_kind(found.notes))
    cohort, table = found.cohort, found.cohort.participants
    split, problems = None, list(found.problems)
    if not any(problem.scan is None for problem in problems):
        try:
            split = make_split(cohort, data_seed)
        except HarmbenchError as error:
            problems.append(Problem(label, str(error)))
    heights, notes = slice_heights(dataset, cohort)
    notes += odd_scans(cohort) + equal_images(cohort) + repeats(cohort)
    notes += mixed_grids(found.facts, cohort)
    if split is not None and split.reason:
        notes.append(split.sentence)
    images = image_statistics(cohort)
    return DataSheet(
        label,
        problems,
        *by_kind([*found.notes, *map(Note, notes)]),
        facts=_facts(cohort, split) + ([("Slice heights (mm)", heights)] if heights else []),
        sites=site_table(table),
        images=images.groupby("site").agg(["mean", "std"]),
        files=_file_table(found.facts, cohort),
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
    known = (*PARTS, *split.folds, LEFT_OUT) if split else ()
    parts = [part for part in known if counts[part]]
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
    """Return one row per site and one for all: subjects, scans, ages in years, share of women."""
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
    """Return statistics of the prepared images, one row per image.

    Returns
    -------
    DataFrame
        ``site``; ``Intensity``: mean of the foreground; ``Contrast``: standard deviation of the
        foreground, divided by the mean; ``Sharpness``: mean gradient between neighboring foreground
        pixels, divided by the mean; ``Foreground``: percent of the grid. A table of features has
        only ``Intensity``.
    """
    rows = []
    for image, mask in zip(cohort.images, cohort.mask, strict=True):
        inside = image[mask].astype(np.float64)
        mean = float(inside.mean()) if inside.size else np.nan
        steps = []
        for axis in range(image.ndim):
            masks = np.moveaxis(mask, axis, 0)
            pairs = np.moveaxis(masks[:-1] & masks[1:], 0, axis)
            steps.append(np.abs(np.diff(image, axis=axis))[pairs])
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
    # The other statistics use neighbors in space, which features do not have.
    return table[["site", "Intensity"]] if cohort.space == "table" else table


def _file_table(facts: list[tuple[ScanName, ImageFacts]], cohort: Cohort) -> pd.DataFrame:
    """Return one row per site: the content of its files, with counts if they differ."""
    if not facts:
        return pd.DataFrame()
    sites = {(key.participant_id, key.session_id): key.site for key in cohort.keys}
    held = pd.DataFrame([{"site": sites[scan], **fact._asdict()} for scan, fact in facts])
    columns = {
        "Shape": "shape", "Voxel (mm)": "spacing", "Axes": "orientation", "Type": "dtype"
    }  # fmt: skip
    rows = []
    for site, own in held.groupby("site"):
        row = {"Site": str(site), "Files": str(len(own))}
        for name, kind in columns.items():
            counts = own[kind].value_counts()
            values = (f"{v} ({n})" if len(counts) > 1 else str(v) for v, n in counts.items())
            row[name] = some(values, 3)
        row["Least"] = f"{own['low'].min():.4g}"
        row["Largest"] = f"{own['high'].min():.4g} to {own['high'].max():.4g}"
        rows.append(row)
    return pd.DataFrame(rows)


def _thumbnails(cohort: Cohort) -> dict[str, list[tuple[str, NDArray[np.float32]]]]:
    table = cohort.participants
    middle = table["slice"].max() // 2
    shown = {}
    for site in cohort.sites:
        own = table[(table["site"] == site) & (table["slice"] == middle)]
        own = own.sort_values("age", kind="stable", na_position="last")
        picked = np.unique(np.linspace(0, len(own) - 1, THUMBNAILS).round().astype(int))
        rows = [int(row) for row in own.index[picked]]
        shown[site] = [(_title(table.loc[row]), cohort.images[row]) for row in rows]
    return shown


def _title(row: pd.Series) -> str:
    age = "" if pd.isna(row["age"]) else f"{row['age']:.0f}"
    sex = row["sex"] if isinstance(row["sex"], str) else ""
    about = " ".join(filter(None, (age, sex)))
    return f"{scan_name(row)} ({about})" if about else scan_name(row)
