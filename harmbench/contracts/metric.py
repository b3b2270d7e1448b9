"""The plug-in contract of a metric: one declaration beside one function."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from numbers import Real
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from harmbench.contracts.cohort import Cohort
from harmbench.errors import HarmbenchError, unknown

Direction = Literal["lower", "higher", "target"]
Axis = Literal["site removal", "biology kept", "individuals", "quality", "truth", "leakage"]
Level = Literal["five", "core", "full"]


@dataclass(frozen=True)
class MetricInfo:
    """Everything that tables, the command line, the report and the tests read about a metric.

    Attributes
    ----------
    name : str
        Key in tables and files.
    label : str
        Name for people.
    summary : str
        One or two sentences: what it measures and what it is compared with.
    unit : str
        Such as ``"years"``; ``""`` for none.
    direction : {"lower", "higher", "target"}
        Which values are better; ``"target"`` where the best value is `goal` or the result's own.
    goal : float or None
        The best possible value, where it is the same for all data.
    range : tuple of (float or None)
        Smallest and largest possible value.
    axis : str
        The group it stands in.
    level : {"five", "core", "full"}
        The smallest protocol that holds it.
    version : int
        Raised when its values change; results of another version are never reused.
    min_n : int
        Least number of test scans; below it the row is a skip.
    needs : tuple of str
        Products the runner makes first, such as ``"harmonized.test"``; ``"oracle:probe.site"`` is
        the product of another cell (only of the anchors identity, shuffle and oracle).
    wants : tuple of str
        Products that are used where they can be had (an oracle exists on simulated data only).
    anchors : tuple of str
        Controls whose values are 0 and 1 of the metric's score, ``()`` for one that is not scored.
    real_anchors : tuple of str
        The same where there is no oracle; ``"floor:age and sex"`` is a floor that the metric's
        result names, ``()`` leaves the metric unscored there.
    margin : float or None
        Difference that does not matter, in claims that a method is not inferior to another.
    monotone : bool
        Whether mixing an image with the oracle's moves the value one way only, apart from noise.
    expected_order : tuple of tuple of str
        What it must say of the controls, best first: each inner tuple is a tie.
    extractor : str
        Name of the feature extractor it uses, ``""`` for none.
    doi : str
        Its source.
    """

    name: str
    label: str
    summary: str
    axis: Axis
    level: Level
    direction: Direction
    needs: tuple[str, ...]
    wants: tuple[str, ...] = ()
    unit: str = ""
    goal: float | None = None
    range: tuple[float | None, float | None] = (None, None)
    version: int = 1
    min_n: int = 20
    anchors: tuple[str, ...] = ()
    real_anchors: tuple[str, ...] = ()
    margin: float | None = None
    monotone: bool = True
    expected_order: tuple[tuple[str, ...], ...] = ()
    extractor: str = ""
    doi: str = ""


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % interval and the number of test subjects (or pairs) behind it."""

    value: float
    low: float = float("nan")
    high: float = float("nan")
    n: int = 0


@dataclass(frozen=True)
class MetricResult:
    """What a metric returns.

    Attributes
    ----------
    overall : Estimate or None
        The headline; None where it is skipped.
    groups : mapping of str to Estimate
        The same by site, where it makes sense.
    target : float
        What the value is to be held against (the oracle's, or a floor); NaN for none.
    floors : mapping of str to float
        Named trivial values, such as ``{"overall median": 14.2}``.
    replicates : ndarray, shape (b,)
        The resampled values behind the interval; the same subjects in replicate i of every method.
    per_scan : DataFrame or None
        One row a test scan.
    arrays : mapping of str to ndarray
        What the figures draw.
    note : str
        A reservation shown beside the value, such as ``"underfit"``.
    reason : str
        Why it is skipped, ``""`` where it is not.
    """

    overall: Estimate | None = None
    groups: Mapping[str, Estimate] = field(default_factory=dict)
    target: float = float("nan")
    floors: Mapping[str, float] = field(default_factory=dict)
    replicates: NDArray[np.float64] | None = None
    per_scan: pd.DataFrame | None = None
    arrays: Mapping[str, NDArray] = field(default_factory=dict)
    note: str = ""
    reason: str = ""

    @classmethod
    def skipped(cls, reason: str) -> MetricResult:
        """Return the answer "this cannot be said here", with the reason."""
        return cls(reason=reason)


@dataclass(frozen=True)
class MetricInputs:
    """What a metric is given: the products it declared, by name, and the reference site.

    An image product (``harmonized.test``, ``raw.probe``, ``truth.test``, ...) is a `Cohort` with
    the full participants table; any other is a mapping of names to arrays, described beside the
    function that makes it. A product that was only wanted and cannot be had is absent.
    """

    products: Mapping[str, Any]
    reference_site: str

    def __contains__(self, name: str) -> bool:
        return name in self.products

    def cohort(self, name: str) -> Cohort:
        """Return an image product."""
        product = self.products[name]
        if not isinstance(product, Cohort):
            raise TypeError(f"product {name} holds arrays, not images")
        return product

    def arrays(self, name: str) -> Mapping[str, NDArray]:
        """Return a product that is not images."""
        product = self.products[name]
        if isinstance(product, Cohort):
            raise TypeError(f"product {name} holds images, not arrays")
        return product


Compute = Callable[[MetricInputs, np.random.Generator], MetricResult | Estimate | float]


@dataclass(frozen=True)
class Metric:
    """A declared metric: ``metric.info`` and ``metric(inputs, rng)``.

    The generator is seeded without the method's name, so that resamples are common to all methods.
    """

    info: MetricInfo
    compute: Compute

    def __call__(self, inputs: MetricInputs, rng: np.random.Generator) -> MetricResult:
        """Compute the metric.

        Raises
        ------
        HarmbenchError
            Where the function returns neither a number nor an `Estimate` nor a `MetricResult`.
        """
        result: object = self.compute(inputs, rng)
        if isinstance(result, Real) and not isinstance(result, bool):
            result = Estimate(float(result))
        if isinstance(result, Estimate):
            result = MetricResult(result)
        if not isinstance(result, MetricResult):
            raise HarmbenchError(
                f"metric '{self.info.name}' returned {type(result).__name__}; "
                "it must return a number, an Estimate or a MetricResult"
            )
        return result


def metric(**declaration: Any) -> Callable[[Compute], Metric]:
    """Declare a function ``compute(inputs, rng)`` as a metric.

    The function returns a `MetricResult`, an `Estimate`, or a number, which has no interval.

    Parameters
    ----------
    **declaration
        The fields of `MetricInfo`; ``name`` defaults to the function's and ``summary`` to the
        first paragraph of its docstring.

    Raises
    ------
    HarmbenchError
        For a field that `MetricInfo` does not have, a missing one, or an unknown word in `axis`,
        `level` or `direction`.
    """
    known = [one.name for one in fields(MetricInfo)]
    for name in declaration:
        if name not in known:
            raise unknown("field of a metric", name, known)
    for name, words in (("axis", Axis), ("level", Level), ("direction", Direction)):
        if name in declaration and declaration[name] not in get_args(words):
            raise unknown(name, declaration[name], get_args(words))

    def declare(function: Compute) -> Metric:
        paragraph = (function.__doc__ or "").strip().split("\n\n")[0]
        declaration.setdefault("name", function.__name__)
        declaration.setdefault("summary", " ".join(paragraph.split()))
        missing = [
            one.name
            for one in fields(MetricInfo)
            if one.default is MISSING and one.name not in declaration
        ]
        if missing:
            raise HarmbenchError(
                f"metric '{declaration['name']}' does not declare {', '.join(missing)}"
            )
        return Metric(MetricInfo(**declaration), function)

    return declare
