"""Contract suites for plug-ins: run by `harmbench check-method`, by our tests and by anyone's."""

from harmbench.checks.methods import method_checks, toy_cohort
from harmbench.checks.metrics import metric_checks
from harmbench.checks.result import CheckResult

__all__ = ["CheckResult", "method_checks", "metric_checks", "toy_cohort"]
