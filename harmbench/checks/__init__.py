"""Checks of plug-ins, which `harmbench check-method` and similar commands run."""

from harmbench.checks.datasets import dataset_checks
from harmbench.checks.methods import method_checks, toy_cohort
from harmbench.checks.metrics import metric_checks
from harmbench.checks.result import CheckResult

__all__ = ["CheckResult", "dataset_checks", "method_checks", "metric_checks", "toy_cohort"]
