"""The pixels of the test images before and after, thinned for the embeddings."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from reports.drawing import NoFigure
from reports.pictures import Stack, true_images, without_identity
from reports.results import Results

Floats = NDArray[np.float64]

MAX_PIXELS = 4000
"""More pixels than these are thinned, since neighbors are alike."""
MAX_SCANS = 1500


class Scene(NamedTuple):
    """The pixels that the embeddings show.

    `base` (m, p) are the unharmonized images from which the axes are computed, and `words` says
    which ones. `panels` holds the test images (n, p) before, after each method, and in truth;
    `controls` names the panels of controls.
    """

    base: Floats
    base_sites: NDArray[np.str_]
    base_ages: Floats
    panels: dict[str, Floats]
    sites: NDArray[np.str_]
    ages: Floats
    controls: frozenset[str]
    words: str


def read_scene(results: Results) -> Scene:
    """Read the pixels of all panels.

    Raises
    ------
    NoFigure
        If no method returned images.
    """
    if not results.imaged:
        raise NoFigure("no method returned images")
    found, truth = without_identity(results), true_images(results)
    # A method that was skipped in one half of a small study has images of the other half only.
    held = [i for i in results.tested.tolist() if all(i in stack for stack in found.values())]
    if not held:
        raise NoFigure("no test image was harmonized by all methods")
    truth = truth if all(i in truth for i in held) else {}
    rows = _thinned(np.array(held), MAX_SCANS)
    cohort = results.folder.cohort()
    fitted = _thinned(np.flatnonzero(results.parts == "fit"), MAX_SCANS)
    words = "unharmonized images of the fit part"
    table = results.participants
    if len(np.unique(table["site"].to_numpy()[fitted])) < len(np.unique(table["site"])):
        fitted, words = rows, "the unharmonized test images"
    common = cohort.mask[rows].mean(0) > 0.5
    wanted = _thinned(np.flatnonzero(common.ravel()), MAX_PIXELS)
    stacks: dict[str, Stack] = {"before": cohort.images, **found, "truth": truth}  # type: ignore[dict-item]
    shown = {name: _pixels(stack, rows, wanted) for name, stack in stacks.items() if len(stack)}
    sites, ages = table["site"].to_numpy().astype(str), table["age"].to_numpy(dtype=float)
    return Scene(
        base=_pixels(cohort.images, fitted, wanted),  # type: ignore[arg-type]
        base_sites=sites[fitted],
        base_ages=ages[fitted],
        panels=shown,
        sites=sites[rows],
        ages=ages[rows],
        controls=frozenset(row.marked for row in results.rows if row.control),
        words=words,
    )


def _thinned(positions: NDArray[np.intp], most: int) -> NDArray[np.intp]:
    if len(positions) <= most:
        return positions
    # Drawn at random, since every second row may be of the same site.
    return np.sort(np.random.default_rng(0).choice(positions, most, replace=False))


def _pixels(stack: Stack, rows: NDArray[np.intp], wanted: NDArray[np.intp]) -> Floats:
    """Return the wanted pixels (n, p) of some images; NaN of a broken method counts as 0."""
    taken = np.stack([np.asarray(stack[i]).reshape(-1)[wanted] for i in rows.tolist()])
    return np.nan_to_num(taken.astype(float))
