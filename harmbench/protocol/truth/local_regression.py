"""Ridge regression of each pixel on its neighborhood, which needs few aligned images."""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

Floats = NDArray[np.float64]

CURVED = 3
"""Number of nonlinear features: the pixel's square, its cube, and its product with the mean."""


def fit_local(
    images: NDArray[np.float32], answers: NDArray[np.float32], side: int, ridge: float
) -> NDArray[np.float32]:
    """Fit a ridge regression from the neighborhood of each pixel to its true value.

    Parameters
    ----------
    images, answers : ndarray of float32, shape (n, height, width)
        Images and true images.
    side : int
        Side of the neighborhood, odd; the image is padded with zeros.
    ridge : float
        Penalty on the weights of the change ``answer - image``, in units of the mean sum of
        squares of a neighborhood's pixels. With a large penalty only a shift is fitted.

    Returns
    -------
    ndarray of float32, shape (height, width, side * side + CURVED + 1)
        Weights of the neighborhood and of the nonlinear features, and a constant.
    """
    windows = _windows(images, side)
    change = answers.astype(np.float64) - images
    rows = [_fit_row(_features(windows[:, y]), change[:, y], ridge) for y in range(len(images[0]))]
    return np.stack(rows).astype(np.float32)


def apply_local(images: NDArray[np.float32], weights: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the images with the predicted change, shape (n, height, width)."""
    side = round((weights.shape[-1] - 1 - CURVED) ** 0.5)
    windows = _windows(images, side)
    out = np.empty_like(images)
    for y, own in enumerate(weights.astype(np.float64)):
        change = np.einsum("nxp,xp->nx", _features(windows[:, y]), own[:, :-1]) + own[:, -1]
        out[:, y] = images[:, y] + change
    return out


def _windows(images: NDArray[np.float32], side: int) -> NDArray[np.float32]:
    """Return a view of the neighborhood of every pixel, shape (n, height, width, side, side)."""
    margin = side // 2
    padded = np.pad(images, ((0, 0), (margin, margin), (margin, margin)))
    return sliding_window_view(padded, (side, side), axis=(1, 2))  # type: ignore[call-overload]


def _features(windows: NDArray[np.float32]) -> Floats:
    """Return the features of one row of pixels, shape (n, width, side * side + CURVED)."""
    flat = windows.reshape(*windows.shape[:2], -1).astype(np.float64)
    own = flat[..., flat.shape[-1] // 2]
    curved = np.stack([own**2, own**3, own * flat.mean(-1)], axis=-1)
    return np.concatenate([flat, curved], axis=-1)


def _fit_row(features: Floats, change: Floats, ridge: float) -> Floats:
    """Fit one row of pixels: features (n, width, p), change (n, width); (width, p + 1)."""
    x = features.transpose(1, 0, 2)
    x_mean, y_mean = x.mean(1, keepdims=True), change.mean(0)
    x = x - x_mean
    gram = x.transpose(0, 2, 1) @ x
    p = gram.shape[1]
    sums = gram[:, : p - CURVED, : p - CURVED].trace(axis1=1, axis2=2) / (p - CURVED)
    # Where all images are equal, the floor keeps the system regular and the weights at zero.
    gram += (ridge * np.maximum(sums, 1e-6))[:, None, None] * np.eye(p)
    moment = x.transpose(0, 2, 1) @ (change - y_mean).T[:, :, None]
    weights = np.linalg.solve(gram, moment)[:, :, 0]
    constant = y_mean - (x_mean[:, 0] * weights).sum(1)
    return np.concatenate([weights, constant[:, None]], axis=1)
