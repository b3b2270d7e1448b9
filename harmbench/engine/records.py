"""The record of one score: what a metric returned, on disk."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np

from harmbench.contracts.metric import MetricResult
from harmbench.files.atomic import write_arrays, write_atomic
from harmbench.results.folder import Stage


def keep(result: MetricResult, stage: Stage, cost: dict[str, Any]) -> dict[str, Any]:
    """Write a metric's result and its mark; return the mark.

    No value becomes a skip, one that is not finite a failure, of which nothing is kept.
    """
    overall = result.overall
    if overall is not None and not np.isfinite(overall.value):
        return {"status": "failed", "reason": "the metric returned a value that is not finite"}
    arrays = dict(result.arrays)
    if result.replicates is not None:
        arrays["replicates"] = result.replicates
    if arrays:
        write_arrays(stage.file(".npz"), arrays)
    if result.per_scan is not None:
        table = result.per_scan
        write_atomic(stage.file(".csv"), lambda path: table.to_csv(path, index=False))
    return stage.complete(
        stage=stage.stem.name.rpartition("-")[0],
        **cost,
        status="ok" if overall else "skipped",
        reason=result.reason,
        note=result.note,
        overall=asdict(overall) if overall else None,
        groups={site: asdict(e) for site, e in result.groups.items()},
        target=result.target,
        floors=dict(result.floors),
    )
