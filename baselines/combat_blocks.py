"""Linear ComBat: the formulas, and learning in blocks of voxels.

`learn` and `apply` do what neuroHarmonize does, where that cannot be installed (it needs numpy
below 2). Blocks give the same estimates from a part of the images at a time:

neuroHarmonize holds some eight float64 copies of all voxels of all scans. Its regression, variances
and raw site effects concern one voxel at a time, so blocks give the same. Its empirical Bayes does
not: priors are moments over all voxels of a site, and its iterations stop when the last voxel has
settled. Blocks shrunk one by one would have other priors each. So every block is learned without
it, and the shrinkage is done once, over all voxels, on what the blocks have learned; the images are
not read again, because a site's mean and variance of a voxel say all that the shrinkage asks of it.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Model = dict[str, Floats]

SETTLED = 1e-4
"""Largest relative change in the last iteration, as in neuroCombat."""


def joined(blocks: Iterable[dict[str, Floats]]) -> dict[str, Floats]:
    """Join what blocks of voxels have learned.

    Parameters
    ----------
    blocks : iterable of dict
        ``B_hat`` (columns, v), ``stand_mean`` and ``var_pooled`` (v, 1), ``gamma_star`` and
        ``delta_star`` (sites, v), as neuroHarmonize learns them without empirical Bayes.

    Returns
    -------
    dict
        The same of all voxels.
    """
    found = list(blocks)
    along = {"stand_mean": 0, "var_pooled": 0}
    return {
        name: np.concatenate([one[name] for one in found], axis=along.get(name, 1))
        for name in found[0]
    }


def shrunk(
    gamma: Floats, delta: Floats, scans: NDArray[np.intp], reference: int
) -> tuple[Floats, Floats]:
    """Shrink every site's location and scale by empirical Bayes over all voxels.

    Johnson 2007 (10.1093/biostatistics/kxj037), eq. 3.1, solved as neuroCombat does, with its
    priors and formulas. Its sum of squares over the scans of a site, ``sum (z - g)^2``, is
    ``(n - 1) delta + n (mean - g)^2``.

    Parameters
    ----------
    gamma, delta : ndarray, shape (sites, voxels)
        Each site's location, over that of the reference site, and its variance with n - 1.
    scans : ndarray of int, shape (sites,)
        Number of scans of each site.
    reference : int
        Row of the reference site, which keeps location 0 and scale 1.

    Returns
    -------
    gamma_star, delta_star : ndarray, shape (sites, voxels)
    """
    locations, scales = np.zeros_like(gamma), np.ones_like(delta)
    for site in range(len(gamma)):
        if site != reference:
            mean = gamma[reference] + gamma[site]
            locations[site], scales[site] = _settled(gamma[site], delta[site], mean, scans[site])
    return locations, scales


def _settled(gamma: Floats, delta: Floats, mean: Floats, n: int) -> tuple[Floats, Floats]:
    """Iterate one site's posterior means until no voxel changes."""
    center, spread = np.mean(gamma), np.var(gamma, ddof=1)
    m, s2 = np.mean(delta), np.var(delta, ddof=1)
    shape, rate = (2 * s2 + m**2) / s2, (m * s2 + m**3) / s2  # of the inverse gamma prior
    location, scale, change = gamma, delta, 1.0
    while change > SETTLED:
        last = location, scale
        location = (spread * n * gamma + scale * center) / (spread * n + scale)
        squares = (n - 1) * delta + n * (mean - location) ** 2
        scale = (0.5 * squares + rate) / (n / 2 + shape - 1)
        moved = (np.abs(location - last[0]) / last[0]).max()  # signed below, as neuroCombat's
        change = max(moved, (np.abs(scale - last[1]) / last[1]).max())
    return location, scale


def learn(values: NDArray, site: NDArray[np.intp], covariates: Floats, reference: int) -> Model:
    """Learn location and scale of every site without empirical Bayes, as neuroHarmonize does.

    Johnson 2007 (10.1093/biostatistics/kxj037), section 3, with a reference batch: its scans alone
    give the grand mean and the variance.

    Parameters
    ----------
    values : ndarray, shape (n, v)
        Voxels of the fit.
    site : ndarray of int, shape (n,)
        Number of each scan's site, from 0 on.
    covariates : ndarray of float64, shape (n, k)
        Whose linear effect is kept.
    reference : int
        Number of the reference site.

    Returns
    -------
    dict
        As `joined` takes it.
    """
    design = _design(site, covariates, int(site.max()) + 1, reference)
    sites = design.shape[1] - covariates.shape[1]
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
    """Return values at the reference site, as neuroHarmonize's apply step does.

    Parameters
    ----------
    values : ndarray, shape (n, v)
        Voxels of any scans of the sites of the fit.
    site, covariates, reference
        As in `learn`.
    model : dict
        What was learned.

    Returns
    -------
    ndarray of float64, shape (n, v)
        The scans of the reference site are unchanged.
    """
    gamma, delta = model["gamma_star"], model["delta_star"]
    spread = np.sqrt(model["var_pooled"][:, 0])
    kept = model["stand_mean"][:, 0] + covariates @ model["B_hat"][len(gamma) :]
    moved = gamma[reference] + np.where(np.arange(len(gamma)) == reference, 0, 1)[:, None] * gamma
    standard = ((values - kept) / spread - moved[site]) / np.sqrt(delta[site])
    return np.where((site == reference)[:, None], values, standard * spread + kept)


def _design(site: NDArray[np.intp], covariates: Floats, sites: int, reference: int) -> Floats:
    """Return columns of sites, that of the reference site all ones, and of covariates."""
    of_sites = (site[:, None] == np.arange(sites)).astype(np.float64)
    of_sites[:, reference] = 1.0
    return np.column_stack([of_sites, covariates])
