"""Checks of the declaration of a metric."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import get_args

from harmbench.checks.result import CheckResult, NotApplicable, expect, run
from harmbench.contracts.metric import Axis, Direction, Level, Metric, MetricInfo

FLOOR = "floor:"
"""Prefix of an anchor that is a floor in the metric's own result."""


def metric_checks(
    metric: Metric,
    name: str | None = None,
    *,
    products: Collection[str] | None = None,
    methods: Collection[str] | None = None,
) -> list[CheckResult]:
    """Check a metric's declaration against the contract of `harmbench.contracts.metric`.

    Parameters
    ----------
    metric : Metric
        The declared metric.
    name : str or None
        Registered name of the metric, which must be the declared one.
    products : collection of str or None
        Names of the available products; None skips their check.
    methods : collection of str or None
        Names of the registered methods; None skips the check of anchors and expected order.
    """
    info = metric.info
    checks: dict[str, Callable[[], None]] = {
        "name is the registered one": lambda: expect(
            name in (None, info.name), f"declared '{info.name}', registered '{name}'"
        ),
        "label and summary are given": lambda: expect(
            bool(info.label.strip() and info.summary.strip()), "label or summary is empty"
        ),
        "level, axis and direction are known": lambda: _choices(info),
        "range and goal agree with the direction": lambda: _goal_in_range(info),
        "version and min_n are positive": lambda: expect(
            info.version >= 1 and info.min_n >= 1, f"version {info.version}, min_n {info.min_n}"
        ),
        "products are known": lambda: _known_products(info, products),
        "controls are known": lambda: _known_controls(info, methods),
        "anchors for real data exist": lambda: _real_anchors(info, methods),
    }
    return [run(title, check) for title, check in checks.items()]


def _choices(info: MetricInfo) -> None:
    for value, kind in ((info.level, Level), (info.axis, Axis), (info.direction, Direction)):
        choices = get_args(kind)
        expect(value in choices, f"'{value}' is not one of {', '.join(choices)}")


def _goal_in_range(info: MetricInfo) -> None:
    low, high = info.range
    expect(low is None or high is None or low < high, f"range {info.range} is not ordered")
    if info.goal is None:
        return
    inside = (low is None or info.goal >= low) and (high is None or info.goal <= high)
    expect(inside, f"goal {info.goal} is outside the range {info.range}")
    best = {"lower": low, "higher": high, "target": None}[info.direction]
    expect(best is None or info.goal == best, f"goal {info.goal} is not the best value {best}")


def _known_products(info: MetricInfo, products: Collection[str] | None) -> None:
    both = set(info.needs) & set(info.wants)
    expect(not both, f"both needed and wanted: {', '.join(sorted(both))}")
    if products is None:
        raise NotApplicable("no list of products was given")
    names = {name.rpartition(":")[2] for name in (*info.needs, *info.wants)}
    unknown = sorted(names - set(products))
    expect(not unknown, f"unknown products: {', '.join(unknown)}")


def _known_controls(info: MetricInfo, methods: Collection[str] | None) -> None:
    expect(len(info.anchors) in (0, 2), f"{len(info.anchors)} anchors; there must be none or two")
    ordered = {name for tie in info.expected_order for name in tie}
    cells = {name.partition(":")[0] for name in (*info.needs, *info.wants) if ":" in name}
    _known_methods({*info.anchors, *ordered, *cells}, methods, "controls")


def _real_anchors(info: MetricInfo, methods: Collection[str] | None) -> None:
    real = info.real_anchors
    expect(len(real) in (0, 2), f"{len(real)} real_anchors; there must be none or two")
    expect(not real or bool(info.anchors), "real_anchors need anchors; declare both or neither")
    expect(len(set(real)) == len(real), f"real_anchors {real} are the same")
    floors = [name.removeprefix(FLOOR) for name in real if name.startswith(FLOOR)]
    expect(all(floor.strip() for floor in floors), f"real_anchors {real}: a floor has no name")
    expect("oracle" not in real, "real_anchors name the oracle, which real data do not have")
    controls = {name for name in real if not name.startswith(FLOOR)}
    _known_methods(controls, methods, "controls in real_anchors")


def _known_methods(names: set[str], methods: Collection[str] | None, what: str) -> None:
    if methods is None:
        raise NotApplicable("no list of methods was given")
    unknown = sorted(names - set(methods))
    expect(not unknown, f"unknown {what}: {', '.join(unknown)}")
