"""The record of one score: what a metric returned, on disk."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np

from harmbench.files import write_arrays, write_atomic
from harmbench.metric import MetricResult
from harmbench.store import Stage


def keep(result: MetricResult, stage: Stage, cost: dict[str, Any]) -> dict[str, Any]:
    """Write a metric's result and its mark; return the mark.

    A value that is not finite becomes a failure, no value a skip.
    """
    arrays = dict(result.arrays)
    if result.replicates is not None:
        arrays["replicates"] = result.replicates
    if arrays:
        write_arrays(stage.file(".npz"), arrays)
    if result.per_scan is not None:
        table = result.per_scan
        write_atomic(stage.file(".csv"), lambda path: table.to_csv(path, index=False))
    status, overall = "ok", result.overall
    if overall is None:
        status = "skipped"
    elif not np.isfinite(overall.value):
        status, overall = "failed", None
        result = MetricResult(reason="the metric returned a value that is not finite")
    return stage.complete(
        stage=stage.stem.name.rpartition("-")[0],
        **cost,
        status=status,
        reason=result.reason,
        note=result.note,
        overall=asdict(overall) if overall else None,
        groups={site: asdict(e) for site, e in result.groups.items()},
        target=result.target,
        floors=dict(result.floors),
    )
