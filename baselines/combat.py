"""ComBat: location and scale of every voxel per site, on neuroHarmonize where that is installed.

It cannot be installed beside numpy 2; there `baselines.combat_blocks` does the same. This module
checks the input, because neuroHarmonize answers several kinds of it with NaN or with wrong numbers
and says nothing (see docs/methods.md).
"""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from baselines.combat_blocks import apply, joined, learn, shrunk
from baselines.covariates import CovariateCoding, as_numbers, learn_coding
from baselines.sites import reference_rows, require_known, require_reference
from harmbench.contracts.cohort import Cohort
from harmbench.contracts.method import ApplyContext, FitContext, Harmonizer, MethodInfo
from harmbench.errors import HarmbenchError
from harmbench.files.blocks import all_finite, blocks, release
from harmbench.files.models import load_model, save_model

HAS_NEUROHARMONIZE = find_spec("neuroHarmonize") is not None

APPLIED = ("B_hat", "stand_mean", "var_pooled", "gamma_star", "delta_star")
"""The learned arrays that neuroHarmonize's apply step reads."""

ROWS_AT_ONCE = 256
"""Rows per call of the apply step, whose intermediates are several float64 copies."""

VALUES_AT_ONCE = 2**23
"""Values of images, scans times voxels, that are learned from at once; the learning takes some 80
bytes of each."""

CONSTANT = 1e-6
"""A voxel is constant within a site where its standard deviation there is at most this share of its
largest value in any scan, whatever the unit: float32 keeps seven digits."""


class Combat(Harmonizer):
    """ComBat with the reference site as its reference batch (Johnson 2007; Fortin 2018).

    Voxels that lie in few masks of some site or are constant within one pass through unchanged,
    and so do the scans of the reference site.

    Parameters
    ----------
    covariates : sequence of str
        Covariates whose linear effect is kept: ``"age"``, ``"sex"`` or any numeric column.
    age_basis : int
        Columns of a cubic B-spline of age with knots at the fit's quantiles, clamped outside;
        0 keeps a straight line.
    eb : bool
        Whether sites' estimates are shrunk by empirical Bayes, pooled over voxels.
    coverage : float
        Least share, in [0, 1], of every site's masks that a voxel must lie in; 0 takes every voxel
        of some mask. At the rim of the brain a site may have its tissue in one scan of fifty; the
        ratio of such deviations has no meaning and can throw a voxel far out of range.
    """

    def __init__(
        self,
        covariates: Sequence[str] = ("age", "sex"),
        age_basis: int = 0,
        eb: bool = True,
        coverage: float = 0.05,
    ) -> None:
        self.covariates = tuple(covariates)
        self.age_basis = age_basis
        self.eb = eb
        self.coverage = coverage

    @property
    def info(self) -> MethodInfo:
        """Sees the site and the covariates it keeps; reference site only."""
        sees = frozenset({"site", *self.covariates})
        spline = " (age spline)" if self.age_basis and "age" in self.covariates else ""
        kept = f"{', '.join(self.covariates)} kept" if self.covariates else "no covariates"
        return MethodInfo(
            name="combat" if self.covariates else "combat-nocov",
            label=f"ComBat{spline}" if self.covariates else "ComBat without covariates",
            summary=f"Aligns location and scale of every voxel per site; {kept}.",
            doi="10.1016/j.neuroimage.2017.11.024",
            fit_sees=sees,
            harmonize_sees=sees,
            spaces=frozenset({"slice", "volume", "table"}),
            control=not self.covariates,
        )

    def fit(self, cohort: Cohort, context: FitContext) -> Self:
        """Learn every site's location and scale from the scans whose covariates are known.

        Raises
        ------
        HarmbenchError
            For an unknown reference site, a value that is not finite, a site with fewer than two
            subjects, a covariate that site and the other covariates determine, or a coverage
            outside [0, 1].
        """
        reference_rows(cohort, context.reference_site)
        _require_finite(cohort)
        cohort = self._complete_rows(cohort, context)
        _require_subjects(cohort)
        sites = cohort.column("site").astype(str)
        self.reference_site = context.reference_site
        self.coding = learn_coding(cohort, self.covariates, self.age_basis, context.log)
        table = self._table(cohort, sites, context.log)
        _require_identified(table)
        self.voxels = self._choose_voxels(cohort, sites, context.log)
        self.sites = cohort.sites
        self.model = _learn(
            cohort.images, self.voxels, table, self.eb, self.reference_site, context.log
        )
        return self

    def harmonize(
        self, cohort: Cohort, target: str | None = None, *, context: ApplyContext
    ) -> NDArray[np.float32]:
        """Return the images at the reference site, shape (n, *shape).

        Raises
        ------
        HarmbenchError
            For another target, a site that the fit has not seen, or a value that is not finite.
        """
        require_reference(target, self.reference_site, self.info.name)
        sites = cohort.column("site").astype(str)
        require_known(sites, self.sites, self.info.name)
        _require_finite(cohort)
        out = cohort.images.copy()
        if not self.voxels.any():
            return out
        table = self._table(cohort, sites, context.log)
        for start in range(0, len(cohort), ROWS_AT_ONCE):
            rows = slice(start, start + ROWS_AT_ONCE)
            values = cohort.images[rows][:, self.voxels]
            out[rows, self.voxels] = self._apply(values, table.iloc[rows], context.log)
        return out

    def _complete_rows(self, cohort: Cohort, context: FitContext) -> Cohort:
        known = np.ones(len(cohort), dtype=bool)
        for name in self.covariates:
            known &= ~np.isnan(as_numbers(cohort, name))
        if not known.all():
            context.log.info("%d scans without a covariate are left out of the fit", (~known).sum())
        return cohort if known.all() else cohort.subset(known)

    def _choose_voxels(
        self, cohort: Cohort, sites: NDArray, log: logging.Logger
    ) -> NDArray[np.bool_]:
        if not 0 <= self.coverage <= 1:
            raise HarmbenchError(f"coverage is {self.coverage}; it is a share between 0 and 1")
        union = cohort.mask.any(axis=0)
        chosen = union & (_least_share(cohort.mask, sites) >= self.coverage)
        varying = [
            _vary_within_sites(values, sites) for values in _by_voxels(cohort.images, chosen)
        ]
        chosen[chosen] = np.concatenate([np.empty(0, dtype=bool), *varying])
        log.info(
            "%d voxels; %d more lie in some mask and pass through, being in few masks of a site "
            "or constant within one",
            chosen.sum(),
            (union & ~chosen).sum(),
        )
        return chosen

    def _table(self, cohort: Cohort, sites: NDArray, log: logging.Logger) -> pd.DataFrame:
        return pd.DataFrame({"SITE": sites, **self.coding.columns(cohort, log)})

    def _apply(
        self, values: NDArray[np.float32], table: pd.DataFrame, log: logging.Logger
    ) -> NDArray[np.float64]:
        if not HAS_NEUROHARMONIZE:
            codes, covariates = _coded(table, self.sites)
            reference = self.sites.index(self.reference_site)
            return apply(values, codes, covariates, _arrays(self.model), reference)
        from neuroHarmonize import harmonizationApply

        # The apply step needs a row of every site of the fit; rows do not influence each other.
        dummies = pd.DataFrame(0.0, index=range(len(self.sites)), columns=table.columns)
        dummies["SITE"] = self.sites
        padding = np.zeros((len(dummies), values.shape[1]), dtype=values.dtype)
        with _guarded(log):
            out = harmonizationApply(
                np.concatenate([values, padding]),
                pd.concat([table, dummies], ignore_index=True),
                self.model,
            )
        return out[: len(values)]

    def save(self, folder: Path) -> None:
        """Write the learned arrays, the coding of the covariates and the sites."""
        config = {
            "params": self.params(),
            "reference_site": self.reference_site,
            "sites": self.sites,
            "coding": self.coding.to_json(),
        }
        save_model(folder, {"voxels": self.voxels, **_arrays(self.model)}, config)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read back what `save` wrote."""
        arrays, config = load_model(folder)
        method = cls(**config["params"])
        method.reference_site, method.sites = config["reference_site"], config["sites"]
        method.coding = CovariateCoding.from_json(config["coding"])
        method.voxels = arrays.pop("voxels")
        method.model = _model(arrays, method.sites, method.reference_site)
        return method


def combat_nocov(eb: bool = True, coverage: float = 0.05) -> Combat:
    """Return the control "ComBat without covariates": removes what sites' populations differ in."""
    return Combat(covariates=(), eb=eb, coverage=coverage)


def _by_voxels(
    images: NDArray[np.float32], chosen: NDArray[np.bool_]
) -> Iterator[NDArray[np.float32]]:
    """Yield the chosen voxels of all images in blocks of voxels, each of shape (n, v)."""
    flat, voxels = images.reshape(len(images), -1), np.flatnonzero(chosen)
    for part in blocks(len(voxels), len(images), VALUES_AT_ONCE):
        first, last = voxels[part][0], voxels[part][-1]
        # Rows are copied in runs first: picked from the whole, each value were a page of its own.
        run = np.ascontiguousarray(flat[:, first : last + 1])
        release(images)
        yield run[:, voxels[part] - first]


def _learn(
    images: NDArray[np.float32],
    voxels: NDArray[np.bool_],
    table: pd.DataFrame,
    eb: bool,
    reference_site: str,
    log: logging.Logger,
) -> dict[str, Any]:
    """Learn on some voxels of the images; an empty model where there is none.

    What fits into one block is learned by neuroHarmonize alone. Of several blocks it learns all but
    the empirical Bayes, see `baselines.combat_blocks`.
    """
    sites = sorted(table["SITE"].unique())
    if not voxels.any():
        log.warning("no voxel varies within every site: all images pass through unchanged")
        return _model({}, sites, reference_site)
    whole = int(voxels.sum()) * len(images) <= VALUES_AT_ONCE
    arrays = joined(
        _learn_block(values, table, eb and whole, reference_site, log)
        for values in _by_voxels(images, voxels)
    )
    if eb and not whole:
        counts = np.array([(table["SITE"] == site).sum() for site in sites])
        stars = arrays["gamma_star"], arrays["delta_star"]
        with _guarded(log):
            stars = shrunk(*stars, counts, sites.index(reference_site))
        arrays["gamma_star"], arrays["delta_star"] = stars
    bad = [name for name, array in arrays.items() if not np.isfinite(array).all()]
    if bad:
        raise HarmbenchError(
            f"ComBat's estimates are not finite ({', '.join(bad)}); "
            "look for sites with hardly any variation or try eb=False"
        )
    return _model(arrays, sites, reference_site)


def _learn_block(
    values: NDArray[np.float32],
    table: pd.DataFrame,
    eb: bool,
    reference_site: str,
    log: logging.Logger,
) -> dict[str, NDArray[np.float64]]:
    """Learn on values of shape (n, voxels)."""
    if not HAS_NEUROHARMONIZE:
        sites = sorted(table["SITE"].unique())
        codes, covariates = _coded(table, sites)
        with np.errstate(all="ignore"):
            model = learn(values, codes, covariates, sites.index(reference_site))
            if eb and values.shape[1] == 1:
                log.info("only one voxel varies: no empirical Bayes")
            elif eb:
                stars = model["gamma_star"], model["delta_star"]
                counts = np.bincount(codes)
                stars = shrunk(*stars, counts, sites.index(reference_site))
                model["gamma_star"], model["delta_star"] = stars
        return model
    from neuroHarmonize import harmonizationLearn

    with _guarded(log):
        model, _ = harmonizationLearn(values, table, eb=eb, ref_batch=reference_site)
    arrays = {name: np.asarray(model[name], dtype=np.float64) for name in APPLIED}
    # The grand mean is repeated for every row of the fit; one column, copied, says it.
    arrays["stand_mean"] = arrays["stand_mean"][:, :1].copy()
    return arrays


def _coded(table: pd.DataFrame, sites: Sequence[str]) -> tuple[NDArray[np.intp], NDArray]:
    """Return the numbers of the sites of the rows, and the covariates."""
    number = {site: i for i, site in enumerate(sites)}
    codes = np.array([number[site] for site in table["SITE"]], dtype=np.intp)
    # Single precision, as neuroHarmonize has them.
    return codes, table.drop(columns="SITE").to_numpy(dtype=np.float32).astype(np.float64)


def _model(
    arrays: Mapping[str, NDArray], sites: Sequence[str], reference_site: str
) -> dict[str, Any]:
    """Return what neuroHarmonize's apply step reads of a model."""
    return {
        **arrays,
        "SITE_labels": np.array(sites),
        "info_dict": {"ref_level": list(sites).index(reference_site)},
        "smooth_model": {"perform_smoothing": False, "smooth_cols": []},
    }


def _arrays(model: Mapping[str, Any]) -> dict[str, NDArray]:
    return {name: model[name] for name in APPLIED if name in model}


@contextmanager
def _guarded(log: logging.Logger) -> Iterator[None]:
    """Send neuroHarmonize's printed lines to the log and hold back its numpy warnings."""
    said = io.StringIO()
    with redirect_stdout(said), np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    for line in filter(str.strip, said.getvalue().splitlines()):
        log.info("neuroHarmonize: %s", line.strip())


def _require_finite(cohort: Cohort) -> None:
    bad = np.flatnonzero(~all_finite(cohort.images))
    if bad.size:
        who = cohort.column("participant_id")[bad[0]]
        raise HarmbenchError(
            f"{bad.size} images hold values that are not finite (first: {who}); one of them would "
            "turn the result of ComBat into NaN; repair them or leave them out"
        )


def _require_subjects(cohort: Cohort) -> None:
    subjects = cohort.participants.groupby("site")["participant_id"].nunique()
    few = subjects[subjects < 2]
    if len(few) or len(subjects) == 0:
        names = ", ".join(str(site) for site in few.index) or "none is left"
        raise HarmbenchError(
            "ComBat needs two or more subjects with known covariates at every site of the fit; "
            f"too few at: {names}; leave out these sites or choose other covariates"
        )


def _require_identified(table: pd.DataFrame) -> None:
    """Raise the error of a covariate that site and the covariates before it determine."""
    design = pd.get_dummies(table["SITE"]).to_numpy(dtype=np.float64)
    for name in table.columns.drop("SITE"):
        column = table[name].to_numpy(dtype=np.float64)
        scaled = (column - column.mean()) / max(column.std(), np.finfo(np.float64).tiny)
        design = np.column_stack([design, scaled])
        if np.linalg.matrix_rank(design) < design.shape[1]:
            raise HarmbenchError(
                f"ComBat cannot tell covariate '{name}' from site (and the covariates before it): "
                "it does not vary within sites; leave it out of `covariates` or use combat-nocov"
            )


def _least_share(mask: NDArray[np.bool_], sites: NDArray) -> NDArray[np.float64]:
    """Return in which share of a site's masks each voxel lies, at the site with the least."""
    return np.min([mask[sites == site].mean(axis=0) for site in np.unique(sites)], axis=0)


def _vary_within_sites(values: NDArray[np.float32], sites: NDArray) -> NDArray[np.bool_]:
    """Return which columns vary within every site: ComBat divides by these deviations."""
    varying = np.ones(values.shape[1], dtype=bool)
    least = CONSTANT * np.abs(values).max(axis=0).astype(np.float64)
    for site in np.unique(sites):
        varying &= values[sites == site].std(axis=0, dtype=np.float64) > least
    return varying
