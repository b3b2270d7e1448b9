"""The formulas of linear ComBat, and their application to blocks of voxels.

`learn` and `apply` replace neuroHarmonize if it cannot be installed (it needs numpy < 2).

neuroHarmonize needs about eight float64 copies of all voxels of all scans. Its regression,
variances and raw site effects concern single voxels, so they can be learned in blocks of voxels.
Its empirical Bayes step cannot: the priors are moments over all voxels of a site, and the iteration
stops after the last voxel has converged. Therefore each block is learned without empirical Bayes,
and `shrink` is applied once to the estimates of all voxels. It does not need the images, because
the mean and variance of a voxel at a site are sufficient.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Model = dict[str, Floats]

TOLERANCE = 1e-4
"""Largest relative change in the last iteration, as in neuroCombat."""


def join(blocks: Iterable[Model]) -> Model:
    """Join the estimates of blocks of voxels.

    They are ``B_hat`` (columns, v), ``stand_mean`` and ``var_pooled`` (v, 1), ``gamma_star`` and
    ``delta_star`` (sites, v), in the notation of neuroHarmonize.
    """
    models = list(blocks)
    axes = {"stand_mean": 0, "var_pooled": 0}
    return {
        name: np.concatenate([model[name] for model in models], axis=axes.get(name, 1))
        for name in models[0]
    }


def shrink(
    gamma: Floats, delta: Floats, scans: NDArray[np.intp], reference: int
) -> tuple[Floats, Floats]:
    """Shrink the location and scale of every site by empirical Bayes over all voxels.

    Johnson 2007 (10.1093/biostatistics/kxj037), eq. 3.1, solved like in neuroCombat. The sum of
    squares over the scans of a site, ``sum (z - g)^2``, is ``(n - 1) delta + n (mean - g)^2``.

    Parameters
    ----------
    gamma, delta : ndarray, shape (sites, voxels)
        Location of each site minus that of the reference site, and unbiased variance.
    scans : ndarray of int, shape (sites,)
        Number of scans of each site.
    reference : int
        Index of the reference site, which gets location 0 and scale 1.

    Returns
    -------
    gamma_star, delta_star : ndarray, shape (sites, voxels)
    """
    locations, scales = np.zeros_like(gamma), np.ones_like(delta)
    for site in range(len(gamma)):
        if site != reference:
            mean = gamma[reference] + gamma[site]
            locations[site], scales[site] = _iterate(gamma[site], delta[site], mean, scans[site])
    return locations, scales


def _iterate(gamma: Floats, delta: Floats, mean: Floats, n: int) -> tuple[Floats, Floats]:
    """Compute the posterior means of a site until all voxels have converged."""
    center, spread = np.mean(gamma), np.var(gamma, ddof=1)
    m, s2 = np.mean(delta), np.var(delta, ddof=1)
    shape, rate = (2 * s2 + m**2) / s2, (m * s2 + m**3) / s2  # of the inverse gamma prior
    location, scale, change = gamma, delta, 1.0
    while change > TOLERANCE:
        last = location, scale
        location = (spread * n * gamma + scale * center) / (spread * n + scale)
        squares = (n - 1) * delta + n * (mean - location) ** 2
        scale = (0.5 * squares + rate) / (n / 2 + shape - 1)
        moved = (np.abs(location - last[0]) / last[0]).max()  # signed, as in neuroCombat
        change = max(moved, (np.abs(scale - last[1]) / last[1]).max())
    return location, scale


def learn(values: NDArray, site: NDArray[np.intp], covariates: Floats, reference: int) -> Model:
    """Learn the location and scale of every site without empirical Bayes.

    Johnson 2007 (10.1093/biostatistics/kxj037), section 3, with a reference batch: only its scans
    determine the grand mean and the variance.

    Parameters
    ----------
    values : ndarray, shape (n, v)
        Voxels of the fit part.
    site : ndarray of int, shape (n,)
        Site of each scan, as a number from 0.
    covariates : ndarray of float64, shape (n, k)
        Their linear effects are kept.
    reference : int
        Number of the reference site.

    Returns
    -------
    dict
        See `join`.
    """
    sites = int(site.max()) + 1
    of_sites = (site[:, None] == np.arange(sites)).astype(np.float64)
    of_sites[:, reference] = 1.0
    design = np.column_stack([of_sites, covariates])
    values = values.astype(np.float64)
    coefficients = np.linalg.solve(design.T @ design, design.T @ values)
    own = site == reference
    variance = ((values[own] - design[own] @ coefficients) ** 2).mean(axis=0)
    kept = coefficients[reference] + covariates @ coefficients[sites:]
    standard = (values - kept) / np.sqrt(variance)
    of_sites = design[:, :sites]
    gamma = np.linalg.solve(of_sites.T @ of_sites, of_sites.T @ standard)
    delta = np.stack([standard[site == one].var(axis=0, ddof=1) for one in range(sites)])
    return {
        "B_hat": coefficients,
        "stand_mean": coefficients[reference][:, None],
        "var_pooled": variance[:, None],
        "gamma_star": gamma,
        "delta_star": delta,
    }


def apply(
    values: NDArray, site: NDArray[np.intp], covariates: Floats, model: Model, reference: int
) -> Floats:
    """Return the values (n, v) at the reference site. Its own scans do not change.

    The parameters are those of `learn` for any scans of the sites of the fit, and its result.
    """
    gamma, delta = model["gamma_star"], model["delta_star"]
    spread = np.sqrt(model["var_pooled"][:, 0])
    kept = model["stand_mean"][:, 0] + covariates @ model["B_hat"][len(gamma) :]
    moved = gamma[reference] + np.where(np.arange(len(gamma)) == reference, 0, 1)[:, None] * gamma
    standard = ((values - kept) / spread - moved[site]) / np.sqrt(delta[site])
    return np.where((site == reference)[:, None], values, standard * spread + kept)
