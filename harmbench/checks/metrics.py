"""The contract suite of a metric's declaration."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import get_args

from harmbench.checks.result import CheckResult, NotApplicable, expect, run
from harmbench.contracts.metric import Axis, Direction, Level, Metric, MetricInfo

FLOOR = "floor:"
"""Begins the name of an anchor that is a floor of the metric's own result."""


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
        Its registered name, which must be the declared one.
    products : collection of str or None
        Products that can be had; None leaves this out.
    methods : collection of str or None
        Registered methods, for anchors and expected order; None leaves this out.

    Returns
    -------
    list of CheckResult
    """
    info = metric.info
    checks: dict[str, Callable[[], None]] = {
        "name is the registered one": lambda: expect(
            name in (None, info.name), f"declared '{info.name}', registered '{name}'"
        ),
        "label and summary are there": lambda: expect(
            bool(info.label.strip() and info.summary.strip()), "label or summary is empty"
        ),
        "level, axis and direction are known": lambda: _known_words(info),
        "range and goal agree with the direction": lambda: _goal_in_range(info),
        "version and least n are positive": lambda: expect(
            info.version >= 1 and info.min_n >= 1, f"version {info.version}, min_n {info.min_n}"
        ),
        "products are known": lambda: _known_products(info, products),
        "controls are known": lambda: _known_controls(info, methods),
        "anchors on real data can be had": lambda: _real_anchors(info, methods),
    }
    return [run(title, check) for title, check in checks.items()]


def _known_words(info: MetricInfo) -> None:
    for value, kind in (
        (info.level, Level),
        (info.axis, Axis),
        (info.direction, Direction),
    ):
        choices = get_args(kind)
        expect(value in choices, f"'{value}' is none of {', '.join(choices)}")


def _goal_in_range(info: MetricInfo) -> None:
    low, high = info.range
    expect(low is None or high is None or low < high, f"range {info.range} is not ordered")
    if info.goal is None:
        return
    inside = (low is None or info.goal >= low) and (high is None or info.goal <= high)
    expect(inside, f"goal {info.goal} is outside the range {info.range}")
    end = {"lower": low, "higher": high, "target": None}[info.direction]
    expect(end is None or info.goal == end, f"goal {info.goal} is not the best value {end}")


def _known_products(info: MetricInfo, products: Collection[str] | None) -> None:
    both = set(info.needs) & set(info.wants)
    expect(not both, f"both needed and wanted: {', '.join(sorted(both))}")
    if products is None:
        raise NotApplicable("no list of products was given")
    names = {name.rpartition(":")[2] for name in (*info.needs, *info.wants)}
    strange = sorted(names - set(products))
    expect(not strange, f"unknown products: {', '.join(strange)}")


def _known_controls(info: MetricInfo, methods: Collection[str] | None) -> None:
    expect(len(info.anchors) in (0, 2), f"{len(info.anchors)} anchors; it takes none or two")
    if methods is None:
        raise NotApplicable("no list of methods was given")
    cells = {n.partition(":")[0] for n in (*info.needs, *info.wants) if ":" in n}
    named = {*info.anchors, *(name for tie in info.expected_order for name in tie), *cells}
    strange = sorted(named - set(methods))
    expect(not strange, f"unknown controls: {', '.join(strange)}")


def _real_anchors(info: MetricInfo, methods: Collection[str] | None) -> None:
    real = info.real_anchors
    expect(len(real) in (0, 2), f"{len(real)} real_anchors; it takes none or two")
    expect(not real or bool(info.anchors), "real_anchors without anchors; a score has both or none")
    expect(len(set(real)) == len(real), f"real_anchors {real} are one and the same")
    floors = [name.removeprefix(FLOOR) for name in real if name.startswith(FLOOR)]
    expect(all(floor.strip() for floor in floors), f"real_anchors {real} hold a floor unnamed")
    expect("oracle" not in real, "real_anchors name the oracle, which real data do not have")
    if methods is None:
        raise NotApplicable("no list of methods was given")
    strange = sorted({name for name in real if not name.startswith(FLOOR)} - set(methods))
    expect(not strange, f"unknown controls in real_anchors: {', '.join(strange)}")
