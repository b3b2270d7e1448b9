"""Images to step through: a few test subjects a site, every method beside the truth.

A subject is up to three strips of pictures, one column a method: the images, what each method
changed, and what is left to the truth. A strip is one PNG of 8 bits, at one pixel a pixel; the page
enlarges it. Colors are those of `reports.pictures`.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from reports import pictures
from reports.pictures import MAX_SITES, Stack, plane
from reports.results import Results

PER_SITE = 3
BUDGET = 3_000_000
"""Pixels of all strips together; what is over it costs subjects first, then resolution."""
LARGEST = 128
"""Longest side of a picture in a strip."""
GRAYS, COLORS = 128, 63
"""Levels of gray and of color: more are not seen, and noise in the last bits does not compress."""
GAP = 2


@dataclass(frozen=True)
class Subject:
    """One subject as strips.

    Attributes
    ----------
    text : str
        Site, age, sex and name.
    strips : list of str
        PNG files in base64, one a row of the stepper.
    """

    text: str
    strips: list[str]


@dataclass(frozen=True)
class Stepper:
    """All that the page steps through.

    Attributes
    ----------
    columns : list of str
        Heads of the pictures of a strip.
    rows : list of str
        Heads of the strips.
    subjects : list of Subject
        By site, the reference site first.
    high, limit : float
        White in the images, and the largest difference shown in color.
    colors : list of str
        Colors of the scale of differences, from the lowest to the highest.
    """

    columns: list[str]
    rows: list[str]
    subjects: list[Subject]
    high: float
    limit: float
    colors: list[str]


@dataclass(frozen=True)
class _Stacks:
    """Images by column, then by row of the cohort."""

    before: Stack
    methods: Mapping[str, Stack]
    truth: Stack

    def images(self, i: int) -> list[NDArray | None]:
        """Return one subject's pictures in column order, None for those that are missing."""
        truth = [_plane(self.truth, i)] if self.truth else []
        return [_plane(self.before, i), *(_plane(s, i) for s in self.methods.values()), *truth]


def stepper(results: Results) -> Stepper | None:
    """Return the strips, None where there are no images or none may be shown."""
    if not results.images_allowed or results.config.get("space") == "table":
        return None
    stacks = _stacks(results)
    if stacks is None:
        return None
    first = plane(next(iter(stacks.before.values())))
    rows = ["Image", "Change"] + ["Error"] * bool(stacks.truth)
    count = 1 + len(stacks.methods) + bool(stacks.truth)
    step = -(-max(first.shape) // LARGEST)
    pixels = count * len(rows) * (first.shape[0] // step) * (first.shape[1] // step)
    chosen = choose(results, max(1, BUDGET // pixels))
    shown = {i: [_small(image, step) for image in stacks.images(i)] for i in chosen}
    high = float(np.percentile([np.nanpercentile(s[0], 99.5) for s in shown.values()], 90))
    maps = {i: _maps(images, bool(stacks.truth)) for i, images in shown.items()}
    limit = _limit([m for strips in maps.values() for strip in strips for m in strip])
    subjects = [
        Subject(
            _text(results, i),
            [_gray(shown[i], high or 1.0), *(_colored(strip, limit) for strip in maps[i])],
        )
        for i in chosen
    ]
    columns = ["before", *stacks.methods, *(["truth"] if stacks.truth else [])]
    return Stepper(columns, rows, subjects, high, limit, _scale(11))


def choose(results: Results, most: int) -> list[int]:
    """Return rows of the cohort: at most three test subjects a site, spread over its ages.

    Parameters
    ----------
    results : Results
        The run.
    most : int
        Of all sites together; each site shown has at least one.
    """
    table = results.participants.iloc[results.tested].drop_duplicates("participant_id")
    sites = [s for s in results.sites if (table["site"] == s).any()][:MAX_SITES]
    each = int(np.clip(most // max(len(sites), 1), 1, PER_SITE))
    chosen = []
    for site in sites:
        mine = table[table["site"] == site].sort_values("age", kind="stable")
        at = (np.arange(each) + 0.5) / each * len(mine)
        chosen += [int(mine.index[k]) for k in sorted({int(p) for p in at})]
    return chosen


def _stacks(results: Results) -> _Stacks | None:
    found = {
        row.marked: stack
        for row in results.first_seeds
        if row.label != "identity" and (stack := results.images(row))
    }
    if not found:
        return None
    return _Stacks(pictures.raw_images(results), found, pictures.true_images(results))


def _plane(stack: Stack, i: int) -> NDArray | None:
    return plane(stack[i]) if i in stack else None


def _small(image: NDArray | None, step: int) -> NDArray:
    """Return an image the way radiologists hold it, averaged over blocks of `step` pixels."""
    if image is None:
        return np.full((1, 1), np.nan)
    n, m = (size // step for size in image.shape)
    blocks = image[: n * step, : m * step].reshape(n, step, m, step)
    return blocks.mean(axis=(1, 3)).T[::-1]


def _maps(images: list[NDArray], truth: bool) -> list[list[NDArray]]:
    """Return the differences from before and, where there is a truth, from it, by column."""
    none = np.full((1, 1), np.nan)
    before, *methods = images[:-1] if truth else images
    changes = [none, *(_minus(image, before) for image in methods)]
    if not truth:
        return [changes]
    errors = [_minus(image, images[-1]) for image in images[:-1]]
    return [[*changes, none], [*errors, none]]


def _minus(image: NDArray, base: NDArray) -> NDArray:
    return image - base if image.shape == base.shape else np.full((1, 1), np.nan)


def _limit(maps: list[NDArray]) -> float:
    sizes = [np.percentile(np.abs(m), 99) for m in maps if np.isfinite(m).all()]
    # The median of the methods: one that breaks images must not make all others look flawless.
    return max(float(np.median(sizes)) * 1.5, 1e-6) if sizes else 1.0


def _text(results: Results, i: int) -> str:
    row: Mapping[str, Any] = results.participants.iloc[i].to_dict()
    site = str(row["site"])
    if site == results.reference_site:
        site += " (reference)"
    age = "age unknown" if pd.isna(row["age"]) else f"{row['age']:.0f} years"
    sex = "sex unknown" if pd.isna(row["sex"]) else str(row["sex"])
    return f"{site}: {age}, {sex}, {row['participant_id']}"


# -- PNG ----------------------------------------------------------------------------------------


def _gray(images: list[NDArray], high: float) -> str:
    palette = [[round(255 * k / (GRAYS - 1))] * 3 for k in range(GRAYS)]
    return _png([np.clip(image / high, 0, 1) for image in images], palette)


def _colored(maps: list[NDArray], limit: float) -> str:
    return _png([np.clip(m / limit, -1, 1) / 2 + 0.5 for m in maps], _colors(COLORS))


def _png(pictures: list[NDArray], palette: list[list[int]]) -> str:
    """Return pictures of [0, 1] side by side, transparent where there is none, as a PNG."""
    from PIL import Image

    height, width = np.max([p.shape for p in pictures], axis=0)
    clear = len(palette)
    strip = np.full((height, len(pictures) * (width + GAP)), clear, np.uint8)
    for k, picture in enumerate(pictures):
        if picture.shape == (height, width) and np.isfinite(picture).all():
            left = k * (width + GAP)
            strip[:, left : left + width] = np.rint(picture * (clear - 1)).astype(np.uint8)
    image = Image.fromarray(strip)
    image.putpalette([value for color in [*palette, [128, 128, 128]] for value in color])
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True, transparency=clear)
    return base64.b64encode(file.getvalue()).decode()


def _scale(count: int) -> list[str]:
    return [f"#{red:02x}{green:02x}{blue:02x}" for red, green, blue in _colors(count)]


@cache
def _colors(count: int) -> list[list[int]]:
    """Return red, green and blue of the colors of the maps, from the lowest to the highest."""
    from matplotlib import colormaps

    bytes_ = colormaps["RdBu_r"](np.linspace(0, 1, count), bytes=True)
    return [[int(v) for v in color[:3]] for color in bytes_]
