"""A whole cohort harmonized by one method, as a run would, and written as NIfTI derivatives."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harmbench.config import RunConfig, build_dataset
from harmbench.data.bids_write import refuse_taken
from harmbench.engine.cells import CellWork, StageFailedError
from harmbench.engine.keys import Cell
from harmbench.engine.layout import Layout, prepare, store
from harmbench.engine.log import timed
from harmbench.engine.nodes import Node, Outcome, make
from harmbench.errors import HarmbenchError, reason, unknown
from harmbench.exchange.folder import HARMONIZE, Material, affines_of
from harmbench.progress import Progress
from harmbench.results.folder import RunFolder

PARTS = ("fit", "probe", "test")


def harmonize(
    config: RunConfig, out: Path, progress: Progress | None = None, *, target: str | None = None
) -> Material:
    """Harmonize every scan with one method, fitted as a run fits it with method seed 0.

    If the data are cross-fitted, every image is harmonized by a fit that has not seen its subject.

    Parameters
    ----------
    config : RunConfig
        Its data, the one method, weights, reference site, threads and device are read.
    out : Path
        Missing or empty; it appears complete or not at all. What a stopped call has done stays
        beside it, in ``.<name>.unfinished``, and the same call goes on from there.
    progress : Progress or None
        Where to show how far it is.
    target : str or None
        The site to harmonize to; None for the reference site, the only one that many methods know.

    Returns
    -------
    Material
        What was written.

    Raises
    ------
    HarmbenchError
        Where the data, the method or the weights cannot be used, the method fails, or `out` holds
        something.
    """
    progress = progress or Progress()
    refuse_taken(out)
    dataset = build_dataset(config)
    folder = RunFolder(out.with_name(f".{out.name}.unfinished"))
    with folder.lock(), folder.tidied():
        layout = _only(prepare(folder, config, dataset, progress), config.methods[0].title)
        target = _checked(layout, target)
        store(layout)
        for line in layout.announcements():
            progress.message(line)
        images = _images(layout, target, progress)
        cohort = layout.experiment.cohort.with_images(images)
        site = layout.experiment.keys.reference_site
        material = Material(config, dataset, cohort, layout.split, site)
        record = _record(layout, target or site)
        page = _page(layout, target or site)
        material.write(out, "harmonized", (HARMONIZE, record), page, progress)
    shutil.rmtree(folder.root)
    return material


def _only(layout: Layout, title: str) -> Layout:
    """Return the layout with the cells of one method and seed 0."""
    cells = [cell for cell in layout.cells if cell.spec.title == title and cell.seed == 0]
    if not cells:
        raise HarmbenchError(f"{title} needs a ground truth, which these data do not have")
    return replace(layout, cells=cells)


def _checked(layout: Layout, target: str | None) -> str | None:
    """Return the target, None where it is the reference; refuse before anything is trained."""
    experiment, info = layout.experiment, layout.cells[0].info
    affines_of(experiment.dataset, experiment.cohort.subset([0]))
    site = experiment.keys.reference_site
    if target is not None and target not in experiment.cohort.sites:
        raise unknown("site", target, experiment.cohort.sites)
    if target not in (None, site) and info.targets != "any":
        raise HarmbenchError(
            f"--target {target}: {info.label} harmonizes only to the reference site that it is "
            f"fitted with, {site}; give --reference-site {target}"
        )
    for cell in layout.cells:
        if reason := experiment.work(cell).skip:
            raise HarmbenchError(f"{cell.spec.title} cannot be used on these data: it {reason}")
    return None if target == site else target


def _images(layout: Layout, target: str | None, progress: Progress) -> NDArray[np.float32]:
    experiment = layout.experiment
    images = np.empty(experiment.cohort.images.shape, dtype=np.float32)
    pieces = [(cell, part) for cell in layout.fitted for part in _parts(cell)]
    images[~layout.split.used] = experiment.cohort.images[~layout.split.used]
    with progress.task("harmonizing", len(images)) as task:
        for cell, part in pieces:
            rows = getattr(experiment.folds[cell.fold], part)
            if rows.any():
                images[rows] = _render(experiment.work(cell), part, target)
            task.advance(int(rows.sum()), note=part)
    return images


def _parts(cell: Cell) -> tuple[str, ...]:
    return ("test",) if cell.fold else PARTS


def _render(work: CellWork, part: str, target: str | None) -> NDArray[np.float32]:
    title = work.cell.spec.title
    node = Node(work.fit_stage, "fit", "fit", work.cell)
    outcome = make(work, node, {})
    try:
        if outcome.status == "done":
            work.method  # loaded before the clock of harmonizing starts  # noqa: B018
            with timed(work.log, f"harmonized.{part}", work.experiment.keys.config.threads):
                return work.render(work.experiment.raw(work.cell.fold, part), target)
    except StageFailedError as error:
        outcome = Outcome("failed", str(error))
    except (Exception, SystemExit) as error:
        work.log.exception("harmonizing failed")
        outcome = Outcome("failed", reason(error))
    raise HarmbenchError(f"{title} failed: {outcome.reason}; its log is in {work.folder}")


def _record(layout: Layout, target: str) -> dict[str, Any]:
    cell = layout.cells[0]
    marks = [layout.experiment.work(one).fit_stage.mark or {} for one in layout.fitted]
    return {
        "method": cell.info.name,
        "label": cell.spec.title,
        "params": cell.spec.params,
        "method_seed": cell.seed,
        "weights": [mark.get("weights") for mark in marks],
        "target": target,
    }


def _page(layout: Layout, target: str) -> str:
    """Return what the images are, and how those of the fit part are to be treated."""
    title, label = layout.cells[0].spec.title, layout.experiment.dataset.info.label
    if layout.split.cross_fitting:
        parts = (
            "Every fold (a number in the column `part` of `split.tsv`) was harmonized by a method "
            "that was fitted without it. The fits may differ a little; use `part` as a covariate "
            "if this could matter. Images whose part is `out` are not harmonized: their sites are "
            "too small."
        )
    else:
        parts = (
            "The images whose `part` in `split.tsv` is `fit` are those that the method was fitted "
            "on. A method harmonizes images that it has seen better than others, so how well it "
            "does is to be judged on `probe` and `test` alone; analyses that pool all images "
            "should check that `part` makes no difference."
        )
    return f"""# {label}, harmonized by {title}

Every scan as if it had been made at the site **{target}**, on the grid of the preprocessed slices
(one file a slice, float32, affine in mm); `harmonize.json` says how it was made.

{parts}

Score them: `harmbench evaluate --data ... --harmonized FOLDER --name NAME`.
For research, not for diagnosis.
"""
