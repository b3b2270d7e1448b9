"""The contract suite of a data set: made twice, read, and asked for what it declares."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property, partial

import numpy as np

from harmbench.checks.result import CheckResult, NotApplicable, expect, run
from harmbench.contracts.cohort import COVARIATES, Cohort
from harmbench.contracts.dataset import Dataset

ROWS = 5
"""Rows whose truth is asked for."""


class DatasetCase:
    """A data set under check: made and read once, and again only where a check needs it."""

    def __init__(self, factory: Callable[[], Dataset]) -> None:
        self.factory = factory

    @cached_property
    def dataset(self) -> Dataset:
        """The data set."""
        return self.factory()

    @cached_property
    def cohort(self) -> Cohort:
        """What it holds."""
        return self.dataset.load()


def dataset_checks(factory: Callable[[], Dataset]) -> list[CheckResult]:
    """Check a data set against the contract of `harmbench.contracts.dataset`.

    Parameters
    ----------
    factory : callable
        Makes the data set; called twice.

    Returns
    -------
    list of CheckResult
    """
    case = DatasetCase(factory)
    return [run(name, partial(check, case)) for name, check in CHECKS.items()]


def _declares(case: DatasetCase) -> None:
    info = case.dataset.info
    for name in ("name", "label", "summary"):
        expect(bool(getattr(info, name).strip()), f"info.{name} is empty")


def _fingerprint(case: DatasetCase) -> None:
    first, again = case.dataset.fingerprint, case.factory().fingerprint
    expect(isinstance(first, str) and bool(first), f"the fingerprint is {first!r}, not a text")
    expect(first == again, f"the fingerprint changes: {first}, then {again}")


def _loads(case: DatasetCase) -> None:
    cohort = case.cohort
    expect(len(cohort) > 0, "it holds no rows")
    missing = [name for name in COVARIATES if name not in cohort.participants]
    expect(not missing, f"the table lacks {', '.join(missing)}; an unknown age or sex is NaN")
    expect(bool(np.isfinite(cohort.images).all()), "images hold values that are not finite")
    expect(cohort.mask.dtype == bool, f"masks are {cohort.mask.dtype}, not bool")
    expect(bool(cohort.mask.any()), "no mask holds a voxel")


def _rows(case: DatasetCase) -> None:
    keys = case.cohort.keys
    expect(len(set(keys)) == len(keys), "two rows have the same participant, session and slice")
    table = case.cohort.participants
    sites = table["site"]
    expect(bool(sites.map(lambda site: isinstance(site, str) and bool(site)).all()),
           "a site is no text or is empty")  # fmt: skip
    strange = sorted(set(table["sex"].dropna()) - {"F", "M"})
    expect(not strange, f"sexes are F, M or NaN, not {strange}")
    ages = table["age"].astype(float).dropna()
    expect(bool(ages.between(0, 120).all()), "an age is outside 0 to 120 years")


def _sites(case: DatasetCase) -> None:
    sites, reference = case.cohort.sites, case.dataset.reference_site
    expect(len(sites) > 1, f"there is one site, {sites}; harmonization needs two")
    expect(reference in (None, *sites), f"the reference site '{reference}' is none of {sites}")


def _same_again(case: DatasetCase) -> None:
    again = case.factory().load()
    expect(again.keys == case.cohort.keys, "another load gives other rows, or another order")
    expect(np.array_equal(again.images, case.cohort.images), "another load gives other images")


def _truth(case: DatasetCase) -> None:
    if not case.dataset.info.has_truth:
        raise NotApplicable("it declares no truth")
    cohort = case.cohort
    rows, site = slice(0, ROWS), cohort.sites[0]
    keys = cohort.keys[rows]
    one, two = (case.dataset.truth(site, keys, draw=draw) for draw in (0, 1))
    expect(one.shape == cohort.images[rows].shape, f"the truth has shape {one.shape}")
    expect(np.array_equal(one, case.dataset.truth(site, keys)), "the truth changes between calls")
    expect(not np.array_equal(one, two), "two draws of the truth are the same")
    turned = case.dataset.truth(site, keys[::-1])[::-1]
    expect(np.array_equal(one, turned), "the truth of a row depends on the other rows")


def _geometry(case: DatasetCase) -> None:
    keys = case.cohort.keys[:ROWS]
    affines = case.dataset.geometry(keys)
    if affines is None:
        raise NotApplicable("it does not say where its rows lie in space")
    expect(affines.shape == (len(keys), 4, 4), f"the affines have shape {affines.shape}")


CHECKS: dict[str, Callable[[DatasetCase], None]] = {
    "declares itself": _declares,
    "fingerprint is stable": _fingerprint,
    "loads a cohort": _loads,
    "rows are named and clean": _rows,
    "sites and reference site": _sites,
    "loads the same again": _same_again,
    "truth is repeatable": _truth,
    "geometry has its shape": _geometry,
}
