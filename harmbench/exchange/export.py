"""The data of a run for a program outside: preprocessed slices, the split, and what to do."""

from __future__ import annotations

import shutil
from pathlib import Path

from harmbench.config import RunConfig, build_dataset, require_unchanged
from harmbench.data.bids_write import refuse_taken
from harmbench.data.cache import load_cohort
from harmbench.data.splits import Split, make_split
from harmbench.engine.layout import reference_site
from harmbench.errors import HarmbenchError
from harmbench.exchange.folder import EXPORT, Material
from harmbench.progress import Progress


def export(config: RunConfig, out: Path, progress: Progress | None = None) -> Material:
    """Write the slices that methods see in a run, and how the run divides them.

    Parameters
    ----------
    config : RunConfig
        Its data, preset, data seed and reference site are read.
    out : Path
        Missing or empty; it appears complete or not at all.
    progress : Progress or None
        Where to show how far it is.

    Returns
    -------
    Material
        What was written.

    Raises
    ------
    HarmbenchError
        Where the data cannot be used or are not slices, or `out` holds something.
    """
    progress = progress or Progress()
    refuse_taken(out)
    dataset = build_dataset(config)
    before = dataset.fingerprint
    cohort = load_cohort(dataset, progress)
    split = make_split(cohort, config.data_seed, folds=config.folds)
    site = reference_site(config, dataset, cohort)
    material = Material(config, dataset, cohort, split, site)
    page = _page(dataset.info.label, split, site)
    material.write(out, "preproc", (EXPORT, {}), page, progress)
    try:
        require_unchanged(config, before)
    except HarmbenchError:
        shutil.rmtree(out)
        raise
    return material


def _page(label: str, split: Split, site: str) -> str:
    """Return what the program must do, in words."""
    if split.cross_fitting:
        fitting = (
            "These data are cross-fitted, because they are few. For each number k in the column "
            "`part`, fit a model on the rows of other numbers and harmonize the rows of k with it. "
            "Rows whose part is `out` are not used."
        )
    else:
        fitting = (
            "Fit on the rows whose `part` is `fit`, and on no others; then harmonize the rows of "
            "all parts."
        )
    return f"""# {label}, preprocessed for harmonization

Slices as the methods of harmbench see them, one file a slice, float32; `split.tsv` names each
file's scan and part. `participants.tsv` (and `*_sessions.tsv`) hold site, age and sex.

1. {fitting} Rows marked `validation` are for early stopping or the choice of settings.
2. Harmonize every image to the site **{site}**, images of that site too.
3. Write each image under its own name to another folder: float32 (or with a scale slope), the same
   grid and affine. Do not rescale, clip, crop or resample. `desc-harmonized` may stand in the name
   for `desc-preproc`. All of `fit` may be left out.
4. Then, with the options of the export:

       harmbench evaluate --data ... --harmonized FOLDER --name "my method"

A model may be told age and sex of the images it harmonizes, but whatever it learns, it learns from
the rows it is fitted on. For research, not for diagnosis.
"""
