"""Checks of a method: it is fitted on a small cohort and used in many ways."""

from __future__ import annotations

import json
import sys
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from harmbench.checks.result import CheckResult, NotApplicable, expect, expect_finite, run
from harmbench.contracts.cohort import COVARIATES, Cohort, Space
from harmbench.contracts.method import (
    OWN_SITE,
    ApplyContext,
    FitContext,
    Harmonizer,
    MethodInfo,
    Truth,
)
from harmbench.errors import HarmbenchError

TOLERANCE = 2e-5
"""Largest change of a voxel (nominally in [0, 1]) when rows are reordered or left out."""

NO_SITE = "no-such-site"
SAVED = {".json", ".safetensors"}


def toy_cohort(
    n: int = 60, sites: int = 3, shape: tuple[int, ...] = (16, 16), seed: int = 0
) -> Cohort:
    """Return a small cohort of blobs with site and age effects, see `harmbench.data.toy`."""
    from harmbench.data.toy import ToyDataset

    return ToyDataset(n, sites, shape, seed=seed).load()


@dataclass
class _Case:
    """A method under check. It is fitted on the cohort once, and again if a check needs it."""

    factory: Callable[[], Harmonizer]
    cohort: Cohort
    truth: Truth | None = None
    device: str = "cpu"
    reference: str = field(init=False)

    def __post_init__(self) -> None:
        self.reference = self.cohort.sites[0]

    @cached_property
    def info(self) -> MethodInfo:
        return self.factory().info

    @cached_property
    def method(self) -> Harmonizer:
        return self.fit(self.cohort)

    @cached_property
    def output(self) -> NDArray[np.float32]:
        return self.apply(self.cohort)

    def _context(self, seed: int) -> dict[str, Any]:
        truth = self.truth if self.info.sees_truth else None
        return {"seed": seed, "device": self.device, "truth": truth}

    def fit(self, cohort: Cohort, seed: int = 0, reference: str | None = None) -> Harmonizer:
        """Fit a new instance on the columns that the method declares."""
        context = FitContext(**self._context(seed), reference_site=reference or self.reference)
        return self.factory().fit(cohort.only(self.info.fit_sees), context)

    def apply(
        self,
        cohort: Cohort,
        target: str | None = None,
        method: Harmonizer | None = None,
        seed: int = 0,
    ) -> NDArray[np.float32]:
        """Harmonize a cohort with the columns that the method declares."""
        seen = cohort.only(self.info.harmonize_sees)
        context = ApplyContext(**self._context(seed))
        return (method or self.method).harmonize(seen, target, context=context)


def method_checks(
    factory: Callable[[], Harmonizer],
    cohort: Cohort | None = None,
    *,
    truth: Truth | None = None,
    device: str = "cpu",
) -> list[CheckResult]:
    """Check a method against the contract of `harmbench.contracts.method`.

    Parameters
    ----------
    factory : callable
        Returns a new unfitted instance. A method that is trained should have a small budget,
        because it is fitted several times.
    cohort : Cohort or None
        Cohort to fit on; None for a toy cohort.
    truth : callable or None
        The cohort's truth, for a method that declares it.
    device : str
        Device of the computation.

    Returns
    -------
    list of CheckResult
        In a fixed order. If the method cannot be fitted, only the first result.
    """
    case = _Case(factory, toy_cohort() if cohort is None else cohort, truth, device)
    first = run("fits and harmonizes", partial(_runs, case))
    if not first.passed:
        return [first]
    return [first, *(run(name, partial(check, case)) for name, check in METHOD_CHECKS.items())]


def _expect_same(
    actual: NDArray, expected: NDArray, what: str, tolerance: float = TOLERANCE
) -> None:
    worst = float(np.abs(actual - expected).max(initial=0.0))
    expect(worst <= tolerance, f"{what} changes a voxel by up to {worst:.2g}")


def _expect_error(
    call: Callable[[], Any], what: str, mentions: str = "", *, runner_refuses: bool = False
) -> None:
    """Expect a `HarmbenchError` that mentions a word.

    No error is needed if the runner refuses such a request itself (`runner_refuses`).
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # such as numpy's warning about an empty mean
            call()
    except HarmbenchError as error:
        expect(mentions in str(error), f"the error for {what} lacks '{mentions}': {error}")
        return
    if runner_refuses:
        raise NotApplicable(f"{what} raises no error, but the runner refuses it first")
    raise AssertionError(f"{what} raises no error; raise HarmbenchError")


def _runs(case: _Case) -> None:
    out = case.output
    expect(out.shape == case.cohort.images.shape, f"returns shape {out.shape}")
    expect(out.dtype == np.float32, f"returns {out.dtype}, not float32")
    expect_finite(out, "returns")


def _declaration(case: _Case) -> None:
    info = case.info
    expect(bool(info.name and info.label and info.summary), "name, label or summary is empty")
    known = {*COVARIATES, "truth", *case.cohort.participants}
    unknown = sorted((info.fit_sees | info.harmonize_sees) - known)
    expect(not unknown, f"declares columns that do not exist: {', '.join(unknown)}")
    expect(case.factory().info == info, "the declarations of two new instances differ")


def _parameters(case: _Case) -> None:
    method = case.factory()
    params = json.loads(json.dumps(method.params()))
    again = type(method)(**params).params()
    expect(json.loads(json.dumps(again)) == params, f"{params} come back as {again}")


def _input_unchanged(case: _Case) -> None:
    cohort = case.cohort
    images, mask, table = cohort.images.copy(), cohort.mask.copy(), cohort.participants.copy()
    out = case.apply(cohort, method=case.fit(cohort))
    expect(np.array_equal(images, cohort.images), "changes the images of its input")
    expect(np.array_equal(mask, cohort.mask), "changes the masks of its input")
    expect(table.equals(cohort.participants), "changes the table of its input")
    expect(not np.shares_memory(out, cohort.images), "returns a view of the images of its input")


def _deterministic(case: _Case) -> None:
    stochastic = case.info.stochastic
    seed = 0 if stochastic else 1
    again = case.apply(case.cohort, method=case.fit(case.cohort, seed), seed=seed)
    what = "fitting again" if stochastic else "another seed (it is declared as not stochastic)"
    _expect_same(again, case.output, what)


def _global_generators(case: _Case) -> None:
    torch = sys.modules.get("torch")
    numpy_state = _numpy_state()
    torch_state = torch.get_rng_state() if torch else None
    case.apply(case.cohort, method=case.fit(case.cohort))
    expect(numpy_state == _numpy_state(), "draws from numpy's global generator")
    same = torch is None or torch.equal(torch_state, torch.get_rng_state())
    expect(same, "draws from torch's global generator")


def _numpy_state() -> str:
    return repr(np.random.get_state(legacy=False))  # noqa: NPY002 - the state under check


def _rows(case: _Case, rows: NDArray[np.intp], what: str) -> None:
    _expect_same(case.apply(case.cohort.subset(rows)), case.output[rows], what)


def _order(case: _Case) -> None:
    _rows(case, np.arange(len(case.cohort))[::-1], "another order of the rows")


def _other_rows(case: _Case) -> None:
    _rows(case, np.arange(min(7, len(case.cohort))), "leaving out other rows")


def _single_row(case: _Case) -> None:
    for row in (0, len(case.cohort) - 1):
        _rows(case, np.array([row]), "leaving out all other rows")


def _round_trip(case: _Case) -> None:
    with tempfile.TemporaryDirectory() as folder:
        case.method.save(Path(folder))
        kinds = {path.suffix for path in Path(folder).rglob("*") if path.is_file()}
        expect(kinds <= SAVED, f"saves files other than safetensors and JSON: {sorted(kinds)}")
        again = type(case.method).load(Path(folder))
    expect(again.info == case.info, "has another declaration after loading")
    expect(again.params() == case.method.params(), "has other parameters after loading")
    _expect_same(case.apply(case.cohort, method=again), case.output, "saving and loading", 1e-6)


def _unseen_site(case: _Case) -> None:
    if "site" not in case.info.harmonize_sees:
        raise NotApplicable("it does not see the site")
    sites = case.cohort.column("site").copy()
    sites[0] = NO_SITE
    try:
        out = case.apply(case.cohort.with_covariates(site=sites))
    except HarmbenchError as error:
        expect(NO_SITE in str(error), f"the error does not name the site: {error}")
    else:
        expect_finite(out, "an unseen site gives")
        _expect_same(out[1:], case.output[1:], "an unseen site in another row")


def _unknown_target(case: _Case) -> None:
    if case.info.targets == "any" and "site" not in case.info.fit_sees | case.info.harmonize_sees:
        raise NotApplicable("it knows no sites")
    fixed = case.info.targets == "fit"
    call = partial(case.apply, case.cohort, NO_SITE)
    _expect_error(call, "an unknown target", NO_SITE, runner_refuses=fixed)


def _targets(case: _Case) -> None:
    named = case.apply(case.cohort, case.reference)
    _expect_same(named, case.output, "naming the reference site")
    if case.info.targets == "fit":
        call = partial(case.apply, case.cohort, OWN_SITE)
        _expect_error(call, "target 'own'", runner_refuses=True)
        return
    for target in (OWN_SITE, case.cohort.sites[-1]):
        out = case.apply(case.cohort, target)
        expect(out.shape == case.output.shape, f"target '{target}' gives shape {out.shape}")
        expect_finite(out, f"target '{target}' gives")


def _unknown_reference(case: _Case) -> None:
    if "site" not in case.info.fit_sees:
        raise NotApplicable("its fit does not see the site")
    call = partial(case.fit, case.cohort, reference=NO_SITE)
    _expect_error(call, "an unknown reference site", NO_SITE, runner_refuses=True)


def _constant_voxels(case: _Case) -> None:
    """Make one voxel 0 in every scan and one constant at the last site; both are in all masks."""
    images, mask = case.cohort.images.copy(), case.cohort.mask.copy()
    flat, flat_mask = images.reshape(len(images), -1), mask.reshape(len(mask), -1)
    everywhere, at_last_site = np.argsort(flat_mask.mean(axis=0), kind="stable")[-2:]
    flat_mask[:, [everywhere, at_last_site]] = True
    flat[:, everywhere] = 0.0
    flat[case.cohort.column("site") == case.cohort.sites[-1], at_last_site] = 0.5
    cohort = replace(case.cohort, images=images, mask=mask)
    expect_finite(case.apply(cohort, method=case.fit(cohort)), "constant voxels give")


def _missing_age(case: _Case) -> None:
    if "age" not in case.info.fit_sees | case.info.harmonize_sees:
        raise NotApplicable("it does not see the age")
    age = case.cohort.column("age").astype(np.float64).copy()
    age[:2] = np.nan
    cohort = case.cohort.with_covariates(age=age)
    if "age" in case.info.fit_sees:
        out = case.apply(case.cohort, method=case.fit(cohort))
        expect_finite(out, "a fit with missing ages gives")
    out = case.apply(cohort)
    expect_finite(out, "missing ages give")
    _expect_same(out[2:], case.output[2:], "a missing age in another row")


def _skips(case: _Case) -> None:
    for space in set(get_args(Space)) - case.info.spaces:
        reason = case.factory().skip(replace(case.cohort, space=space))
        expect(bool(reason), f"does not declare '{space}' images but does not skip them")


METHOD_CHECKS: dict[str, Callable[[_Case], None]] = {
    "declaration is complete": _declaration,
    "parameters round trip through JSON": _parameters,
    "input is not changed": _input_unchanged,
    "same seed, same result": _deterministic,
    "no global random numbers": _global_generators,
    "order of rows does not matter": _order,
    "other rows do not matter": _other_rows,
    "a single row works": _single_row,
    "saves and loads": _round_trip,
    "unseen site works or raises an error": _unseen_site,
    "unknown target raises an error": _unknown_target,
    "declared targets work": _targets,
    "unknown reference site raises an error": _unknown_reference,
    "constant voxels stay finite": _constant_voxels,
    "missing age is handled": _missing_age,
    "skips other kinds of images": _skips,
}
