"""Covariates as numbers: codes, imputation and the age spline, learned on the fit part."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import BSpline

from harmbench.contracts.cohort import Cohort
from harmbench.errors import HarmbenchError

SEX_CODES = {"F": 0.0, "M": 1.0}
DEGREE = 3


def as_numbers(cohort: Cohort, name: str) -> NDArray[np.float64]:
    """Return a covariate as numbers, NaN where it is missing.

    Parameters
    ----------
    cohort : Cohort
        Has the column.
    name : str
        ``"sex"`` is coded F 0 and M 1; any other column must be numeric.

    Returns
    -------
    ndarray of float64, shape (n,)

    Raises
    ------
    HarmbenchError
        For a value that is no number (or, for sex, neither F nor M).
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
    """How covariates become columns of the design; the same columns, in order, at every call.

    Attributes
    ----------
    names : tuple of str
        Covariates in use: those asked for without the constant ones.
    medians : mapping of str to float
        What a missing value becomes when harmonizing.
    knots : tuple of float
        Knots of the cubic B-spline of age, ends repeated; empty where age is linear.
    """

    names: tuple[str, ...]
    medians: Mapping[str, float] = field(default_factory=dict)
    knots: tuple[float, ...] = ()

    def columns(self, cohort: Cohort, log: logging.Logger) -> dict[str, NDArray[np.float64]]:
        """Return the design's columns by name, each of shape (n,), without missing values."""
        out: dict[str, NDArray[np.float64]] = {}
        for name in self.names:
            values = as_numbers(cohort, name)
            missing = np.isnan(values)
            if missing.any():
                median = self.medians[name]
                log.info("%d scans without %s: %g is assumed", missing.sum(), name, median)
                values[missing] = median
            if name == "age" and self.knots:
                out.update(_spline_columns(values, np.array(self.knots)))
            else:
                out[name] = values
        return out

    def to_json(self) -> dict[str, Any]:
        """Return what `from_json` reads."""
        return {"names": self.names, "medians": dict(self.medians), "knots": self.knots}

    @classmethod
    def from_json(cls, saved: Mapping[str, Any]) -> CovariateCoding:
        """Return the coding that `to_json` described."""
        return cls(tuple(saved["names"]), saved["medians"], tuple(saved["knots"]))


def learn_coding(
    cohort: Cohort, names: Sequence[str], age_basis: int, log: logging.Logger
) -> CovariateCoding:
    """Learn codes, medians and knots; drop constant covariates with a line in the log.

    Parameters
    ----------
    cohort : Cohort
        Rows without missing covariates.
    names : sequence of str
        Covariates asked for.
    age_basis : int
        Columns of the cubic B-spline of age (at least 3); 0 for a straight line.
    log : Logger
        Where dropped covariates are named.
    """
    medians: dict[str, float] = {}
    knots: tuple[float, ...] = ()
    for name in names:
        values = as_numbers(cohort, name)
        if np.ptp(values) == 0:
            log.warning("covariate %s is %g in every scan of the fit: dropped", name, values[0])
            continue
        medians[name] = float(np.median(values))
        if name == "age" and age_basis:
            knots = _quantile_knots(values, age_basis)
    return CovariateCoding(tuple(medians), medians, knots)


def _quantile_knots(values: NDArray[np.float64], columns: int) -> tuple[float, ...]:
    if columns < DEGREE:
        raise HarmbenchError(f"age_basis is {columns}; choose 0 (a straight line) or 3 and more")
    inner = np.quantile(values, np.linspace(0, 1, columns - DEGREE + 2))
    ends = [inner[0]] * DEGREE, [inner[-1]] * DEGREE
    return tuple(float(knot) for knot in (*ends[0], *inner, *ends[1]))


def _spline_columns(
    values: NDArray[np.float64], knots: NDArray[np.float64]
) -> dict[str, NDArray[np.float64]]:
    # Clamped outside the fit's ages: a cubic runs away there. The first column is left out
    # because all of them add up to 1, which the site columns say already.
    inside = np.clip(values, knots[0], knots[-1])
    basis = BSpline.design_matrix(inside, knots, DEGREE).toarray()[:, 1:]
    return {f"age_basis_{i}": column for i, column in enumerate(basis.T, start=1)}
