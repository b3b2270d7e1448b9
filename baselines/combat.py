"""ComBat: location and scale of every voxel per site, by neuroHarmonize if it is installed.

neuroHarmonize cannot be installed with numpy 2; `baselines.combat_blocks` then computes the same.
This module checks the input, because neuroHarmonize returns NaN or wrong numbers for several kinds
of input without a message (see docs/methods.md).
"""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from baselines.combat_blocks import Floats, Model, apply, join, learn, shrink
from baselines.covariates import CovariateCoding, as_numbers, learn_coding
from baselines.sites import reference_rows, require_known, require_reference
from harmbench.contracts.cohort import Cohort
from harmbench.contracts.method import ApplyContext, FitContext, Harmonizer, MethodInfo
from harmbench.errors import HarmbenchError
from harmbench.files.blocks import all_finite, blocks, release
from harmbench.files.models import load_model, save_model

Images = NDArray[np.float32]

HAS_NEUROHARMONIZE = find_spec("neuroHarmonize") is not None

APPLIED = ("B_hat", "stand_mean", "var_pooled", "gamma_star", "delta_star")
"""The learned arrays that neuroHarmonize needs to harmonize."""

ROWS_AT_ONCE = 256
"""Rows that are harmonized together, since this needs several float64 copies of them."""

VALUES_AT_ONCE = 2**23
"""Values (scans times voxels) that are learned from together. Learning needs about 80 bytes per
value."""

CONSTANT = 1e-6
"""A voxel is constant within a site if its standard deviation is at most this share of its largest
value in any scan, since float32 has seven digits."""


@dataclass(eq=False)
class Combat(Harmonizer):
    """ComBat with the reference site as its reference batch (Johnson 2007; Fortin 2018).

    Voxels that are in few masks of a site or constant within a site do not change. The scans of the
    reference site do not change either.

    Parameters
    ----------
    covariates : sequence of str
        Covariates whose linear effect is kept: ``"age"``, ``"sex"`` or any numeric column.
    age_basis : int
        Number of columns of a cubic B-spline of age with knots at quantiles of the fit part,
        constant outside its ages; 0 for a straight line.
    eb : bool
        Whether the estimates of sites are shrunk by empirical Bayes over all voxels.
    coverage : float
        Smallest share, in [0, 1], of each site's masks that must contain a voxel; 0 selects every
        voxel that is in a mask. At the edge of the brain, few scans of a site may contain tissue.
        The scale of such a voxel is not meaningful and can lead to extreme values.
    """

    covariates: Sequence[str] = ("age", "sex")
    age_basis: int = 0
    eb: bool = True
    coverage: float = 0.05

    def __post_init__(self) -> None:
        self.covariates = tuple(self.covariates)

    @property
    def info(self) -> MethodInfo:
        """The method uses the site and its covariates and renders at the reference site only."""
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
        """Learn the location and scale of every site from the scans with known covariates.

        Raises
        ------
        HarmbenchError
            For an unknown reference site, a value that is not finite, a site with fewer than two
            subjects, a covariate that is determined by site and the other covariates, or a coverage
            outside [0, 1].
        """
        reference_rows(cohort, context.reference_site)
        _require_finite(cohort)
        cohort = self._complete_rows(cohort, context.log)
        _require_subjects(cohort)
        sites = cohort.column("site").astype(str)
        self.reference_site, self.sites = context.reference_site, cohort.sites
        self.coding = learn_coding(cohort, self.covariates, self.age_basis, context.log)
        table = self._table(cohort, sites, context.log)
        _require_identified(table)
        self.voxels = self._choose_voxels(cohort, sites, context.log)
        self.model = self._learn(cohort.images, table, context.log)
        return self

    def harmonize(
        self, cohort: Cohort, target: str | None = None, *, context: ApplyContext
    ) -> Images:
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
        for rows in blocks(len(cohort), 1, ROWS_AT_ONCE):
            values = cohort.images[rows][:, self.voxels]
            out[rows, self.voxels] = self._apply(values, table.iloc[rows], context.log)
        return out

    def _complete_rows(self, cohort: Cohort, log: logging.Logger) -> Cohort:
        known = np.ones(len(cohort), dtype=bool)
        for name in self.covariates:
            known &= ~np.isnan(as_numbers(cohort, name))
        if known.all():
            return cohort
        log.info("%d scans without a covariate are left out of the fit", (~known).sum())
        return cohort.subset(known)

    def _choose_voxels(
        self, cohort: Cohort, sites: NDArray, log: logging.Logger
    ) -> NDArray[np.bool_]:
        if not 0 <= self.coverage <= 1:
            raise HarmbenchError(f"coverage is {self.coverage}; it is a share between 0 and 1")
        shares = [cohort.mask[sites == site].mean(axis=0) for site in self.sites]
        union = cohort.mask.any(axis=0)
        chosen = union & (np.min(shares, axis=0) >= self.coverage)
        varying = [np.empty(0, dtype=bool)]
        for values in _by_voxels(cohort.images, chosen):
            least = CONSTANT * np.abs(values).max(axis=0).astype(np.float64)
            stds = [values[sites == s].std(axis=0, dtype=np.float64) for s in self.sites]
            varying.append((np.array(stds) > least).all(axis=0))
        chosen[chosen] = np.concatenate(varying)
        log.info(
            "%d voxels; %d more are in a mask and do not change, because they are in few masks of "
            "a site or constant within a site",
            chosen.sum(),
            (union & ~chosen).sum(),
        )
        return chosen

    def _table(self, cohort: Cohort, sites: NDArray, log: logging.Logger) -> pd.DataFrame:
        return pd.DataFrame({"SITE": sites, **self.coding.columns(cohort, log)})

    def _learn(self, images: Images, table: pd.DataFrame, log: logging.Logger) -> Model:
        """Learn on the chosen voxels. The model is empty if there are none."""
        if not self.voxels.any():
            log.warning("no voxel varies within every site: all images pass through unchanged")
            return {}
        # neuroHarmonize does all steps if the voxels fit into one block.
        whole = HAS_NEUROHARMONIZE and int(self.voxels.sum()) * len(images) <= VALUES_AT_ONCE
        model = join(
            self._learn_block(values, table, self.eb and whole, log)
            for values in _by_voxels(images, self.voxels)
        )
        if self.eb and not whole:
            if self.voxels.sum() == 1:
                log.info("only one voxel varies: no empirical Bayes")
            else:
                scans = np.bincount(self._numbers(table)[0])
                gamma, delta = model["gamma_star"], model["delta_star"]
                with _guarded(log):
                    gamma, delta = shrink(gamma, delta, scans, self._reference)
                model |= {"gamma_star": gamma, "delta_star": delta}
        bad = [name for name, array in model.items() if not np.isfinite(array).all()]
        if bad:
            raise HarmbenchError(
                f"ComBat's estimates are not finite ({', '.join(bad)}); "
                "look for sites with hardly any variation or try eb=False"
            )
        return model

    def _learn_block(
        self, values: Images, table: pd.DataFrame, eb: bool, log: logging.Logger
    ) -> Model:
        if not HAS_NEUROHARMONIZE:
            with np.errstate(all="ignore"):
                return learn(values, *self._numbers(table), self._reference)
        from neuroHarmonize import harmonizationLearn

        with _guarded(log):
            model, _ = harmonizationLearn(values, table, eb=eb, ref_batch=self.reference_site)
        arrays = {name: np.asarray(model[name], dtype=np.float64) for name in APPLIED}
        # The grand mean has one identical column per row of the fit; one of them is copied.
        arrays["stand_mean"] = arrays["stand_mean"][:, :1].copy()
        return arrays

    def _apply(self, values: Images, table: pd.DataFrame, log: logging.Logger) -> Floats:
        if not HAS_NEUROHARMONIZE:
            return apply(values, *self._numbers(table), self.model, self._reference)
        from neuroHarmonize import harmonizationApply

        model = {
            **self.model,
            "SITE_labels": np.array(self.sites),
            "info_dict": {"ref_level": self._reference},
            "smooth_model": {"perform_smoothing": False, "smooth_cols": []},
        }
        # neuroHarmonize needs a row of every site of the fit; rows do not influence each other.
        dummies = pd.DataFrame(0.0, index=range(len(self.sites)), columns=table.columns)
        dummies["SITE"] = self.sites
        padding = np.zeros((len(dummies), values.shape[1]), dtype=values.dtype)
        with _guarded(log):
            out = harmonizationApply(
                np.concatenate([values, padding]),
                pd.concat([table, dummies], ignore_index=True),
                model,
            )
        return out[: len(values)]

    @property
    def _reference(self) -> int:
        return self.sites.index(self.reference_site)

    def _numbers(self, table: pd.DataFrame) -> tuple[NDArray[np.intp], Floats]:
        """Return the number of each row's site, and the covariates."""
        # In single precision, as in neuroHarmonize.
        covariates = table.drop(columns="SITE").to_numpy(dtype=np.float32).astype(np.float64)
        return pd.Index(self.sites).get_indexer(table["SITE"]), covariates

    def save(self, folder: Path) -> None:
        """Write the learned arrays, the coding of the covariates and the sites."""
        config = {
            "params": self.params(),
            "reference_site": self.reference_site,
            "sites": self.sites,
            "coding": asdict(self.coding),
        }
        save_model(folder, {"voxels": self.voxels, **self.model}, config)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Return the method that `save` wrote."""
        arrays, config = load_model(folder)
        method = cls(**config["params"])
        method.reference_site, method.sites = config["reference_site"], config["sites"]
        method.coding = CovariateCoding(**config["coding"])
        method.voxels = arrays.pop("voxels")
        method.model = arrays
        return method


def combat_nocov(eb: bool = True, coverage: float = 0.05) -> Combat:
    """Return the control that also removes effects of age and sex that differ between sites."""
    return Combat(covariates=(), eb=eb, coverage=coverage)


def _by_voxels(images: Images, chosen: NDArray[np.bool_]) -> Iterator[Images]:
    """Yield the chosen voxels of all images in blocks of shape (n, v)."""
    flat, voxels = images.reshape(len(images), -1), np.flatnonzero(chosen)
    for part in blocks(len(voxels), len(images), VALUES_AT_ONCE):
        first, last = voxels[part][0], voxels[part][-1]
        # Copying a range of columns first reads each page of a mapped file only once.
        run = np.ascontiguousarray(flat[:, first : last + 1])
        release(images)
        yield run[:, voxels[part] - first]


@contextmanager
def _guarded(log: logging.Logger) -> Iterator[None]:
    """Write neuroHarmonize's output to the log and suppress its warnings."""
    output = io.StringIO()
    with redirect_stdout(output), np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    for line in filter(str.strip, output.getvalue().splitlines()):
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
    """Raise an error for a covariate that is determined by site and the previous covariates."""
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
