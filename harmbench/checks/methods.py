"""The contract suite of a method: fitted on a small cohort, then asked one thing at a time."""

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

from harmbench.checks.result import CheckResult, NotApplicable, expect, run
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
"""Largest change of a voxel (images are nominally in [0, 1]) that order, batch and reload make."""

NO_SITE = "no-such-site"
SAVED = {".json", ".safetensors"}


def toy_cohort(
    n: int = 60, sites: int = 3, shape: tuple[int, ...] = (16, 16), seed: int = 0
) -> Cohort:
    """Return a small cohort of blobs with site and age effects, see `harmbench.data.toy`."""
    from harmbench.data.toy import ToyDataset

    return ToyDataset(n, sites, shape, seed=seed).load()


@dataclass
class MethodCase:
    """A method under check: fitted once on the cohort, and again only where a check needs it."""

    factory: Callable[[], Harmonizer]
    cohort: Cohort
    truth: Truth | None = None
    device: str = "cpu"
    reference: str = field(init=False)

    def __post_init__(self) -> None:
        self.reference = self.cohort.sites[0]

    @cached_property
    def info(self) -> MethodInfo:
        """The declaration of an instance."""
        return self.factory().info

    @cached_property
    def method(self) -> Harmonizer:
        """The method fitted on the cohort with seed 0."""
        return self.fit(self.cohort)

    @cached_property
    def output(self) -> NDArray[np.float32]:
        """What the fitted method makes of the cohort."""
        return self.apply(self.cohort)

    def fit(self, cohort: Cohort, seed: int = 0, reference: str | None = None) -> Harmonizer:
        """Fit a fresh instance; it gets the declared columns only."""
        context = FitContext(
            seed=seed,
            device=self.device,
            truth=self.truth if self.info.sees_truth else None,
            reference_site=reference or self.reference,
        )
        return self.factory().fit(cohort.only(self.info.fit_sees), context)

    def apply(
        self,
        cohort: Cohort,
        target: str | None = None,
        method: Harmonizer | None = None,
        seed: int = 0,
    ) -> NDArray[np.float32]:
        """Harmonize; the method gets the declared columns only."""
        context = ApplyContext(
            seed=seed,
            device=self.device,
            truth=self.truth if self.info.sees_truth else None,
        )
        seen = cohort.only(self.info.harmonize_sees)
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
        Makes a fresh unfitted instance, with a small budget where it is trained: it is fitted
        up to four times.
    cohort : Cohort or None
        What to fit on; None makes a toy cohort.
    truth : callable or None
        The cohort's truth, for a method that declares it.
    device : str
        Where to run.

    Returns
    -------
    list of CheckResult
        In a fixed order; where the method cannot be fitted at all, that one line.
    """
    case = MethodCase(factory, toy_cohort() if cohort is None else cohort, truth, device)
    first = run("fits and harmonizes", partial(_runs, case))
    if not first.passed:
        return [first]
    return [first, *(run(name, partial(check, case)) for name, check in METHOD_CHECKS.items())]


def _same(actual: NDArray, expected: NDArray, what: str, tolerance: float = TOLERANCE) -> None:
    worst = float(np.abs(actual - expected).max(initial=0.0))
    expect(worst <= tolerance, f"{what} changes a voxel by up to {worst:.2g}")


def _teaches(
    call: Callable[[], Any], what: str, mentions: str = "", *, runner_refuses: bool = False
) -> None:
    """Expect a `HarmbenchError` that names what is wrong.

    Silence will do where the runner never asks for it (`runner_refuses`).
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # such as numpy's of the mean of no image
            call()
    except HarmbenchError as error:
        expect(mentions in str(error), f"the error of {what} does not say '{mentions}': {error}")
        return
    if runner_refuses:
        raise NotApplicable(f"{what} is accepted in silence, but the runner refuses it first")
    raise AssertionError(f"{what} is accepted in silence; raise HarmbenchError")


def _runs(case: MethodCase) -> None:
    out = case.output
    expect(out.shape == case.cohort.images.shape, f"returns shape {out.shape}")
    expect(out.dtype == np.float32, f"returns {out.dtype}, not float32")
    expect(bool(np.isfinite(out).all()), "returns values that are not finite")


def _declares(case: MethodCase) -> None:
    info = case.info
    expect(bool(info.name and info.label and info.summary), "name, label or summary is empty")
    unknown = (info.fit_sees | info.harmonize_sees) - {*COVARIATES, "truth"}
    unknown -= set(case.cohort.participants)
    expect(not unknown, f"declares columns that nobody has: {', '.join(sorted(unknown))}")
    expect(case.factory().info == info, "two fresh instances declare different things")


def _parameters(case: MethodCase) -> None:
    method = case.factory()
    params = json.loads(json.dumps(method.params()))
    again = type(method)(**params).params()
    expect(json.loads(json.dumps(again)) == params, f"{params} come back as {again}")


def _own_output(case: MethodCase) -> None:
    cohort = case.cohort
    before = [cohort.images.copy(), cohort.mask.copy(), cohort.participants.copy()]
    out = case.apply(cohort, method=case.fit(cohort))
    expect(np.array_equal(before[0], cohort.images), "changes the images it is given")
    expect(np.array_equal(before[1], cohort.mask), "changes the masks it is given")
    expect(before[2].equals(cohort.participants), "changes the table it is given")
    expect(not np.shares_memory(out, cohort.images), "returns a view of the images it is given")


def _deterministic(case: MethodCase) -> None:
    seed = 0 if case.info.stochastic else 1
    again = case.apply(case.cohort, method=case.fit(case.cohort, seed), seed=seed)
    what = "fitting again" if case.info.stochastic else "another seed (it declares none)"
    _same(again, case.output, what)


def _ambient_randomness(case: MethodCase) -> None:
    torch = sys.modules.get("torch")
    numpy_state = _numpy_state()
    torch_state = torch.get_rng_state() if torch else None
    case.apply(case.cohort, method=case.fit(case.cohort))
    expect(numpy_state == _numpy_state(), "draws from numpy's global generator")
    same = torch is None or torch.equal(torch_state, torch.get_rng_state())
    expect(same, "draws from torch's global generator")


def _numpy_state() -> str:
    return repr(np.random.get_state(legacy=False))  # noqa: NPY002 - the very thing to check


def _order(case: MethodCase) -> None:
    order = np.arange(len(case.cohort))[::-1]
    _same(case.apply(case.cohort.subset(order)), case.output[order], "the order of the rows")


def _batch(case: MethodCase) -> None:
    few = np.arange(min(7, len(case.cohort)))
    _same(case.apply(case.cohort.subset(few)), case.output[few], "leaving out other rows")


def _single_row(case: MethodCase) -> None:
    for row in (0, len(case.cohort) - 1):
        alone = case.apply(case.cohort.subset([row]))
        _same(alone, case.output[[row]], "being alone")


def _round_trip(case: MethodCase) -> None:
    with tempfile.TemporaryDirectory() as folder:
        case.method.save(Path(folder))
        kinds = {path.suffix for path in Path(folder).rglob("*") if path.is_file()}
        expect(kinds <= SAVED, f"saves files other than safetensors and JSON: {sorted(kinds)}")
        again = type(case.method).load(Path(folder))
    expect(again.info == case.info, "declares something else after loading")
    expect(again.params() == case.method.params(), "has other parameters after loading")
    _same(case.apply(case.cohort, method=again), case.output, "saving and loading", 1e-6)


def _unseen_site(case: MethodCase) -> None:
    if "site" not in case.info.harmonize_sees:
        raise NotApplicable("it does not see the site")
    sites = case.cohort.column("site").copy()
    sites[0] = NO_SITE
    try:
        out = case.apply(case.cohort.with_covariates(site=sites))
    except HarmbenchError as error:
        expect(NO_SITE in str(error), f"the error does not name the site: {error}")
    else:
        expect(bool(np.isfinite(out).all()), "an unseen site gives values that are not finite")
        _same(out[1:], case.output[1:], "an unseen site in another row")


def _unknown_target(case: MethodCase) -> None:
    if case.info.targets == "any" and "site" not in case.info.fit_sees | case.info.harmonize_sees:
        raise NotApplicable("it knows no sites")
    fixed = case.info.targets == "fit"
    ask = partial(case.apply, case.cohort, NO_SITE)
    _teaches(ask, "an unknown target", NO_SITE, runner_refuses=fixed)


def _targets(case: MethodCase) -> None:
    named = case.apply(case.cohort, case.reference)
    _same(named, case.output, "naming the reference site")
    if case.info.targets == "fit":
        own = partial(case.apply, case.cohort, OWN_SITE)
        _teaches(own, "target 'own'", runner_refuses=True)
        return
    for target in (OWN_SITE, case.cohort.sites[-1]):
        out = case.apply(case.cohort, target)
        expect(out.shape == case.output.shape, f"target '{target}' gives shape {out.shape}")
        expect(bool(np.isfinite(out).all()), f"target '{target}' gives values not finite")


def _unknown_reference(case: MethodCase) -> None:
    if "site" not in case.info.fit_sees:
        raise NotApplicable("its fit does not see the site")
    ask = partial(case.fit, case.cohort, reference=NO_SITE)
    _teaches(ask, "an unknown reference site", NO_SITE, runner_refuses=True)


def _constant_voxels(case: MethodCase) -> None:
    """One voxel is 0 in every scan, one is constant at the last site only; both in all masks."""
    images, mask = case.cohort.images.copy(), case.cohort.mask.copy()
    flat, flat_mask = images.reshape(len(images), -1), mask.reshape(len(mask), -1)
    everywhere, here = np.argsort(flat_mask.mean(axis=0), kind="stable")[-2:]
    flat_mask[:, [everywhere, here]] = True
    flat[:, everywhere] = 0.0
    flat[case.cohort.column("site") == case.cohort.sites[-1], here] = 0.5
    cohort = replace(case.cohort, images=images, mask=mask)
    out = case.apply(cohort, method=case.fit(cohort))
    expect(bool(np.isfinite(out).all()), "constant voxels give values that are not finite")


def _missing_age(case: MethodCase) -> None:
    info = case.info
    if "age" not in info.fit_sees | info.harmonize_sees:
        raise NotApplicable("it does not see the age")
    age = case.cohort.column("age").astype(np.float64).copy()
    age[:2] = np.nan
    cohort = case.cohort.with_covariates(age=age)
    if "age" in info.fit_sees:
        out = case.apply(case.cohort, method=case.fit(cohort))
        expect(bool(np.isfinite(out).all()), "fitted with missing ages it is not finite")
    out = case.apply(cohort)
    expect(bool(np.isfinite(out).all()), "missing ages give values that are not finite")
    _same(out[2:], case.output[2:], "a missing age in another row")


def _skips(case: MethodCase) -> None:
    for space in set(get_args(Space)) - case.info.spaces:
        reason = case.factory().skip(replace(case.cohort, space=space))
        expect(bool(reason), f"declares no '{space}' images but does not skip them")


METHOD_CHECKS: dict[str, Callable[[MethodCase], None]] = {
    "declares itself": _declares,
    "parameters round trip through JSON": _parameters,
    "leaves its input alone": _own_output,
    "same seed, same result": _deterministic,
    "no ambient randomness": _ambient_randomness,
    "order of rows does not matter": _order,
    "other rows do not matter": _batch,
    "a single row works": _single_row,
    "saves and loads": _round_trip,
    "unseen site works or teaches": _unseen_site,
    "unknown target teaches": _unknown_target,
    "declared targets work": _targets,
    "unknown reference site teaches": _unknown_reference,
    "constant voxels stay finite": _constant_voxels,
    "missing age is handled": _missing_age,
    "skips other kinds of images": _skips,
}
