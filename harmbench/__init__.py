"""harmbench: benchmark and evaluation of methods that harmonize multi-site brain MRI.

The names a plug-in author needs are importable from here; each is loaded on first use, so that
``import harmbench`` (and ``harmbench --help``) stays light.
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
    "__version__",
    "metric",
]

if TYPE_CHECKING:
    from harmbench.contracts.cohort import Cohort
    from harmbench.contracts.dataset import Dataset, DatasetInfo
    from harmbench.contracts.method import ApplyContext, FitContext, Harmonizer, MethodInfo
    from harmbench.contracts.metric import Estimate, MetricInputs, MetricResult, metric
    from harmbench.errors import HarmbenchError


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'harmbench' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
