"""Which features of a table still differ between sites."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from harmbench.contracts.cohort import Cohort
from harmbench.contracts.metric import Estimate, MetricInputs, MetricResult, metric

LEVEL = 0.05
"""False discovery rate."""


def site_effects(
    values: NDArray[np.float64], table: pd.DataFrame
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the effect of the site on each feature, adjusted for age and sex.

    Parameters
    ----------
    values : ndarray, shape (n, k)
    table : DataFrame of n rows
        ``site``, ``age`` (years), ``sex`` and ``fold``; missing ages are replaced by the mean.
        The site has an effect of its own in each fold, because the images of a fold are harmonized
        by a fit of their own. Over all folds, the errors of the fits cancel, so effects of the
        pooled images would be too small.

    Returns
    -------
    effect : ndarray, shape (k,)
        Share of the variance that the site explains, given age and sex: partial epsilon squared
        (Kelley 1935), which is 0 on average without an effect; negative values are set to 0.
    q : ndarray, shape (k,)
        p value of the analysis of covariance, adjusted for the false discovery rate (Benjamini &
        Hochberg 1995).
    """
    age = table["age"].astype(float)
    age = age.fillna(age.mean() if age.notna().any() else 0.0)
    sex = pd.get_dummies(table["sex"].fillna("missing"), dtype=float)
    fold = pd.get_dummies(table["fold"], dtype=float)
    site = pd.get_dummies(table["fold"] + "/" + table["site"], dtype=float)
    reduced = np.column_stack([fold, age - age.mean(), sex])
    full = np.column_stack([reduced, site])
    without, error = (_residual(x, values) for x in (reduced, full))
    df_site = np.linalg.matrix_rank(full) - np.linalg.matrix_rank(reduced)
    df_error = len(table) - np.linalg.matrix_rank(full)
    varies = without > 1e-12 * np.maximum((values**2).sum(0), 1e-300)
    scale = np.where(varies, without, 1.0)
    effect = np.where(varies, (without - error - df_site * error / df_error) / scale, 0.0)
    with np.errstate(divide="ignore"):
        ratio = (scale - error) / error * df_error / df_site
    p = np.where(varies, stats.f.sf(ratio, df_site, df_error), 1.0)
    return effect.clip(0.0, 1.0), stats.false_discovery_control(p)


def _residual(design: NDArray[np.float64], values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the sum of squared residuals of each column."""
    fitted = design @ np.linalg.lstsq(design, values, rcond=None)[0]
    return ((values - fitted) ** 2).sum(0)


def _averaged(
    cohort: Cohort, folds: NDArray[np.str_] | None
) -> tuple[NDArray[np.float64], pd.DataFrame]:
    """Return one row for each subject at each site."""
    table = cohort.participants.assign(fold="" if folds is None else folds)
    groups = table.groupby(["site", "participant_id"], sort=True)
    values = pd.DataFrame(np.asarray(cohort.images, np.float64)).groupby(groups.ngroup()).mean()
    return values.to_numpy(), groups[["age", "sex", "fold"]].first().reset_index()


@metric(
    label="Features that differ between sites",
    axis="site removal",
    level="core",
    direction="lower",
    goal=0.0,
    range=(0.0, 1.0),
    min_n=30,
    needs=("harmonized.test",),
    wants=("raw.test",),
    doi="10.1111/j.2517-6161.1995.tb02031.x",
)
def site_regions(inputs: MetricInputs, rng: np.random.Generator) -> MetricResult:
    """Share of the features of a table that differ between sites, given age and sex.

    A feature differs if its analysis of covariance is significant at a false discovery rate of 5 %.
    The floor is the share before harmonization. The effect sizes (partial epsilon squared)
    of all features are in the report.
    """
    cohort = inputs.cohort("harmonized.test")
    if cohort.space != "table":
        return MetricResult.skipped("needs a table of features; these data are images")
    values, table = _averaged(cohort, inputs.folds)
    cells = len(table[["site", "fold"]].drop_duplicates())
    if len(table) - cells < 10:
        return MetricResult.skipped(f"needs {cells + 10} subjects; there are {len(table)}")
    effect, q = site_effects(values, table)
    floors = {}
    if "raw.test" in inputs:
        _, raw = site_effects(*_averaged(inputs.cohort("raw.test"), inputs.folds))
        floors["before harmonization"] = float((raw <= LEVEL).mean())
    return MetricResult(
        Estimate(float((q <= LEVEL).mean()), n=table["participant_id"].nunique()),
        floors=floors,
        arrays={"effect": effect, "q": q},
    )
