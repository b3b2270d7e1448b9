"""harmbench: benchmark and evaluation of methods that harmonize multi-site brain MRI.

The public functions and the names that a plug-in author needs are importable from here. Each is
loaded on first use, so that ``import harmbench`` (and ``harmbench --help``) stays light.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "Cohort": "harmbench.contracts.cohort",
    "Dataset": "harmbench.contracts.dataset",
    "DatasetInfo": "harmbench.contracts.dataset",
    "HarmbenchError": "harmbench.errors",
    "ApplyContext": "harmbench.contracts.method",
    "FitContext": "harmbench.contracts.method",
    "Harmonizer": "harmbench.contracts.method",
    "MethodInfo": "harmbench.contracts.method",
    "Estimate": "harmbench.contracts.metric",
    "MetricInputs": "harmbench.contracts.metric",
    "MetricResult": "harmbench.contracts.metric",
    "metric": "harmbench.contracts.metric",
    "Results": "harmbench.results.results",
    "score": "harmbench.exchange.stored",
    **dict.fromkeys(
        ("run", "curve", "train", "harmonize", "load", "methods", "metrics", "datasets"),
        "harmbench.api",
    ),
}
__all__ = [
    "ApplyContext",
    "Cohort",
    "Dataset",
    "DatasetInfo",
    "Estimate",
    "FitContext",
    "HarmbenchError",
    "Harmonizer",
    "MethodInfo",
    "MetricInputs",
    "MetricResult",
    "Results",
    "__version__",
    "curve",
    "datasets",
    "harmonize",
    "load",
    "methods",
    "metric",
    "metrics",
    "run",
    "score",
    "train",
]

if TYPE_CHECKING:
    from harmbench.api import curve, datasets, harmonize, load, methods, metrics, run, train
    from harmbench.contracts.cohort import Cohort
    from harmbench.contracts.dataset import Dataset, DatasetInfo
    from harmbench.contracts.method import ApplyContext, FitContext, Harmonizer, MethodInfo
    from harmbench.contracts.metric import Estimate, MetricInputs, MetricResult, metric
    from harmbench.errors import HarmbenchError
    from harmbench.exchange.stored import score
    from harmbench.results.results import Results


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'harmbench' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
