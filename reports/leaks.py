"""Figures of what is written into images: the age a method is told, the population it aims at."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from reports.drawing import (
    Drawn,
    NoFigure,
    chunks,
    columns_of,
    numbered,
    panels,
    short,
    site_legend,
    site_looks,
)
from reports.results import Results, Row, Score
from reports.tables import number

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLUMNS = 5
PER_FIGURE = 10
LEAST_REACH = 12.0
"""Years that the upright axis reaches at least: a slope of 0.1 must not fill the panel."""

Floats = NDArray[np.float64]
Looks = dict[str, tuple[str, str]]

TOLD = (
    "Each test image was harmonized again five times, with the age of somebody else of its site in "
    "place of its own. Across, how many years the method was told too many; up, by how many years "
    "the age read from the image moved, divided by the probe's own slope. One thin line a site, "
    "a thick one for their mean with its 95 % interval: on the dashed diagonal the image shows "
    "what the method is told (1), on the level line it is not touched by it (0). Dots are images."
)
PULL = (
    "One dot a site. Across, by how many years the reference site's people are older; up, how much "
    "older this site's people look after harmonization than in truth, divided by the probe's own "
    "slope. The black line is the pull with its 95 % interval, drawn through the mean: level is "
    "right (0), along the dashed diagonal every site gets the reference site's age (1). The dots' "
    "scatter about the line shows what few sites can tell."
)


class Told(NamedTuple):
    """What one method did with wrong ages; years, calibrated.

    Attributes
    ----------
    lie, change : ndarray, shape (draws, n)
        What it was told less the true age; what the image then showed less than what it showed.
    sites : ndarray of str, shape (n,)
    """

    lie: Floats
    change: Floats
    sites: NDArray[np.str_]


def told_ages(results: Results) -> list[Drawn]:
    """Return the change of the apparent age against the change of the told age.

    Raises
    ------
    NoFigure
        Where this was not measured, or no method reacts to the age that it is told.
    """
    rows = [r for r in results.first_seeds if results.score(r, "leakage_age").ok]
    if not rows:
        raise NoFigure("no age was told wrongly (metric leakage_age)")
    found = [(row, told) for row in rows if (told := _told(results, row)) is not None]
    if not found:
        raise NoFigure("no method reacts to the age that it is told: 0 by construction")
    still = [row.title for row in rows if row not in [shown for shown, _ in found]]
    caption = TOLD + (f" Not told the age, so 0: {', '.join(still)}." if still else "")
    tops = [np.nanpercentile(np.abs(told.change), 99) for row, told in found if not row.control]
    reach = max(LEAST_REACH, 1.1 * float(np.max(tops or [0.0])))
    looks = site_looks(results)
    drawn = []
    for i, part in enumerate(chunks(found, PER_FIGURE)):
        figure, axes = panels(len(part), COLUMNS, (2.7, 2.9))
        for k, (panel, (row, told)) in enumerate(zip(axes, part, strict=True)):
            score = results.score(row, "leakage_age")
            _told_panel(panel, told, looks, dict(_slopes(results, row, told)), score)
            panel.set(ylim=(-reach, reach), xlabel="age told less true age (years)")
            panel.set_ylabel("" if k % columns_of(axes) else "apparent age moved by (years)")
            panel.set_title(_titled(row, score), loc="left")
        site_legend(figure, axes[0])
        drawn.append(Drawn(numbered("leakage-told", i), "Age told, age shown", caption, figure))
    return drawn


def _told(results: Results, row: Row) -> Told | None:
    """Return what a row's metric kept, all folds side by side; None where nothing moved."""
    kept = [a for a in results.arrays(row, "leakage_age") if "lie" in a and "change" in a]
    if not kept or not any(a["change"].any() for a in kept):
        return None
    lie, change = (np.concatenate([a[name] for a in kept], axis=1) for name in ("lie", "change"))
    sites = results.participants["site"].to_numpy().astype(str)[results.tested]
    if len(sites) != lie.shape[1] or len(kept) > 1:
        # The folds' images do not stand in the order of the cohort.
        sites = np.full(lie.shape[1], "")
    told = Told(lie, change, sites)
    scale = _calibration(results, row, told)
    return told._replace(change=change / scale)


def _calibration(results: Results, row: Row, told: Told) -> float:
    """Return what the metric divided by: its value times this is the slope of what it kept.

    The probe's own slope is not among the kept arrays, but every site's calibrated slope is in the
    tables, and its slope before calibration follows from the arrays.
    """
    pairs = [
        (_slope(told, told.sites == site), results.score(row, "leakage_age", site).value)
        for site in np.unique(told.sites)
    ]
    raw = sum(abs(a) for a, b in pairs if np.isfinite(b))
    calibrated = sum(abs(b) for _, b in pairs if np.isfinite(b))
    return raw / calibrated if raw > 0 and calibrated > 0 else 1.0


def _slope(told: Told, chosen: NDArray[np.bool_]) -> float:
    lie, change = told.lie[:, chosen], told.change[:, chosen]
    known = np.isfinite(lie) & np.isfinite(change)
    below = float((lie[known] ** 2).sum())
    return float((lie[known] * change[known]).sum()) / below if below > 0 else 0.0


def _slopes(results: Results, row: Row, told: Told) -> Iterator[tuple[str, float]]:
    for site in results.sites:
        score = results.score(row, "leakage_age", site)
        if score.ok and (told.lie[:, told.sites == site]).any():
            yield site, score.value


def _told_panel(
    panel: Axes, told: Told, looks: Looks, slopes: dict[str, float], score: Score
) -> None:
    top = float(np.nanmax(np.abs(told.lie)))
    _guides(panel, top)
    for site, (color, marker) in looks.items():
        mine = told.sites == site
        if mine.any():
            x, y = told.lie[:, mine].ravel(), told.change[:, mine].ravel()
            order = np.argsort(x)
            panel.plot(x[order], y[order], marker, ms=1.6, mew=0, alpha=0.3, color=color,
                       rasterized=True)  # fmt: skip
        if site in slopes:
            panel.plot([-top, top], [-top * slopes[site], top * slopes[site]], color=color,
                       lw=0.9, label=short(site))  # fmt: skip
    _line(panel, (-top, top), score, (0.0, 0.0))


def pulls(results: Results) -> list[Drawn]:
    """Return by how much each site's people age against how much older the reference's are.

    Raises
    ------
    NoFigure
        Where the pull was not measured.
    """
    held = [(r, results.score(r, "population_pull")) for r in results.first_seeds]
    found = [
        (row, score, arrays[0])
        for row, score in held
        if score.ok and (arrays := results.arrays(row, "population_pull"))
    ]
    found = [each for each in found if "distance" in each[2] and "calibration" in each[2]]
    if not found:
        raise NoFigure("no pull to the reference site's population was measured (population_pull)")
    ends = [np.abs(a["distance"]).max() for _, _, a in found]
    across = 1.15 * float(max(ends)) or 1.0
    # A control that pulls everybody sets no scale that hides what methods do.
    ups = [np.abs(_moved(a)).max() for row, _, a in found if not row.control] or [across]
    up = max(1.2 * float(max(ups)), 0.3 * across)
    looks = site_looks(results)
    drawn = []
    for i, part in enumerate(chunks(found, PER_FIGURE)):
        figure, axes = panels(len(part), COLUMNS, (2.1, 2.3))
        for k, (panel, (row, score, arrays)) in enumerate(zip(axes, part, strict=True)):
            _pull_panel(panel, results, arrays, looks, score)
            panel.set(xlim=(-across, across), ylim=(-up, up), xlabel="reference older by (years)")
            panel.set_ylabel("" if k % columns_of(axes) else "looks older by (years)")
            panel.set_title(_titled(row, score), loc="left")
        site_legend(figure, axes[0])
        title = "Pull towards the reference site's population"
        drawn.append(Drawn(numbered("leakage-pull", i), title, PULL, figure))
    return drawn


def _moved(arrays: dict[str, NDArray]) -> Floats:
    """Return each site's mean change of the apparent age, years, calibrated."""
    return np.asarray(arrays["change"], dtype=float) / float(arrays["calibration"])


def _pull_panel(
    panel: Axes, results: Results, arrays: dict[str, NDArray], looks: Looks, score: Score
) -> None:
    distance, moved = np.asarray(arrays["distance"], dtype=float), _moved(arrays)
    names = [str(site) for site in arrays["sites"]]
    counts = results.participants.iloc[results.tested]["site"].value_counts()
    weights = np.array([float(counts.get(name, 1)) for name in names])
    means = [float(np.average(values, weights=weights)) for values in (distance, moved)]
    reach = 2.0 * float(np.abs(distance).max())
    _guides(panel, reach)
    _line(panel, (-reach, reach), score, (means[0], means[1]))
    for name, x, y in zip(names, distance, moved, strict=True):
        color, marker = looks.get(name, ("0.5", "o"))
        panel.plot(x, y, marker, color=color, ms=5, mec="white", mew=0.5, ls="", label=short(name),
                   zorder=4)  # fmt: skip


def _guides(panel: Axes, reach: float) -> None:
    panel.plot([-reach, reach], [0, 0], color="0.75", lw=0.8, zorder=0)
    panel.plot([-reach, reach], [-reach, reach], color="0.6", lw=0.8, ls="--", zorder=0)


def _line(
    panel: Axes, ends: tuple[float, float], score: Score, through: tuple[float, float]
) -> None:
    """Draw a slope with its interval as a line in a fan, both through one point."""
    x = np.linspace(*ends, 3)
    x = np.sort(np.append(x, through[0]))
    at = {k: through[1] + k * (x - through[0]) for k in (score.low, score.value, score.high)}
    if np.isfinite(score.low) and np.isfinite(score.high):
        panel.fill_between(x, at[score.low], at[score.high], color="black", alpha=0.15, lw=0)
    panel.plot(x, at[score.value], color="black", lw=2.2, zorder=3)


def _titled(row: Row, score: Score) -> str:
    return f"{short(row.marked, 16)}: {number(score.value, 2)}"
