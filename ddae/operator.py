"""Each site's effect as a differential operator with smooth coefficients, without paired scans.

A scanner changes contrast, bias field, blur and geometry. To first order, the image of a person at
the reference site is the image at another site plus seven terms, each multiplied by a smooth field:

    x' = x + sum_k c_k(v) f_k(x),   f = 1, x, x^2, x^3, dx/dy, dx/dx, Laplacian of x

The fields are polynomials of the position. A site thus has about a hundred parameters, while ComBat
has two per pixel, and the difference of the mean images of two sites is sufficient to estimate
them. This difference consists of the same terms of the mean image and of random differences between
the people scanned. The residuals within sites estimate the covariance of people, which weights the
pixels (generalized least squares). The prior variance of each kind of term is estimated from all
sites (empirical Bayes). The operator is applied to the derivatives of a person's own image, and
needs no covariates then.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.polynomial.legendre import legvander
from numpy.typing import NDArray
from scipy.ndimage import correlate

Floats = NDArray[np.float64]
Images = NDArray[np.float32]
TERMS = 7
LEAST_SCANS = 10
"""A pixel is changed only if at least this many scans of every site have tissue there."""
PASSES = 2
"""The second pass uses the result of the first, so its terms are more accurate."""
FLOOR = 1.0
"""Variance added to that between people, relative to the mean variance of a pixel."""
ROUNDS = 30
"""Rounds of empirical Bayes."""
LAPLACE = np.array([[[0, 1, 0], [1, -4, 1], [0, 1, 0]]], dtype=float)
BLOCK = 64


@dataclass(frozen=True)
class SiteOperator:
    """Maps images of every site to the reference site, and back.

    Attributes
    ----------
    there : ndarray of float32, shape (passes, sites, terms, height, width)
        The fields of each pass to the reference site; 0 for the reference site and for pixels that
        are not changed.
    back : ndarray of float32, shape (sites, terms, height, width)
        The fields from the reference site.
    """

    there: Images
    back: Images

    @classmethod
    def none(cls, sites: int, size: tuple[int, int]) -> SiteOperator:
        """Return the operator that changes nothing."""
        shape = (sites, TERMS, *size)
        return cls(np.zeros((0, *shape), np.float32), np.zeros(shape, np.float32))

    @classmethod
    def learn(
        cls,
        images: Images,
        mask: NDArray[np.bool_],
        site: NDArray[np.int64],
        covariates: Floats,
        reference: int,
        degree: int,
    ) -> SiteOperator:
        """Learn the operator of every site.

        Parameters
        ----------
        images, mask : ndarray, shape (n, height, width)
        site : ndarray of int, shape (n,)
            From 0 to the number of sites - 1, each at least once.
        covariates : ndarray, shape (n, k)
            Their effects are removed from the differences between sites.
        reference : int
            The reference site.
        degree : int
            Degree of the polynomials.
        """
        sites = int(site.max()) + 1
        counts = np.stack([mask[site == s].sum(axis=0) for s in range(sites)])
        known = (counts >= LEAST_SCANS).all(axis=0)
        if not known.any() or sites == 1:
            return cls.none(sites, known.shape)
        fields = _Fields(known, degree)
        design = np.concatenate([np.eye(sites)[site], covariates - covariates.mean(axis=0)], axis=1)
        there, now = [], images.astype(np.float64)
        for _ in range(PASSES):
            fitted = _one_pass(now[:, known], design, sites, reference, fields)
            there.append(fitted)
            now = np.where(mask, _applied(now, fitted[site]), 0)
        back = np.stack(
            [_way_back(now[site == s], images[site == s], fields) for s in range(sites)]
        )
        back[reference] = 0
        return cls(np.stack(there).astype(np.float32), back.astype(np.float32))

    def to_reference(self, images: Images, site: NDArray[np.int64]) -> Images:
        """Map images (n, height, width) from their sites to the reference site."""
        return self._through(images, [fields[site] for fields in self.there])

    def from_reference(self, images: Images, site: NDArray[np.int64]) -> Images:
        """Map images from the reference site to the given sites, by a least-squares fit."""
        return self._through(images, [self.back[site]])

    @staticmethod
    def _through(images: Images, stages: list[Images]) -> Images:
        out = images.astype(np.float64)
        for fields in stages:
            # The background does not change.
            out = np.where(images != 0, _applied(out, fields), out)
        return out.astype(np.float32)


class _Fields:
    """Polynomial fields over the pixels with enough scans."""

    def __init__(self, known: NDArray[np.bool_], degree: int) -> None:
        self.known = known
        rows, columns = (legvander(np.linspace(-1, 1, n), degree) for n in known.shape)
        pairs = [(i, j) for i in range(degree + 1) for j in range(degree + 1 - i)]
        self.basis = np.stack([np.outer(rows[:, i], columns[:, j]) for i, j in pairs])
        self.order = np.array([i + j for i, j in pairs])

    def columns(self, image: Floats) -> Floats:
        """Return all products of terms and polynomials of an image, (pixels, terms * basis)."""
        products = _terms(image[None])[0][:, None] * self.basis
        return products[:, :, self.known].reshape(-1, int(self.known.sum())).T

    def groups(self) -> NDArray[np.int64]:
        """Return the group of each column: its term and the order of its polynomial."""
        return (np.arange(TERMS)[:, None] * (self.order.max() + 1) + self.order).ravel()

    def maps(self, coefficients: Floats) -> Floats:
        """Return the fields, shape (..., 7, height, width), for coefficients of the columns."""
        shaped = coefficients.reshape(*coefficients.shape[:-1], TERMS, -1)
        return np.where(self.known, np.tensordot(shaped, self.basis, axes=1), 0.0)


def _terms(images: Floats) -> Floats:
    """Return the seven terms of every image, shape (n, 7, height, width)."""
    down, right = np.gradient(images, axis=(1, 2))
    bend = correlate(images, LAPLACE, mode="nearest")
    powers = [np.ones_like(images), images, images**2, images**3]
    return np.stack([*powers, down, right, bend], axis=1)


def _applied(images: Floats, fields: NDArray) -> Floats:
    """Return images plus their terms times the fields of each image."""
    out = np.empty_like(images)
    for start in range(0, len(images), BLOCK):
        at = slice(start, start + BLOCK)
        out[at] = images[at] + (fields[at] * _terms(images[at])).sum(axis=1)
    return out


def _one_pass(
    values: Floats, design: Floats, sites: int, reference: int, fields: _Fields
) -> Floats:
    """Return every site's fields, shape (sites, 7, height, width), from values (n, pixels)."""
    slopes, *_ = np.linalg.lstsq(design, values, rcond=None)
    whiten = _whitener(values - design @ slopes, len(values) - design.shape[1])
    level = slopes[:sites]
    spread = np.linalg.pinv(design.T @ design)
    others = [s for s in range(sites) if s != reference]
    # Variance of the difference of two sites' means, in units of the variance between people.
    variance = np.array(
        [spread[s, s] + spread[reference, reference] - 2 * spread[s, reference] for s in others]
    )
    mean = np.zeros(fields.known.shape)
    mean[fields.known] = level.mean(axis=0)
    columns = fields.columns(mean)
    found = np.zeros((sites, columns.shape[1]))
    found[others] = _shrunken(
        whiten(columns), whiten((level[reference] - level[others]).T), variance, fields.groups()
    )
    return fields.maps(found)


def _whitener(residuals: Floats, freedom: int) -> Callable[[Floats], Floats]:
    """Return a function that multiplies (pixels, m) by the inverse root of people's covariance."""
    _, values, axes = np.linalg.svd(residuals / np.sqrt(max(freedom, 1)), full_matrices=False)
    floor = FLOOR * (values**2).sum() / residuals.shape[1] + 1e-12
    gain = 1 / np.sqrt(values**2 + floor) - 1 / np.sqrt(floor)
    return lambda columns: columns / np.sqrt(floor) + axes.T @ (gain[:, None] * (axes @ columns))


def _shrunken(columns: Floats, targets: Floats, noise: Floats, group: NDArray[np.int64]) -> Floats:
    """Return the posterior means of the coefficients, shape (m, columns).

    Each of the m targets is the columns times its coefficients plus noise of this variance. All
    coefficients of a group have the same prior variance, estimated from all targets.
    """
    gram, moments = columns.T @ columns, columns.T @ targets
    prior = np.full(len(gram), 1e-3)
    for _ in range(ROUNDS):
        covariances = [np.linalg.inv(gram / v + np.diag(1 / prior)) for v in noise]
        each = zip(covariances, moments.T, noise, strict=True)
        means = np.stack([c @ moment / v for c, moment, v in each])
        second = np.mean(means**2 + [np.diag(c) for c in covariances], axis=0)
        prior = (np.bincount(group, second) / np.bincount(group))[group] + 1e-12
    return means


def _way_back(images: Floats, wanted: Images, fields: _Fields) -> Floats:
    """Return the fields that map each image to the wanted one with the least squared error."""
    size = TERMS * len(fields.basis)
    gram, moments = np.zeros((size, size)), np.zeros(size)
    for image, want in zip(images, wanted.astype(np.float64), strict=True):
        columns = fields.columns(image)
        gram += columns.T @ columns
        moments += columns.T @ (want - image)[fields.known]
    ridge = 1e-6 * np.trace(gram) / size * np.eye(size)
    return fields.maps(np.linalg.solve(gram + ridge, moments))
