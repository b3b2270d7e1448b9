"""Each site's effect as a differential operator with smooth coefficients, without paired scans.

A scanner bends the gray scale, shades it, blurs and distorts. To first order the reference site's
image of a person is the image at hand plus a sum of seven terms, each times a smooth field:

    x' = x + sum_k c_k(v) f_k(x),   f = 1, x, x^2, x^3, dx/dy, dx/dx, Laplacian of x

The fields are polynomials in place, so a site has some hundred numbers, not two for every pixel as
in ComBat, and the difference of two sites' mean images suffices to find them: that difference is
those terms of the mean image, plus the chance of who was scanned where. How people differ is known
from the residuals within sites, which weigh the pixels (generalized least squares); how large each
kind of term is at all is learned from all sites together (empirical Bayes). The operator is applied
with the person's own derivatives, not with the mean's, and needs no covariates then.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.polynomial.legendre import legvander
from numpy.typing import NDArray
from scipy.ndimage import correlate

Floats = NDArray[np.float64]
TERMS = 7
LEAST_SCANS = 10
"""Scans of every site that must have tissue at a pixel; elsewhere images pass unchanged."""
PASSES = 2
"""The second sees mean images with the first's result, so its terms are nearer the truth's."""
FLOOR = 1.0
"""Variance that is added to that between people, in units of a pixel's mean variance."""
ROUNDS = 30
"""Rounds of empirical Bayes."""
LAPLACE = np.array([[[0, 1, 0], [1, -4, 1], [0, 1, 0]]], dtype=float)
BLOCK = 64


@dataclass(frozen=True)
class SiteOperator:
    """Maps every site's images to the reference site, and back.

    Attributes
    ----------
    there : ndarray of float32, shape (passes, sites, terms, height, width)
        The fields of each pass; 0 for the reference site and where too few scans have tissue.
    back : ndarray of float32, shape (sites, terms, height, width)
        Those of the way back.
    """

    there: NDArray[np.float32]
    back: NDArray[np.float32]

    @classmethod
    def none(cls, sites: int, size: tuple[int, int]) -> SiteOperator:
        """Return the operator that changes nothing."""
        shape = (sites, TERMS, *size)
        return cls(np.zeros((0, *shape), np.float32), np.zeros(shape, np.float32))

    @classmethod
    def learn(
        cls,
        images: NDArray[np.float32],
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
            0 to the number of sites - 1, each at least once.
        covariates : ndarray, shape (n, k)
            Keep the sites' populations out of the difference of their means.
        reference : int
            The reference site.
        degree : int
            Of the fields' polynomials.
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

    def to_reference(
        self, images: NDArray[np.float32], site: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        """Return images of the given sites as at the reference site, shape (n, height, width)."""
        return self._through(images, [fields[site] for fields in self.there])

    def from_reference(
        self, images: NDArray[np.float32], site: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        """Turn round `to_reference`, nearly: the way back is a least-squares fit."""
        return self._through(images, [self.back[site]])

    @staticmethod
    def _through(
        images: NDArray[np.float32], stages: list[NDArray[np.float32]]
    ) -> NDArray[np.float32]:
        out = images.astype(np.float64)
        for fields in stages:
            # Outside the head an image stays what it is.
            out = np.where(images != 0, _applied(out, fields), out)
        return out.astype(np.float32)


class _Fields:
    """Polynomial fields over the pixels where enough is known, and the terms they multiply."""

    def __init__(self, known: NDArray[np.bool_], degree: int) -> None:
        self.known = known
        rows, columns = (legvander(np.linspace(-1, 1, n), degree) for n in known.shape)
        pairs = [(i, j) for i in range(degree + 1) for j in range(degree + 1 - i)]
        self.basis = np.stack([np.outer(rows[:, i], columns[:, j]) for i, j in pairs])
        self.order = np.array([i + j for i, j in pairs])

    def columns(self, image: Floats) -> Floats:
        """Return every term of an image times every polynomial, shape (pixels, terms * basis)."""
        products = _terms(image[None])[0][:, None] * self.basis
        return products[:, :, self.known].reshape(-1, int(self.known.sum())).T

    def groups(self) -> NDArray[np.int64]:
        """Number of the group of each column: one for each term and order of its polynomial."""
        return (np.arange(TERMS)[:, None] * (self.order.max() + 1) + self.order).ravel()

    def maps(self, coefficients: Floats) -> Floats:
        """Return fields, shape (..., 7, height, width), for coefficients of the columns."""
        shaped = coefficients.reshape(*coefficients.shape[:-1], TERMS, -1)
        return np.where(self.known, np.tensordot(shaped, self.basis, axes=1), 0.0)

    def image(self, values: Floats) -> Floats:
        """Return values of the known pixels as an image, 0 elsewhere."""
        out = np.zeros(self.known.shape)
        out[self.known] = values
        return out


def _terms(images: Floats) -> Floats:
    """Return the seven terms of every image, shape (n, 7, height, width)."""
    down, right = np.gradient(images, axis=(1, 2))
    bend = correlate(images, LAPLACE, mode="nearest")
    powers = [np.ones_like(images), images, images**2, images**3]
    return np.stack([*powers, down, right, bend], axis=1)


def _applied(images: Floats, fields: NDArray) -> Floats:
    """Return images plus their terms times the fields, one set of fields an image."""
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
    chance = np.array(
        [spread[s, s] + spread[reference, reference] - 2 * spread[s, reference] for s in others]
    )
    columns = fields.columns(fields.image(level.mean(axis=0)))
    found = np.zeros((sites, columns.shape[1]))
    found[others] = _shrunken(
        whiten(columns), whiten((level[reference] - level[others]).T), chance, fields.groups()
    )
    return fields.maps(found)


def _whitener(residuals: Floats, freedom: int) -> Callable[[Floats], Floats]:
    """Return what divides columns, shape (pixels, m), by the root of the people's covariance."""
    _, values, axes = np.linalg.svd(residuals / np.sqrt(max(freedom, 1)), full_matrices=False)
    floor = FLOOR * (values**2).sum() / residuals.shape[1] + 1e-12
    gain = 1 / np.sqrt(values**2 + floor) - 1 / np.sqrt(floor)
    return lambda columns: columns / np.sqrt(floor) + axes.T @ (gain[:, None] * (axes @ columns))


def _shrunken(columns: Floats, targets: Floats, chance: Floats, group: NDArray[np.int64]) -> Floats:
    """Return the posterior means of the coefficients, shape (m, columns).

    Each of the m targets is the columns times its coefficients plus noise of variance `chance`;
    coefficients of a group have one prior variance, that of the posterior over all targets.
    """
    gram, moments = columns.T @ columns, columns.T @ targets
    variance = np.full(len(gram), 1e-3)
    for _ in range(ROUNDS):
        covariances = [np.linalg.inv(gram / c + np.diag(1 / variance)) for c in chance]
        means = np.stack(
            [
                v @ moments[:, i] / c
                for i, (v, c) in enumerate(zip(covariances, chance, strict=True))
            ]
        )
        second = np.mean(means**2 + [np.diag(v) for v in covariances], axis=0)
        sums = np.bincount(group, second) / np.bincount(group)
        variance = sums[group] + 1e-12
    return means


def _way_back(images: Floats, wanted: NDArray[np.float32], fields: _Fields) -> Floats:
    """Return the fields that best give `wanted` from `images`, pair by pair."""
    gram: Floats | float = 0.0
    moments: Floats | float = 0.0
    for image, want in zip(images, wanted.astype(np.float64), strict=True):
        columns = fields.columns(image)
        gram = gram + columns.T @ columns
        moments = moments + columns.T @ (want - image)[fields.known]
    gram = np.asarray(gram)
    ridge = 1e-6 * np.trace(gram) / len(gram) * np.eye(len(gram))
    return fields.maps(np.linalg.solve(gram + ridge, np.asarray(moments)))
