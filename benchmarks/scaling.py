"""Time and memory of a whole run at 1x, 2x and 4x the scans; prints ratios within this run.

Pairwise distances grow with the square of a site's scans, everything else at most linearly: the
probes' budget is fixed. (Below about 500 scans of seven sites a run is cross-fitted, without
probes, and no measure for larger ones.)
"""

from __future__ import annotations

import multiprocessing
import resource
import tempfile
import time
from pathlib import Path

import pandas as pd
from tabulate import tabulate

SIZES = (700, 1400, 2800)
PAIRWISE = ("distance_pcc", "distance_spearman", "distance_pcc_truth")


def run_once(n: int, out: str, sender: object) -> None:
    from harmbench.config import resolve
    from harmbench.engine.run import run

    config = resolve(methods=["combat"])
    knobs = config.data.model_copy(update={"params": {**config.data.params, "n": n}})
    start = time.perf_counter()
    run(config.model_copy(update={"data": knobs, "inception": "never"}), Path(out))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    sender.send((time.perf_counter() - start, peak))  # type: ignore[attr-defined]


def measure(n: int) -> dict[str, float]:
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    print(f"{n} scans ...", flush=True)
    with tempfile.TemporaryDirectory() as out:
        worker = context.Process(target=run_once, args=(n, out, sender))
        worker.start()
        seconds, peak = receiver.recv()
        worker.join()
        timing = pd.read_csv(Path(out) / "timing.csv").groupby("stage")["seconds"].sum()
    pairwise = timing.reindex(PAIRWISE).sum()
    return {
        "scans": n,
        "whole run, s": seconds,
        "peak, GiB": peak,
        "stages but pairwise, s": timing.sum() - pairwise,
        "pairwise, s": pairwise,
    }


def main() -> None:
    rows = pd.DataFrame([measure(n) for n in SIZES])
    print(tabulate(rows, headers="keys", showindex=False, floatfmt=".2f"))
    print("\nas multiples of the first row")
    print(tabulate(rows / rows.iloc[0], headers="keys", showindex=False, floatfmt=".2f"))


if __name__ == "__main__":
    main()
