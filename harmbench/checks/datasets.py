"""Checks of a data set."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property, partial

import numpy as np

from harmbench.checks.result import CheckResult, NotApplicable, expect, expect_finite, run
from harmbench.contracts.cohort import COVARIATES, Cohort
from harmbench.contracts.dataset import Dataset

ROWS = 5
"""Number of rows for which the truth and the geometry are requested."""


class _Case:
    """A data set under check. It is made and loaded once, and again if a check needs it."""

    def __init__(self, factory: Callable[[], Dataset]) -> None:
        self.factory = factory

    @cached_property
    def dataset(self) -> Dataset:
        return self.factory()

    @cached_property
    def cohort(self) -> Cohort:
        return self.dataset.load()


def dataset_checks(factory: Callable[[], Dataset]) -> list[CheckResult]:
    """Check a data set against the contract of `harmbench.contracts.dataset`.

    Parameters
    ----------
    factory : callable
        Returns the data set; called several times.
    """
    case = _Case(factory)
    return [run(name, partial(check, case)) for name, check in CHECKS.items()]


def _declaration(case: _Case) -> None:
    info = case.dataset.info
    for name in ("name", "label", "summary"):
        expect(bool(getattr(info, name).strip()), f"info.{name} is empty")


def _fingerprint(case: _Case) -> None:
    first, again = case.dataset.fingerprint, case.factory().fingerprint
    expect(isinstance(first, str) and bool(first), f"the fingerprint is {first!r}, not a text")
    expect(first == again, f"the fingerprint changes: {first}, then {again}")


def _loads(case: _Case) -> None:
    cohort = case.cohort
    expect(len(cohort) > 0, "the cohort has no rows")
    missing = [name for name in COVARIATES if name not in cohort.participants]
    expect(not missing, f"the table lacks {', '.join(missing)}; an unknown age or sex is NaN")
    expect_finite(cohort.images, "the images contain")
    expect(cohort.mask.dtype == bool, f"the masks are {cohort.mask.dtype}, not bool")
    expect(bool(cohort.mask.any()), "all masks are empty")


def _rows(case: _Case) -> None:
    keys, table = case.cohort.keys, case.cohort.participants
    expect(len(set(keys)) == len(keys), "two rows have the same participant, session and slice")
    named = table["site"].map(lambda site: isinstance(site, str) and bool(site))
    expect(bool(named.all()), "a site is not a text or is empty")
    unknown = sorted(set(table["sex"].dropna()) - {"F", "M"})
    expect(not unknown, f"the sex must be F, M or NaN, not {unknown}")
    ages = table["age"].astype(float).dropna()
    expect(bool(ages.between(0, 120).all()), "an age is outside 0 to 120 years")


def _sites(case: _Case) -> None:
    sites, reference = case.cohort.sites, case.dataset.reference_site
    expect(len(sites) > 1, f"there is one site, {sites}; harmonization needs two")
    expect(reference in (None, *sites), f"the reference site '{reference}' is not one of {sites}")


def _loads_again(case: _Case) -> None:
    again = case.factory().load()
    expect(again.keys == case.cohort.keys, "a second load gives other rows, or another order")
    expect(np.array_equal(again.images, case.cohort.images), "a second load gives other images")


def _truth(case: _Case) -> None:
    if not case.dataset.info.has_truth:
        raise NotApplicable("it declares no truth")
    truth, site = case.dataset.truth, case.cohort.sites[0]
    keys, expected = case.cohort.keys[:ROWS], case.cohort.images[:ROWS].shape
    one, two = (truth(site, keys, draw=draw) for draw in (0, 1))
    expect(one.shape == expected, f"the truth has shape {one.shape}")
    expect(np.array_equal(one, truth(site, keys)), "the truth changes between calls")
    expect(not np.array_equal(one, two), "two draws of the truth are equal")
    reversed_rows = truth(site, keys[::-1])[::-1]
    expect(np.array_equal(one, reversed_rows), "the truth of a row depends on the other rows")


def _geometry(case: _Case) -> None:
    keys = case.cohort.keys[:ROWS]
    affines = case.dataset.geometry(keys)
    if affines is None:
        raise NotApplicable("it does not give the position of its rows in space")
    expect(affines.shape == (len(keys), 4, 4), f"the affines have shape {affines.shape}")


CHECKS: dict[str, Callable[[_Case], None]] = {
    "declaration is complete": _declaration,
    "fingerprint is stable": _fingerprint,
    "loads a cohort": _loads,
    "rows are valid": _rows,
    "sites and reference site": _sites,
    "a second load is equal": _loads_again,
    "truth is repeatable": _truth,
    "geometry has the right shape": _geometry,
}
