"""Training curves of a run's methods, read from their saved fits without torch, as small drawings.

A fit keeps its curve as the arrays ``history.*`` of its safetensors file: ``history.images`` and,
of as many points, the parts of the loss (see `harmbench.contracts.method.Harmonizer.history`).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from reports.results import Results, Row

ARRAYS = "weights.safetensors"
PREFIX = "history."
WIDTH, HEIGHT = 240, 56


@dataclass(frozen=True)
class Line:
    """One curve: its name, its points in the drawing, and its first and last value as texts."""

    name: str
    points: str
    ends: str


@dataclass(frozen=True)
class Curve:
    """The training curve of one method.

    Attributes
    ----------
    images : int
        Images seen at the end.
    lines : list of Line
        The loss, or the losses of all networks, then the validation loss where there is one.
    scale : str
        ``"logarithmic"`` where all values are positive, else ``"linear"``.
    """

    images: int
    lines: list[Line]
    scale: str


def training_curve(results: Results, row: Row) -> Curve | None:
    """Return the training curve of a row's fit, None where none is kept.

    Of a run in two halves, the first one's is shown.
    """
    path = _weights(results, row)
    history = _history(path) if path else {}
    images = history.get("images")
    names = [n for n in history if n == "loss" or n.endswith(".loss")]
    names += [n for n in history if n == "validation"]
    if images is None or len(images) < 2 or not names:
        return None
    values = {n: history[n].astype(float) for n in names if len(history[n]) == len(images)}
    values = {n: v for n, v in values.items() if np.isfinite(v).any()}
    known = [v[np.isfinite(v)] for v in values.values()]
    if not known:
        return None
    positive = min(float(v.min()) for v in known) > 0
    lines = _lines(images.astype(float), values, logarithmic=positive)
    return Curve(int(images[-1]), lines, "logarithmic" if positive else "linear")


def _weights(results: Results, row: Row) -> Path | None:
    """Return the file of a row's fit; None where there is none, or several by older code."""
    for metric in results.metrics:
        for _, stem in results.stems(row, "scores", metric["name"]):
            found = sorted(stem.parent.parent.glob(f"fit-*/{ARRAYS}"))
            return found[0] if len(found) == 1 else None
    return None


def _history(path: Path) -> dict[str, NDArray]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            names = [name for name in file.keys() if name.startswith(PREFIX)]  # noqa: SIM118
            return {n.removeprefix(PREFIX): np.atleast_1d(file.get_tensor(n)) for n in names}
    except (OSError, SafetensorError):
        # A report says what is there; a damaged fit is the runner's matter.
        return {}


def _lines(images: NDArray, values: dict[str, NDArray], *, logarithmic: bool) -> list[Line]:
    shown = {n: np.log(v) if logarithmic else v for n, v in values.items()}
    every = np.concatenate([v[np.isfinite(v)] for v in shown.values()])
    low, high = float(every.min()), float(every.max())
    span = (high - low) or 1.0
    lines = []
    for name, heights in shown.items():
        good = np.isfinite(heights)
        xs = WIDTH * images[good] / (images[-1] or 1)
        ys = HEIGHT * (1 - (heights[good] - low) / span)
        points = " ".join(f"{x:.1f},{y:.1f}" for x, y in zip(xs, ys, strict=True))
        first, last = values[name][good][[0, -1]]
        lines.append(Line(name, points, f"{first:.3g} → {last:.3g}"))
    return lines
