"""Checks of sites and targets that the baselines share."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray

from harmbench.contracts.cohort import Cohort
from harmbench.contracts.method import OWN_SITE
from harmbench.errors import HarmbenchError, unknown


def reference_rows(cohort: Cohort, reference_site: str) -> NDArray[np.intp]:
    """Return the positions of the rows of the reference site.

    Raises
    ------
    HarmbenchError
        If the cohort has no scan of this site.
    """
    rows = np.flatnonzero(cohort.column("site") == reference_site)
    if rows.size == 0:
        raise unknown("reference site", reference_site, cohort.sites)
    return rows


def require_known(sites: NDArray, known: Collection[str], method: str) -> None:
    """Raise an error if a scan is from a site that the method has not seen in its fit.

    Parameters
    ----------
    sites : ndarray of str, shape (n,)
        Site of every row.
    known : collection of str
        Sites of the fit.
    method : str
        Name of the method in the message.
    """
    unseen = ~np.isin(sites.astype(str), sorted(known))
    if unseen.any():
        names = ", ".join(sorted({str(site) for site in sites[unseen]}))
        raise HarmbenchError(
            f"{method} was fitted on the sites {', '.join(sorted(known))} and cannot harmonize "
            f"{int(unseen.sum())} scans of: {names}; fit it on a cohort with them or leave them out"
        )


def require_reference(target: str | None, reference_site: str, method: str) -> None:
    """Raise an error if the target is neither None nor the reference site of the fit."""
    if target not in (None, reference_site):
        what = "each scan's own site" if target == OWN_SITE else f"'{target}'"
        raise HarmbenchError(
            f"{method} renders only to the reference site of its fit, '{reference_site}', "
            f"not to {what}; fit it again with another reference site"
        )
