"""Images to step through: a few test subjects of each site, all methods beside the truth.

A subject has up to three strips of pictures with a column for each method: the images, what each
method changed, and the error to the truth. A strip is one 8-bit PNG in the resolution of the
images, which the page enlarges. The colors are those of `reports.pictures`.
"""

from __future__ import annotations

import base64
import io
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from reports.pictures import (
    MAX_SITES,
    Stack,
    color_limit,
    plane,
    raw_images,
    true_images,
    without_identity,
)
from reports.results import Results

PER_SITE = 3
BUDGET = 3_000_000
"""Most pixels of all strips; with more, fewer subjects are shown, then the resolution is lower."""
LARGEST = 128
"""Longest side of a picture in a strip."""
GRAYS, COLORS = 128, 63
"""Levels of gray and of color: noise in the last bits would only enlarge the file."""
GAP = 2
NO_PICTURE = np.full((1, 1), np.nan)


class Subject(NamedTuple):
    """A subject: site, age, sex and name, and a PNG in base64 for each row of the stepper."""

    text: str
    strips: list[str]


class Stepper(NamedTuple):
    """The strips of all subjects, ordered by site, the reference site first.

    `columns` and `rows` are the heads of the pictures and strips, `high` is white in the images,
    `limit` the largest difference shown in color, and `colors` the scale of differences.
    """

    columns: list[str]
    rows: list[str]
    subjects: list[Subject]
    high: float
    limit: float
    colors: list[str]


def stepper(results: Results) -> Stepper | None:
    """Return the strips, None if there are no images or they may not be shown."""
    if not results.images_allowed or results.config.get("space") == "table":
        return None
    methods = without_identity(results)
    if not methods:
        return None
    raw, truth = raw_images(results), true_images(results)
    stacks: dict[str, Stack] = {"before": raw} | methods | ({"truth": truth} if truth else {})
    shape = plane(next(iter(raw.values()))).shape
    rows = ["Image", "Change"] + ["Error"] * bool(truth)
    step = -(-max(shape) // LARGEST)
    pixels = len(stacks) * len(rows) * (shape[0] // step) * (shape[1] // step)
    chosen = choose(results, max(1, BUDGET // pixels))
    shown = {i: [_small(stack, i, step) for stack in stacks.values()] for i in chosen}
    high = float(np.percentile([np.nanpercentile(s[0], 99.5) for s in shown.values()], 90))
    maps = {i: _maps(images, bool(truth)) for i, images in shown.items()}
    limit = color_limit([m for strips in maps.values() for strip in strips for m in strip])
    grays = [[round(255 * k / (GRAYS - 1))] * 3 for k in range(GRAYS)]
    subjects = []
    for i in chosen:
        strips = [_png([np.clip(image / (high or 1.0), 0, 1) for image in shown[i]], grays)]
        for strip in maps[i]:
            scaled = [np.clip(m / limit, -1, 1) / 2 + 0.5 for m in strip]
            strips.append(_png(scaled, _colors(COLORS)))
        subjects.append(Subject(_text(results, i), strips))
    scale = ["#{:02x}{:02x}{:02x}".format(*color) for color in _colors(11)]
    return Stepper([*stacks], rows, subjects, high, limit, scale)


def choose(results: Results, most: int) -> list[int]:
    """Return rows of the cohort: at most three test subjects of each site, spread over its ages.

    Parameters
    ----------
    results : Results
        The run.
    most : int
        Most subjects of all sites together; each site has at least one.
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


def _small(stack: Stack, i: int, step: int) -> NDArray:
    """Return an image in radiological orientation, averaged over blocks of `step` pixels."""
    if i not in stack:
        return NO_PICTURE
    image = plane(stack[i])
    n, m = (size // step for size in image.shape)
    blocks = image[: n * step, : m * step].reshape(n, step, m, step)
    return blocks.mean(axis=(1, 3)).T[::-1]


def _maps(images: list[NDArray], truth: bool) -> list[list[NDArray]]:
    """Return the differences to the images before and, if there is a truth, to it."""
    before, *methods = images[:-1] if truth else images
    changes = [NO_PICTURE, *(_minus(image, before) for image in methods)]
    if not truth:
        return [changes]
    errors = [_minus(image, images[-1]) for image in images[:-1]]
    return [[*changes, NO_PICTURE], [*errors, NO_PICTURE]]


def _minus(image: NDArray, base: NDArray) -> NDArray:
    return image - base if image.shape == base.shape else NO_PICTURE


def _text(results: Results, i: int) -> str:
    row = results.participants.iloc[i]
    reference = " (reference)" if row["site"] == results.reference_site else ""
    age = "age unknown" if pd.isna(row["age"]) else f"{row['age']:.0f} years"
    sex = "sex unknown" if pd.isna(row["sex"]) else str(row["sex"])
    return f"{row['site']}{reference}: {age}, {sex}, {row['participant_id']}"


def _png(pictures: list[NDArray], palette: list[list[int]]) -> str:
    """Return pictures of [0, 1] side by side as a PNG, transparent where one is missing."""
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


def _colors(count: int) -> list[list[int]]:
    """Return red, green and blue of the colors of the differences, from the lowest on."""
    from matplotlib import colormaps

    return colormaps["RdBu_r"](np.linspace(0, 1, count), bytes=True)[:, :3].tolist()
