"""ComBat learned in blocks of voxels: the same estimates from a part of the images at a time.

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
    from neuroCombat.neuroCombat import aprior, bprior, postmean, postvar

    center, spread = np.mean(gamma), np.var(gamma, ddof=1)
    shape, rate = aprior(delta), bprior(delta)
    location, scale, change = gamma, delta, 1.0
    while change > SETTLED:
        last = location, scale
        location = postmean(gamma, center, n, scale, spread)
        squares = (n - 1) * delta + n * (mean - location) ** 2
        scale = postvar(squares, n, shape, rate)
        moved = (np.abs(location - last[0]) / last[0]).max()  # signed below, as neuroCombat's
        change = max(moved, (np.abs(scale - last[1]) / last[1]).max())
    return location, scale
