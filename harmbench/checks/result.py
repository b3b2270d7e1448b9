"""What a suite of checks says, line by line."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class CheckResult:
    """One line of a suite: what was checked, whether it holds, and what was seen."""

    name: str
    passed: bool
    detail: str = ""


class NotApplicable(Exception):
    """Why a check has nothing to say of this plug-in; counts as passed."""


def run(name: str, check: Callable[[], None]) -> CheckResult:
    """Return the line of one check, whatever it raises."""
    try:
        check()
    except NotApplicable as reason:
        return CheckResult(name, True, f"not applicable: {reason}")
    except AssertionError as failure:
        return CheckResult(name, False, str(failure))
    except Exception as error:  # a plug-in may raise anything; the suite goes on
        return CheckResult(name, False, f"raised {type(error).__name__}: {error}")
    return CheckResult(name, True)


def expect(condition: bool, otherwise: str) -> None:
    """Fail the check with a sentence."""
    # Not `assert`, which python -O leaves out.
    if not condition:
        raise AssertionError(otherwise)
