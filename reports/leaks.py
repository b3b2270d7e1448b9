"""Figures of leakage: the age that a method is given, and the population of the reference site."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from reports.drawing import Drawn, NoFigure, short, site_legend, site_looks, small_multiples
from reports.results import Results, Row, Score
from reports.tables import number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMNS = 5
PER_FIGURE = 10
LEAST_REACH = 12.0
"""Least half height of the panels in years: a slope of 0.1 must not fill the panel."""

Floats = NDArray[np.float64]

TOLD = (
    "Each test image was harmonized again five times, with the age of another subject of its site "
    "instead of its own. Across: the given age minus the true age. Up: by how many years the age "
    "read from the image changed, divided by the probe's own slope. Each site has a thin line; the "
    "thick one is their mean with its 95 % interval. On the dashed diagonal the image shows the "
    "age that the method was given (1), on the level line it does not depend on it (0). Dots are "
    "images."
)
PULL = (
    "Each dot is a site. Across: by how many years the subjects of the reference site are older. "
    "Up: how much older this site's subjects look after harmonization than they are, divided by "
    "the probe's own slope. The black line is the pull with its 95 % interval, drawn through the "
    "mean: level is right (0); along the dashed diagonal every site gets the reference site's age "
    "(1). The scatter of the dots about the line shows how little a few sites can tell."
)


class Told(NamedTuple):
    """The effect of wrong ages on one method.

    `lie` (draws, n) is the given minus the true age, and `change` (draws, n) that of the age read
    from the image, in years, calibrated; `sites` (n,) are the sites of the images.
    """

    lie: Floats
    change: Floats
    sites: NDArray[np.str_]


def _legend(figure: Figure, axes: list[Axes], _: Any) -> None:
    site_legend(figure, axes[0])


def told_ages(results: Results) -> list[Drawn]:
    """Return the change of the age read from the image against that of the given age.

    Raises
    ------
    NoFigure
        If this was not measured, or no method reacts to the given age.
    """
    rows = [r for r in results.first_seeds if results.score(r, "leakage_age").ok]
    if not rows:
        raise NoFigure("the effect of wrong ages was not measured (metric leakage_age)")
    found = [(row, told) for row in rows if (told := _told(results, row)) is not None]
    if not found:
        raise NoFigure("no method uses the age: 0 by construction")
    moving = [row for row, _ in found]
    still = [row.title for row in rows if row not in moving]
    caption = TOLD + (f" Not given the age, so 0: {', '.join(still)}." if still else "")
    tops = [np.nanpercentile(np.abs(told.change), 99) for row, told in found if not row.control]
    reach = max(LEAST_REACH, 1.1 * float(np.max(tops or [0.0])))
    looks = site_looks(results)

    def draw(panel: Axes, row: Row, told: Told) -> None:
        top = float(np.nanmax(np.abs(told.lie)))
        _guides(panel, top)
        for site, (color, marker) in looks.items():
            mine = told.sites == site
            score = results.score(row, "leakage_age", site)
            if mine.any():
                x, y = told.lie[:, mine].ravel(), told.change[:, mine].ravel()
                order = np.argsort(x)
                panel.plot(x[order], y[order], marker, ms=1.6, mew=0, alpha=0.3, color=color,
                           rasterized=True)  # fmt: skip
            if score.ok and told.lie[:, mine].any():
                ends = [-top * score.value, top * score.value]
                panel.plot([-top, top], ends, color=color, lw=0.9, label=short(site))
        _line(panel, top, results.score(row, "leakage_age"), (0.0, 0.0))
        panel.set(ylim=(-reach, reach), xlabel="given minus true age (years)")
        panel.set_ylabel("age in the image moved by (years)")
        panel.set_title(_titled(row, results.score(row, "leakage_age")), loc="left")

    head = ("leakage-told", "Age given, age shown", caption)
    return small_multiples(
        head, found, draw, _legend, size=(2.7, 2.9), columns=COLUMNS, most=PER_FIGURE
    )


def _told(results: Results, row: Row) -> Told | None:
    """Return the arrays of a row's metric, all folds together; None if no age moved."""
    kept = [a for a in results.arrays(row, "leakage_age") if "lie" in a and "change" in a]
    if not any(a["change"].any() for a in kept):
        return None
    lie, change = (np.concatenate([a[name] for a in kept], axis=1) for name in ("lie", "change"))
    sites = results.participants["site"].to_numpy().astype(str)[results.tested]
    if len(sites) != lie.shape[1] or len(kept) > 1:
        # The images of several folds are not in the order of the cohort.
        sites = np.full(lie.shape[1], "")
    told = Told(lie, change, sites)
    return told._replace(change=change / _calibration(results, row, told))


def _calibration(results: Results, row: Row, told: Told) -> float:
    """Return the divisor that the metric used.

    The slope of the probe is not stored, but the calibrated slope of every site is in the scores,
    and its slope before calibration follows from the arrays.
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


def pulls(results: Results) -> list[Drawn]:
    """Return the change of the apparent age of each site against its distance to the reference.

    Raises
    ------
    NoFigure
        If the pull was not measured.
    """
    rows = [r for r in results.first_seeds if results.score(r, "population_pull").ok]
    held = [(r, arrays[0]) for r in rows if (arrays := results.arrays(r, "population_pull"))]
    # Distance of each site's age to the reference, and the mean change of its apparent age.
    found = [
        (row, a["sites"], a["distance"].astype(float), a["change"] / float(a["calibration"]))
        for row, a in held
        if "distance" in a and "calibration" in a
    ]
    if not found:
        raise NoFigure("no pull to the reference site's population was measured (population_pull)")
    across = 1.15 * max(float(np.abs(distance).max()) for _, _, distance, _ in found) or 1.0
    # Controls that pull all subjects must not set the scale.
    ups = [float(np.abs(moved).max()) for row, *_, moved in found if not row.control] or [across]
    up = max(1.2 * max(ups), 0.3 * across)
    looks = site_looks(results)
    counts = results.participants.iloc[results.tested]["site"].value_counts()

    def draw(panel: Axes, row: Row, sites: NDArray, distance: Floats, moved: Floats) -> None:
        names = [str(site) for site in sites]
        weights = [float(counts.get(name, 1)) for name in names]
        reach = 2.0 * float(np.abs(distance).max())
        score = results.score(row, "population_pull")
        _guides(panel, reach)
        x, y = (float(np.average(values, weights=weights)) for values in (distance, moved))
        _line(panel, reach, score, (x, y))
        for name, x, y in zip(names, distance, moved, strict=True):
            color, marker = looks.get(name, ("0.5", "o"))
            panel.plot(x, y, marker, color=color, ms=5, mec="white", mew=0.5, ls="",
                       label=short(name), zorder=4)  # fmt: skip
        panel.set(xlim=(-across, across), ylim=(-up, up), xlabel="reference older by (years)")
        panel.set_ylabel("looks older by (years)")
        panel.set_title(_titled(row, score), loc="left")

    head = ("leakage-pull", "Pull towards the reference site's population", PULL)
    return small_multiples(
        head, found, draw, _legend, size=(2.1, 2.3), columns=COLUMNS, most=PER_FIGURE
    )


def _guides(panel: Axes, reach: float) -> None:
    panel.plot([-reach, reach], [0, 0], color="0.75", lw=0.8, zorder=0)
    panel.plot([-reach, reach], [-reach, reach], color="0.6", lw=0.8, ls="--", zorder=0)


def _line(panel: Axes, reach: float, score: Score, through: tuple[float, float]) -> None:
    """Draw a slope as a line through one point, and its interval as an area about it."""
    x = np.sort(np.append(np.linspace(-reach, reach, 3), through[0]))
    at = {k: through[1] + k * (x - through[0]) for k in (score.low, score.value, score.high)}
    if np.isfinite(score.low) and np.isfinite(score.high):
        panel.fill_between(x, at[score.low], at[score.high], color="black", alpha=0.15, lw=0)
    panel.plot(x, at[score.value], color="black", lw=2.2, zorder=3)


def _titled(row: Row, score: Score) -> str:
    return f"{short(row.marked, 16)}: {number(score.value, 2)}"
