"""The plug-in contract of a metric: a declaration and a function."""

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
    """Description of a metric, for tables, the command line, the report and the tests.

    Attributes
    ----------
    name : str
        Key in tables and files.
    label : str
        Name in tables and figures.
    summary : str
        One or two sentences: what the metric measures and what it is compared with.
    unit : str
        Unit, such as ``"years"``; ``""`` for none.
    direction : {"lower", "higher", "target"}
        Which values are better. ``"target"``: the best value is `goal`, or the target in the
        result.
    goal : float or None
        Best possible value, if it is the same for all data.
    range : tuple of (float or None)
        Smallest and largest possible value.
    axis : str
        Question that the metric answers; tables group metrics by it.
    level : {"five", "core", "full"}
        Smallest protocol that contains the metric.
    version : int
        Increased when the values change; results of another version are never reused.
    min_n : int
        Smallest number of test scans; with fewer scans the metric is skipped.
    needs : tuple of str
        Products that the metric needs, such as ``"harmonized.test"``. ``"oracle:probe.site"`` is
        the product of another cell (only of the anchors identity, shuffle and oracle).
    wants : tuple of str
        Products that are used if they are available (an oracle exists on simulated data only).
    anchors : tuple of str
        Controls whose values are 0 and 1 on the scale of the metric's score; ``()`` if the metric
        is not scored.
    real_anchors : tuple of str
        The same for data without an oracle. ``"floor:age and sex"`` is a floor in the metric's
        result; ``()`` if the metric is not scored on such data.
    margin : float or None
        Largest difference that is not relevant, for claims of non-inferiority.
    monotone : bool
        Whether the value changes in one direction only when images are mixed with the oracle's,
        apart from noise.
    expected_order : tuple of tuple of str
        Expected order of the controls, best first; each inner tuple is a tie.
    extractor : str
        Name of the feature extractor that the metric uses, ``""`` for none.
    doi : str
        DOI of its source.
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
    """A value with its 95 % interval and the number of test subjects (or pairs) it is based on."""

    value: float
    low: float = float("nan")
    high: float = float("nan")
    n: int = 0


@dataclass(frozen=True)
class MetricResult:
    """Result of a metric.

    Attributes
    ----------
    overall : Estimate or None
        Value over all test subjects; None if the metric is skipped.
    groups : mapping of str to Estimate
        The same by site, if this is meaningful.
    target : float
        Value to compare with (the oracle's, or a floor); NaN for none.
    floors : mapping of str to float
        Named values of trivial predictions, such as ``{"overall median": 14.2}``.
    replicates : ndarray, shape (b,)
        Resampled values from which the interval is computed. Replicate i has the same subjects
        for every method.
    per_scan : DataFrame or None
        One row per test scan.
    arrays : mapping of str to ndarray
        Arrays for the figures.
    note : str
        Warning shown beside the value, such as ``"underfit"``.
    reason : str
        Reason why the metric is skipped, ``""`` if it is not.
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
        """Return the result of a metric that cannot be computed here, with the reason."""
        return cls(reason=reason)


@dataclass(frozen=True)
class MetricInputs:
    """Inputs of a metric: the products that it declared, by name, and the reference site.

    An image product (``harmonized.test``, ``raw.probe``, ``truth.test``, ...) is a `Cohort` with
    the full participants table. Any other product is a mapping of names to arrays, described in
    the docstring of the function that makes it. A product in `MetricInfo.wants` is absent if it is
    not available.

    If the data are cross-fitted, `folds` is the fold of every test row, and `probe_folds` is, for
    every row of ``raw.probe`` and ``harmonized.probe``, the fold to which the probes that are
    trained on it are applied. An image is in several rows, harmonized by different fits.
    """

    products: Mapping[str, Any]
    reference_site: str
    folds: NDArray[np.str_] | None = None
    probe_folds: NDArray[np.str_] | None = None

    def __contains__(self, name: str) -> bool:
        return name in self.products

    def cohort(self, name: str) -> Cohort:
        """Return an image product.

        Raises
        ------
        TypeError
            If the product holds arrays.
        """
        product = self.products[name]
        if not isinstance(product, Cohort):
            raise TypeError(f"product {name} holds arrays, not images")
        return product

    def arrays(self, name: str) -> Mapping[str, NDArray]:
        """Return a product of arrays.

        Raises
        ------
        TypeError
            If the product holds images.
        """
        product = self.products[name]
        if isinstance(product, Cohort):
            raise TypeError(f"product {name} holds images, not arrays")
        return product


Compute = Callable[[MetricInputs, np.random.Generator], MetricResult | Estimate | float]


@dataclass(frozen=True)
class Metric:
    """A declared metric: ``metric.info`` and ``metric(inputs, rng)``.

    The generator is seeded without the method's name, so that all methods share the resamples.
    """

    info: MetricInfo
    compute: Compute

    def __call__(self, inputs: MetricInputs, rng: np.random.Generator) -> MetricResult:
        """Compute the metric.

        Raises
        ------
        HarmbenchError
            If the function does not return a number, an `Estimate` or a `MetricResult`.
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
        Fields of `MetricInfo`. ``name`` defaults to the function's name and ``summary`` to the
        first paragraph of its docstring.

    Raises
    ------
    HarmbenchError
        If a field is unknown or missing, or the value of `axis`, `level` or `direction` is
        unknown.
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
