"""Covariates as numbers: codes, imputation and the age spline, learned on the fit part."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import BSpline

from harmbench.contracts.cohort import Cohort
from harmbench.errors import HarmbenchError

SEX_CODES = {"F": 0.0, "M": 1.0}
DEGREE = 3


def as_numbers(cohort: Cohort, name: str) -> NDArray[np.float64]:
    """Return a covariate as numbers, shape (n,), with NaN for missing values.

    Sex is coded as 0 (F) and 1 (M).

    Raises
    ------
    HarmbenchError
        For a value that is not a number, or a sex that is neither F nor M.
    """
    values = cohort.column(name)
    missing = np.array([value is None or value != value for value in values], dtype=bool)
    out = np.full(len(values), np.nan)
    for row in np.flatnonzero(~missing):
        value = values[row]
        try:
            out[row] = SEX_CODES[value] if name == "sex" else float(value)
        except (KeyError, TypeError, ValueError):
            accepted = "F, M or empty" if name == "sex" else "a number or empty"
            raise HarmbenchError(
                f"covariate '{name}' is {value!r} in row {row}; it must be {accepted}"
            ) from None
    return out


@dataclass(frozen=True)
class CovariateCoding:
    """How covariates become columns of the design matrix.

    Attributes
    ----------
    names : sequence of str
        Covariates that are not constant in the fit part.
    medians : mapping of str to float
        Values that replace missing ones when images are harmonized.
    knots : sequence of float
        Knots of the cubic B-spline of age, with repeated ends; empty if age is linear.
    """

    names: Sequence[str]
    medians: Mapping[str, float]
    knots: Sequence[float]

    def columns(self, cohort: Cohort, log: logging.Logger) -> dict[str, NDArray[np.float64]]:
        """Return the columns of the design matrix by name, each of shape (n,), without NaN."""
        out: dict[str, NDArray[np.float64]] = {}
        for name in self.names:
            values = as_numbers(cohort, name)
            missing = np.isnan(values)
            if missing.any():
                median = self.medians[name]
                log.info("%d scans without %s: %g is assumed", missing.sum(), name, median)
                values[missing] = median
            if name == "age" and self.knots:
                # Constant outside the ages of the fit, since a cubic would diverge. The first
                # column is omitted, because all columns add up to 1, as the columns of sites do.
                inside = np.clip(values, self.knots[0], self.knots[-1])
                basis = BSpline.design_matrix(inside, np.array(self.knots), DEGREE).toarray()
                out |= {f"age_basis_{i}": basis[:, i] for i in range(1, basis.shape[1])}
            else:
                out[name] = values
        return out


def learn_coding(
    cohort: Cohort, names: Sequence[str], age_basis: int, log: logging.Logger
) -> CovariateCoding:
    """Learn the coding, without constant covariates.

    Parameters
    ----------
    cohort : Cohort
        Rows without missing covariates.
    names : sequence of str
        Requested covariates.
    age_basis : int
        Number of columns of the cubic B-spline of age, at least 3; 0 for a straight line.
    log : Logger
        Gets the names of constant covariates.
    """
    medians: dict[str, float] = {}
    knots: Sequence[float] = ()
    for name in names:
        values = as_numbers(cohort, name)
        if np.ptp(values) == 0:
            log.warning("covariate %s is %g in every scan of the fit: dropped", name, values[0])
            continue
        medians[name] = float(np.median(values))
        if name == "age" and age_basis:
            if age_basis < DEGREE:
                raise HarmbenchError(
                    f"age_basis is {age_basis}; choose 0 (a straight line) or 3 and more"
                )
            inner = np.quantile(values, np.linspace(0, 1, age_basis - DEGREE + 2))
            knots = np.pad(inner, DEGREE, mode="edge").tolist()
    return CovariateCoding(tuple(medians), medians, knots)
