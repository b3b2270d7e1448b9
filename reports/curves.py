"""Training curves of a run's methods, read from their saved fits without torch.

A fit stores its curve as the arrays ``history.*`` of its safetensors file: ``history.images`` and,
of the same length, the parts of the loss (see `harmbench.contracts.method.Harmonizer.history`).
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from reports.results import Results, Row

PREFIX = "history."
WIDTH, HEIGHT = 240, 56


class Line(NamedTuple):
    """One curve: its name, its points in the drawing, and its first and last value as text."""

    name: str
    points: str
    ends: str


class Curve(NamedTuple):
    """The training curve of one method: images seen at its end, losses, and the scale."""

    images: int
    lines: list[Line]
    scale: str


def training_curve(results: Results, row: Row) -> Curve | None:
    """Return the training curve of a row's fit, None if none is stored.

    The scale is logarithmic if all values are positive, else linear. Of a run in two halves, the
    curve of the first one is returned.
    """
    path = _weights(results, row)
    history = _history(path) if path else {}
    images = history.get("images", np.zeros(0)).astype(float)
    names = [n for n in history if n == "loss" or n.endswith(".loss")]
    names += [n for n in history if n == "validation"]
    values = {n: history[n].astype(float) for n in names if len(history[n]) == len(images)}
    values = {n: v for n, v in values.items() if np.isfinite(v).any()}
    if len(images) < 2 or not values:
        return None
    logarithmic = min(float(v[np.isfinite(v)].min()) for v in values.values()) > 0
    shown = {n: np.log(v) if logarithmic else v for n, v in values.items()}
    every = np.concatenate([v[np.isfinite(v)] for v in shown.values()])
    low, span = float(every.min()), float(np.ptp(every)) or 1.0
    lines = []
    for name, heights in shown.items():
        good = np.isfinite(heights)
        xs = WIDTH * images[good] / (images[-1] or 1)
        ys = HEIGHT * (1 - (heights[good] - low) / span)
        points = " ".join(f"{x:.1f},{y:.1f}" for x, y in zip(xs, ys, strict=True))
        first, last = values[name][good][[0, -1]]
        lines.append(Line(name, points, f"{first:.3g} → {last:.3g}"))
    return Curve(int(images[-1]), lines, "logarithmic" if logarithmic else "linear")


def _weights(results: Results, row: Row) -> Path | None:
    """Return the file of a row's fit; None if there is none, or if older code left several."""
    for metric in results.metrics:
        for stem in results.stems(row, "scores", metric["name"]):
            found = sorted(stem.parent.parent.glob("fit-*/weights.safetensors"))
            return found[0] if len(found) == 1 else None
    return None


def _history(path: Path) -> dict[str, NDArray]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            names = [name for name in file.keys() if name.startswith(PREFIX)]  # noqa: SIM118
            return {n.removeprefix(PREFIX): np.atleast_1d(file.get_tensor(n)) for n in names}
    except (OSError, SafetensorError):
        # The runner, not the report, reports a damaged fit.
        return {}
