"""The pixels of a run's test images before and after, thinned to what an embedding needs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from reports.drawing import NoFigure
from reports.results import Results

if TYPE_CHECKING:
    from reports.pictures import Stack

Floats = NDArray[np.float64]

MAX_PIXELS = 4000
"""More pixels than these are thinned evenly: neighbors say the same."""
MAX_SCANS = 1500


@dataclass(frozen=True)
class Scene:
    """What the embeddings are drawn from, as rows of pixels.

    Attributes
    ----------
    base : ndarray, shape (m, p)
        Unharmonized images that the axes are made from, with their sites and ages.
    panels : dict of str to ndarray, shape (n, p)
        The test images, before, after each method, and in truth, with their sites and ages.
    controls : frozenset of str
        The panels that are controls.
    words : str
        What `base` is.
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
        Where no method returned images.
    """
    found = {row.marked: stack for row in results.first_seeds if (stack := results.images(row))}
    # Unharmonized images have a panel anyway.
    found = {name: stack for name, stack in found.items() if name != "identity*"}
    if not found and not any(results.images(row) for row in results.first_seeds):
        raise NoFigure("no method returned images")
    truth = next((s for row in results.rows if (s := results.images(row, "truth.test"))), {})
    # A method that was skipped in one half of a small study has images of the other alone.
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
    # At random: every second row may be every second site.
    return np.sort(np.random.default_rng(0).choice(positions, most, replace=False))


def _pixels(stack: Stack, rows: NDArray[np.intp], wanted: NDArray[np.intp]) -> Floats:
    """Return the wanted pixels of some images, (n, p); NaN of a broken method counts as 0."""
    taken = np.stack([np.asarray(stack[i]).reshape(-1)[wanted] for i in rows.tolist()])
    return np.nan_to_num(taken.astype(float))
