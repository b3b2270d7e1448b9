"""Results of the checks of a plug-in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class CheckResult:
    """Name of a check, whether the plug-in passed it, and details."""

    name: str
    passed: bool
    detail: str = ""


class NotApplicable(Exception):
    """Raised with a reason if a check does not apply to a plug-in; it then counts as passed."""


def run(name: str, check: Callable[[], None]) -> CheckResult:
    """Run a check and return its result, whatever it raises."""
    try:
        check()
    except NotApplicable as reason:
        return CheckResult(name, True, f"not applicable: {reason}")
    except AssertionError as failure:
        return CheckResult(name, False, str(failure))
    except Exception as error:  # a plug-in may raise anything; the other checks still run
        return CheckResult(name, False, f"raised {type(error).__name__}: {error}")
    return CheckResult(name, True)


def expect(condition: bool, message: str) -> None:
    """Fail the check with a message unless the condition holds."""
    # Not `assert`, because python -O removes it.
    if not condition:
        raise AssertionError(message)


def expect_finite(values: NDArray, what: str) -> None:
    """Fail the check if an array contains values that are not finite."""
    expect(bool(np.isfinite(values).all()), f"{what} values that are not finite")
